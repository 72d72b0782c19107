"""All command-line flags of TensorFlow Serving 2.20, and their effect on the local server.

TensorFlow Serving accepts `--flag=value`, and `--flag` alone for a boolean. `nann serve` accepts both, and also hyphens
in place of underscores and `--flag value`.
"""

import difflib
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tfserving_ext.errors import NannError


class Flag(NamedTuple):
    """A flag of TensorFlow Serving.

    Attributes:
      kind: the type of its value: "bool", "int", "float" or "text".
      ignored: why the flag has no effect here; empty if it has one.
      as_here: the value that describes what this server does anyway; given this value, the flag is accepted silently.
      refused: why the flag must be refused rather than ignored; empty if it need not be.
    """

    kind: str
    ignored: str = ""
    as_here: str = ""
    refused: str = ""


_NO_BATCHES = "this server does not batch requests"
_NO_TFLITE = "this server runs TensorFlow, not TensorFlow Lite"
_ONE_LOADER = "this server loads versions one at a time, while it serves requests"

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
    "num_unload_threads": Flag("int", "a version is closed by the last request that uses it, or by the loader"),
    "max_num_load_retries": Flag("int"),
    "load_retry_interval_micros": Flag("int"),
    "file_system_poll_wait_seconds": Flag("float"),
    "flush_filesystem_caches": Flag("bool", "this server leaves the file cache to the operating system", "false"),
    "tensorflow_session_parallelism": Flag("int"),
    "tensorflow_session_config_file": Flag("text"),
    "tensorflow_intra_op_parallelism": Flag("int"),
    "tensorflow_inter_op_parallelism": Flag("int"),
    "use_alts_credentials": Flag(
        "bool",
        as_here="false",
        refused="this server has no ALTS and would answer in plain text; --ssl_config_file enables TLS",
    ),
    "ssl_config_file": Flag("text"),
    "platform_config_file": Flag("text", "this server has only one platform, TensorFlow, and one configuration of it"),
    "per_process_gpu_memory_fraction": Flag("float"),
    "saved_model_tags": Flag("text"),
    "grpc_channel_arguments": Flag("text"),
    "grpc_max_threads": Flag("int"),
    "enable_model_warmup": Flag("bool"),
    "num_request_iterations_for_warmup": Flag("int"),
    "version": Flag("bool"),
    "monitoring_config_file": Flag("text"),
    "remove_unused_fields_from_bundle_metagraph": Flag("bool", "this server keeps only a model's signatures", "true"),
    "prefer_tflite_model": Flag("bool", _NO_TFLITE, "false"),
    "num_tflite_pools": Flag("int", _NO_TFLITE),
    "num_tflite_interpreters_per_pool": Flag("int", _NO_TFLITE),
    "enable_signature_method_name_check": Flag("bool"),
    "xla_cpu_compilation_enabled": Flag("bool", "XLA compiles whatever a model marks for it", "true"),
    "xla_gpu_compilation_enabled": Flag("bool", "XLA compiles whatever a model marks for it", "true"),
    "enable_profiler": Flag("bool", "this server has no profiler service", "false"),
    "thread_pool_factory_config_file": Flag("text", "all requests share TensorFlow's own thread pools"),
    "mixed_precision": Flag("text", "a model runs with the types that it was exported with"),
    "skip_initialize_tpu": Flag("bool", "this server uses no TPU", "true"),
    "enable_grpc_healthcheck_service": Flag("bool", "the health service is always enabled", "true"),
    "enable_serialization_as_tensor_content": Flag("bool"),
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def read_flags(
    arguments: list[str], options: Mapping[str, bool], say: Callable[[str], None] | None = None
) -> list[str]:
    """Translates TensorFlow Serving's flags into the command's own options.

    Flags that have no effect here are dropped, and booleans become the command's switches.

    Args:
      arguments: the command line as given.
      options: the command's options, such as `--model-name`; True for each that takes a value.
      say: called with one line for each flag that is ignored; prints to standard error by default.

    Returns:
      The arguments for the command.

    Raises:
      NannError: a flag is unknown, or its value is not of its type.
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
            value = str(_boolean(given, value)).lower() if equals else "true"
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


def _boolean(given: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise NannError(f"{given} is {value!r}, allowed are true, false, 1 and 0")
    return _BOOLEANS[value.lower()]


def _unknown(given: str, options: Mapping[str, bool]) -> str:
    flags = {name.replace("_", "-"): name for name in FLAGS}
    every = {f"--{name}": f"--{flag}" for name, flag in flags.items()}
    every = {option: option for option in options if not option.startswith("--no-")} | every
    near = difflib.get_close_matches(given.replace("_", "-"), every, 1, 0.7)
    hint = f"did you mean {every[near[0]]}?" if near else "`nann serve --help` lists the flags"
    return f"{given} is not a flag of this server or of TensorFlow Serving 2.20; {hint}"
