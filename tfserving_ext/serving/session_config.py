"""The TensorFlow session that models run in, as TensorFlow Serving's flags describe it."""

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
    """A ConfigProto; what the flags describe overwrites the file, also where they are not given.

    Args:
      path: a ConfigProto in text form (`--tensorflow_session_config_file`).
      parallelism: threads of both kinds (`--tensorflow_session_parallelism`); 0 for one per core.
      intra_op: threads within an op, in place of `parallelism` where it is not 0.
      inter_op: ops at once, in place of `parallelism` where it is not 0.
      memory_fraction: of a GPU's memory (`--per_process_gpu_memory_fraction`); 0 for TensorFlow's choice.
      say: told of what of the file is overwritten, one line each; standard error by default.

    Raises:
      NannError: the file cannot be read, or is no ConfigProto.
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
            say(f"note: {field}: {found:g} of {path} is ignored: as in TensorFlow Serving, {flag} says it ({value:g})")
        if found != value:
            setattr(message, field, value)
    return config
