"""All command-line flags of TensorFlow Serving 2.20, and what each does to the local server.

TensorFlow Serving takes `--flag=value`, and `--flag` alone where the value is true or false. So does `nann serve`,
which takes hyphens for underscores too, and `--flag value`.
"""

import difflib
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tfserving_ext.errors import NannError


class Flag(NamedTuple):
    """A flag.

    Attributes:
      kind: of its value: "bool", "int", "float" or "text".
      ignored: why nothing follows from it here; empty where it works.
      as_here: the value that describes what this server does in any case: then nothing is ignored.
      refused: why it cannot be ignored; empty where it can.
    """

    kind: str
    ignored: str = ""
    as_here: str = ""
    refused: str = ""


_NO_BATCHES = "this server joins no requests into batches"
_NO_TFLITE = "this server runs TensorFlow, not TensorFlow Lite"
_ONE_LOADER = "this server loads versions one after another beside the requests"

FLAGS = {
    "port": Flag("int"),
    "grpc_socket_path": Flag("text"),
    "rest_api_port": Flag("int"),
    "rest_api_num_threads": Flag("int"),
    "rest_api_timeout_in_ms": Flag("int"),
    "rest_api_enable_cors_support": Flag("bool"),
    "enable_batching": Flag("bool", _NO_BATCHES, "false"),
    "allow_version_labels_for_unavailable_models": Flag("bool"),
    "batching_parameters_file": Flag("text", _NO_BATCHES),
    "enable_per_model_batching_parameters": Flag("bool", _NO_BATCHES, "false"),
    "model_config_file": Flag("text"),
    "model_config_file_poll_wait_seconds": Flag("int"),
    "model_name": Flag("text"),
    "model_base_path": Flag("text"),
    "num_load_threads": Flag("int", _ONE_LOADER),
    "num_unload_threads": Flag("int", "a version is closed by the last request that leaves it, or by the loader"),
    "max_num_load_retries": Flag("int"),
    "load_retry_interval_micros": Flag("int"),
    "file_system_poll_wait_seconds": Flag("float"),
    "flush_filesystem_caches": Flag("bool", "the system keeps what it read of files as long as it sees fit", "false"),
    "tensorflow_session_parallelism": Flag("int"),
    "tensorflow_session_config_file": Flag("text"),
    "tensorflow_intra_op_parallelism": Flag("int"),
    "tensorflow_inter_op_parallelism": Flag("int"),
    "use_alts_credentials": Flag(
        "bool",
        as_here="false",
        refused="this server has no ALTS, and would answer in plain text; --ssl_config_file gives TLS",
    ),
    "ssl_config_file": Flag("text"),
    "platform_config_file": Flag("text", "this server has one platform, TensorFlow, with one configuration"),
    "per_process_gpu_memory_fraction": Flag("float"),
    "saved_model_tags": Flag("text"),
    "grpc_channel_arguments": Flag("text"),
    "grpc_max_threads": Flag("int"),
    "enable_model_warmup": Flag("bool"),
    "num_request_iterations_for_warmup": Flag("int"),
    "version": Flag("bool"),
    "monitoring_config_file": Flag("text"),
    "remove_unused_fields_from_bundle_metagraph": Flag("bool", "this server keeps a model's signatures alone", "true"),
    "prefer_tflite_model": Flag("bool", _NO_TFLITE, "false"),
    "num_tflite_pools": Flag("int", _NO_TFLITE),
    "num_tflite_interpreters_per_pool": Flag("int", _NO_TFLITE),
    "enable_signature_method_name_check": Flag("bool"),
    "xla_cpu_compilation_enabled": Flag("bool", "XLA compiles here whatever a model asks it to", "true"),
    "xla_gpu_compilation_enabled": Flag("bool", "XLA compiles here whatever a model asks it to", "true"),
    "enable_profiler": Flag("bool", "this server has no profiler's service", "false"),
    "thread_pool_factory_config_file": Flag("text", "all requests share TensorFlow's own threads"),
    "mixed_precision": Flag("text", "a model runs in the types that it was exported with"),
    "skip_initialize_tpu": Flag("bool", "this server uses no TPU", "true"),
    "enable_grpc_healthcheck_service": Flag("bool", "the service is always there", "true"),
    "enable_serialization_as_tensor_content": Flag("bool"),
}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def read_flags(
    arguments: list[str], options: Mapping[str, bool], say: Callable[[str], None] | None = None
) -> list[str]:
    """A command line without what this server ignores, and with what is true or false as the command's switches.

    Args:
      arguments: as they were given.
      options: of the command, such as `--model-name`; whether each takes a value.
      say: told of each flag that is ignored, one line; standard error by default.

    Returns:
      The arguments that are left for the command.

    Raises:
      NannError: a flag that there is not, or whose value is none of its kind.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    left: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*left, argument, *rest]
        if not argument.startswith("--"):
            left.append(argument)
            continue
        given, equals, value = argument.partition("=")
        option = given.replace("_", "-")
        flag = FLAGS.get(option[2:].replace("-", "_"))
        if option not in options and flag is None:
            raise NannError(_unknown(given, options))
        is_switch = not options[option] if option in options else flag is not None and flag.kind == "bool"
        if is_switch:
            value = str(_truth(given, value)).lower() if equals else "true"
        elif not equals:
            following = next(rest, None)
            if following is None:
                raise NannError(f"{given} needs a value, as in {given}=VALUE")
            value = following
        if option not in options:
            _ignore(given, value, FLAGS[option[2:].replace("-", "_")], say)
        elif not is_switch:
            left.append(f"{option}={value}")
        elif value == "true":
            left.append(option)
        elif (off := "--no-" + option[2:]) in options:
            left.append(off)
    return left


def _ignore(given: str, value: str, flag: Flag, say: Callable[[str], None]) -> None:
    try:
        {"int": int, "float": float}.get(flag.kind, str)(value)
    except ValueError as error:
        raise NannError(f"{given} is {value!r}, it must be a number") from error
    if value == flag.as_here:
        return
    if flag.refused:
        raise NannError(f"{given}={value} is refused: {flag.refused}")
    say(f"note: {given}={value} is ignored: {flag.ignored}")


def _truth(given: str, value: str) -> bool:
    if value.lower() not in _TRUTHS:
        raise NannError(f"{given} is {value!r}, allowed are true, false, 1 and 0")
    return _TRUTHS[value.lower()]


def _unknown(given: str, options: Mapping[str, bool]) -> str:
    flags = {name.replace("_", "-"): name for name in FLAGS}
    every = {f"--{name}": f"--{flag}" for name, flag in flags.items()}
    every = {option: option for option in options if not option.startswith("--no-")} | every
    near = difflib.get_close_matches(given.replace("_", "-"), every, 1, 0.7)
    hint = f"did you mean {every[near[0]]}?" if near else "`nann serve --help` lists the flags"
    return f"{given} is no flag of this server, nor of TensorFlow Serving 2.20; {hint}"
