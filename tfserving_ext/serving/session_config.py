"""The configuration of the TensorFlow session that models run in, from TensorFlow Serving's flags."""

import sys
from collections.abc import Callable
from pathlib import Path

from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2

from tfserving_ext.errors import NannError


def session_config(
    path: Path | None = None,
    parallelism: int = 0,
    intra_op: int = 0,
    inter_op: int = 0,
    memory_fraction: float = 0.0,
    say: Callable[[str], None] | None = None,
) -> config_pb2.ConfigProto:
    """Builds a ConfigProto; the flags, even those left at their defaults, overwrite the fields of the file.

    Args:
      path: a ConfigProto in text form (`--tensorflow_session_config_file`).
      parallelism: the number of threads of both kinds (`--tensorflow_session_parallelism`); 0 for one per core.
      intra_op: the number of threads within an op; if not 0, it replaces `parallelism`.
      inter_op: the number of ops that run at once; if not 0, it replaces `parallelism`.
      memory_fraction: the fraction of a GPU's memory to use (`--per_process_gpu_memory_fraction`); 0 leaves it to
        TensorFlow.
      say: called with one line for each field of the file that is overwritten; prints to standard error by default.

    Raises:
      NannError: the file cannot be read, or is not a ConfigProto in text form.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    config = config_pb2.ConfigProto()
    if path is not None:
        try:
            text_format.Parse(path.read_text(), config)
        except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
            raise NannError(f"{path} is not a ConfigProto in text form: {error}") from error
    by_flags = {
        "intra_op_parallelism_threads": (config, intra_op or parallelism, "--tensorflow_intra_op_parallelism"),
        "inter_op_parallelism_threads": (config, inter_op or parallelism, "--tensorflow_inter_op_parallelism"),
        "per_process_gpu_memory_fraction": (config.gpu_options, memory_fraction, "--per_process_gpu_memory_fraction"),
    }
    for field, (message, value, flag) in by_flags.items():
        found = getattr(message, field)
        if found not in (0, value):
            say(
                f"note: {field}: {found:g} in {path} is ignored: as in TensorFlow Serving, {flag} ({value:g}) "
                "overwrites it"
            )
        if found != value:
            setattr(message, field, value)
    return config
