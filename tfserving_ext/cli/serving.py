"""`nann serve` and `nann smoke`; `serve` takes TensorFlow Serving's flags, with underscores or hyphens."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome

_SERVE_EXAMPLES = """Example: nann serve models/nann --port 8500 --rest-api-port 8501

nann serve --model_config_file models.config --monitoring_config_file monitoring.config"""


class _ServeCommand(TyperCommand):
    """Accepts TensorFlow Serving's command lines, and prints plain help, in which long option names fit."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = None
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from tfserving_ext.serving.flags import read_flags

        takes_value = {}
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "option":
                names = (*parameter.opts, *parameter.secondary_opts)
                takes_value.update(dict.fromkeys(names, not parameter.is_flag))  # type: ignore[attr-defined]
        return super().parse_args(ctx, read_flags(args, takes_value))


def serve(
    base_path: Annotated[
        Path | None,
        typer.Argument(help="The folder that contains the versions, such as models/nann with models/nann/1."),
    ] = None,
    name: Annotated[str, typer.Option("--model-name", "--name", help="The model's name in requests.")] = "nann",
    model_base_path: Annotated[Path | None, typer.Option(help="The same as the argument base_path.")] = None,
    model_config_file: Annotated[
        Path | None, typer.Option(help="A ModelServerConfig in text form: several models, version policies, labels.")
    ] = None,
    model_config_file_poll_wait_seconds: Annotated[
        float, typer.Option(help="Seconds between two checks of that file for changes; 0 disables them.", min=0)
    ] = 0.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="gRPC port; 8500 by default, or a free one if it is in use.")] = None,
    grpc_socket_path: Annotated[str | None, typer.Option(help="A Unix socket on which gRPC listens as well.")] = None,
    rest_api_port: Annotated[
        int | None, typer.Option(help="REST port; 8501 by default, or a free one if it is in use.")
    ] = None,
    grpc_max_threads: Annotated[int, typer.Option(help="gRPC requests that run at once.", min=1, max=1024)] = 16,
    grpc_max_queue: Annotated[
        int, typer.Option(help="gRPC requests that may wait; further ones get RESOURCE_EXHAUSTED.", min=0)
    ] = 256,
    grpc_max_message_mb: Annotated[
        int, typer.Option(help="Largest gRPC request or answer, in MiB.", min=1, max=2047)
    ] = 128,
    grpc_channel_arguments: Annotated[
        str, typer.Option(help="Arguments of the gRPC library, such as grpc.max_connection_age_ms=2000,NAME=VALUE.")
    ] = "",
    rest_api_num_threads: Annotated[int, typer.Option(help="REST requests that run at once.", min=1, max=1024)] = 16,
    rest_api_max_queue: Annotated[
        int, typer.Option(help="REST requests that may wait; further ones get 503.", min=0)
    ] = 256,
    rest_api_timeout_in_ms: Annotated[
        int, typer.Option(help="Time after which a REST request gets 504.", min=1)
    ] = 30_000,
    rest_api_enable_cors_support: Annotated[bool, typer.Option(help="Let web pages of any origin use REST.")] = False,
    rest_api_tls: Annotated[
        bool, typer.Option(help="Use the TLS of --ssl_config_file for REST too, which TensorFlow Serving cannot.")
    ] = False,
    file_system_poll_wait_seconds: Annotated[
        float, typer.Option(help="Seconds between two checks for new versions; 0 disables them.", min=0)
    ] = 1.0,
    max_num_load_retries: Annotated[
        int, typer.Option(help="How often to retry a version that failed to load.", min=0)
    ] = 0,
    load_retry_interval_micros: Annotated[
        int, typer.Option(help="Microseconds between two tries; 0 or less for no delay.")
    ] = 60_000_000,
    allow_version_labels_for_unavailable_models: Annotated[
        bool, typer.Option(help="Accept labels for versions that are not loaded yet.")
    ] = False,
    saved_model_tags: Annotated[
        str, typer.Option(help="Tags of the SavedModel's graph to load, separated by commas.")
    ] = "serve",
    enable_model_warmup: Annotated[bool, typer.Option(help="Run a version's warm-up records before it serves.")] = True,
    num_request_iterations_for_warmup: Annotated[
        int, typer.Option(help="How often to run each warm-up record; 0 means once.", min=0)
    ] = 0,
    tensorflow_session_config_file: Annotated[
        Path | None, typer.Option(help="A ConfigProto in text form; the next four flags overwrite their fields.")
    ] = None,
    tensorflow_session_parallelism: Annotated[
        int, typer.Option(help="Threads within ops and across ops; 0 for one per core.", min=0)
    ] = 0,
    tensorflow_intra_op_parallelism: Annotated[
        int, typer.Option(help="Threads within an op; 0 for --tensorflow-session-parallelism.", min=0)
    ] = 0,
    tensorflow_inter_op_parallelism: Annotated[int, typer.Option(help="Ops that run at once; 0 likewise.", min=0)] = 0,
    per_process_gpu_memory_fraction: Annotated[
        float, typer.Option(help="Fraction of a GPU's memory to use; 0 leaves it to TensorFlow.", min=0, max=1)
    ] = 0.0,
    enable_signature_method_name_check: Annotated[
        bool, typer.Option(help="Classify and Regress refuse signatures with another method_name.")
    ] = False,
    enable_serialization_as_tensor_content: Annotated[bool, typer.Option(help="Answer tensors as bytes.")] = False,
    monitoring_config_file: Annotated[
        Path | None, typer.Option(help="A MonitoringConfig in text form; enables the Prometheus metrics.")
    ] = None,
    ssl_config_file: Annotated[
        Path | None, typer.Option(help="An SSLConfig in text form: TLS for gRPC, and client certificates.")
    ] = None,
    deltas: Annotated[
        Path | None,
        typer.Option(
            help="A folder of updates that `nann upsert` and `nann delete` write, to follow.", envvar="NANN_DELTAS"
        ),
    ] = None,
    log_requests: Annotated[
        bool, typer.Option(help="Log each request and event as one line of JSON on standard error.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the versions and exit.")] = False,
) -> None:
    """Serve SavedModels with TensorFlow Serving's API, for development.

    All flags of TensorFlow Serving 2.20 are accepted; docs/serving.md lists those that have no effect here.
    """
    if version:
        _print_versions()
        return
    from tfserving_ext.serving.config_file import read_models
    from tfserving_ext.serving.grpc_service import GrpcOptions
    from tfserving_ext.serving.models import ModelOptions
    from tfserving_ext.serving.request_log import log_events, log_json
    from tfserving_ext.serving.rest import RestOptions
    from tfserving_ext.serving.server import ServerOptions, run_forever
    from tfserving_ext.serving.session_config import session_config
    from tfserving_ext.serving.text_protos import read_metrics_path
    from tfserving_ext.serving.versions import LoadOptions

    source = _only(base_path, model_base_path, model_config_file)
    _check_poll(model_config_file, model_config_file_poll_wait_seconds)
    tls = _tls(ssl_config_file, rest_api_tls)
    parallelism = (tensorflow_session_parallelism, tensorflow_intra_op_parallelism, tensorflow_inter_op_parallelism)
    options = ServerOptions(
        host=host,
        grpc_port=port,
        rest_port=rest_api_port,
        load=LoadOptions(
            file_system_poll_wait_seconds,
            max_num_load_retries,
            max(load_retry_interval_micros, 0) / 1e6,
            allow_version_labels_for_unavailable_models,
        ),
        model=ModelOptions(
            tags=tuple(saved_model_tags.split(",")),
            session=session_config(tensorflow_session_config_file, *parallelism, per_process_gpu_memory_fraction),
            warm_up_runs=max(num_request_iterations_for_warmup, 1) if enable_model_warmup else 0,
        ),
        grpc=GrpcOptions(
            threads=grpc_max_threads,
            queue=grpc_max_queue,
            max_message_bytes=grpc_max_message_mb << 20,
            tls=tls,
            socket_path=grpc_socket_path,
            channel_arguments=_channel_arguments(grpc_channel_arguments),
            as_content=enable_serialization_as_tensor_content,
        ),
        rest=RestOptions(
            metrics_path=None if monitoring_config_file is None else read_metrics_path(monitoring_config_file),
            threads=rest_api_num_threads,
            queue=rest_api_max_queue,
            timeout_seconds=rest_api_timeout_in_ms / 1e3,
            cors=rest_api_enable_cors_support,
            tls=tls if rest_api_tls else None,
        ),
        check_methods=enable_signature_method_name_check,
        config_file=model_config_file,
        config_poll_seconds=model_config_file_poll_wait_seconds,
        deltas=deltas,
        log=log_json if log_requests else log_events,
    )
    run_forever({name: source} if model_config_file is None else read_models(model_config_file), options)


def _only(*given: Path | None) -> Path:
    """Returns the one path that is given; raises NannError if there is none or several."""
    paths = [path for path in given if path is not None]
    if len(paths) != 1:
        raise NannError(
            f"{len(paths)} of base_path, --model_base_path and --model_config_file are given, exactly one is needed"
        )
    return paths[0]


def _check_poll(config_file: Path | None, seconds: float) -> None:
    if seconds and config_file is None:
        raise NannError("--model_config_file_poll_wait_seconds is given without a --model_config_file to poll")


def _tls(file: Path | None, for_rest: bool) -> Any:
    from tfserving_ext.serving.text_protos import read_tls

    if for_rest and file is None:
        raise NannError("--rest_api_tls is given without an --ssl_config_file, which has the key and the certificate")
    return None if file is None else read_tls(file)


def _print_versions() -> None:
    import tensorflow as tf

    from tfserving_ext import __version__

    print(f"nann: {__version__}\nTensorFlow: {tf.__version__}\nThe API and the flags of TensorFlow Serving 2.20")


def _channel_arguments(text: str) -> tuple[tuple[str, str | int], ...]:
    found: list[tuple[str, str | int]] = []
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise NannError(f"--grpc_channel_arguments has {part!r}, each part must be NAME=VALUE")
        found.append((name, int(value) if value.removeprefix("-").isdecimal() else value))
    return tuple(found)


def smoke(
    target: Annotated[str, typer.Argument(help="HOST:PORT of the gRPC port.")] = "127.0.0.1:8500",
    name: Annotated[str, typer.Option(help="The model's name.")] = "nann",
    tls: Annotated[
        bool, typer.Option("--tls", help="Use TLS; the server's certificate must be trusted by this machine.")
    ] = False,
    ca: Annotated[Path | None, typer.Option(help="Use TLS with the certificates of these authorities (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option(help="PEM file of the client's certificate; requires --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the key of --cert.")] = None,
    filter: Annotated[
        str | None, typer.Option(help="Answer with the items that pass this filter, of their attributes, alone.")
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(help="The SavedModel that is served: send its warm-up record, whose values the model knows."),
    ] = None,
) -> None:
    """Send one simple request to a running server, local or TensorFlow Serving, and print the start of each output."""
    from tfserving_ext.serving.client import smoke as run
    from tfserving_ext.serving.tls import ClientTls

    by_tls = tls or (ca, cert, key) != (None, None, None)
    for output, answer in run(target, name, ClientTls(ca, cert, key) if by_tls else None, filter, path).items():
        first = [one.decode(errors="replace") if isinstance(one, bytes) else one for one in answer.ravel()[:5].tolist()]
        outcome("smoke", f"{output} {answer.dtype} {list(answer.shape)}, first {first}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    # Underscores in option names become hyphens, so that TensorFlow Serving's command lines start this server.
    settings = {"token_normalize_func": lambda name: name.replace("_", "-")}
    app.command(cls=_ServeCommand, epilog=_SERVE_EXAMPLES, context_settings=settings)(serve)
    app.command(epilog="Example: nann smoke 127.0.0.1:8500 --name ranker --path models/ranker/1")(smoke)
