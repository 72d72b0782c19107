"""`nann serve` and `nann smoke`. The flags are TensorFlow Serving's, with its underscores or with hyphens."""

from pathlib import Path
from typing import Annotated

import typer

from tfserving_ext.errors import NannError
from tfserving_ext.progress import outcome

_SERVE_EXAMPLES = """Example: nann serve models/nann --port 8500 --rest-api-port 8501

nann serve --model_config_file models.config --monitoring_config_file monitoring.config"""


def serve(
    base_path: Annotated[
        Path | None, typer.Argument(help="A folder of versions, such as models/nann with 1/ in it.")
    ] = None,
    name: Annotated[str, typer.Option("--model-name", "--name", help="The model's name in requests.")] = "nann",
    model_base_path: Annotated[Path | None, typer.Option(help="The same as the argument.")] = None,
    model_config_file: Annotated[
        Path | None, typer.Option(help="A ModelServerConfig in text form: several models, policies, labels.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="gRPC port; 8500, or a free one where it is taken.")] = None,
    rest_api_port: Annotated[int | None, typer.Option(help="REST port; 8501, or a free one.")] = None,
    grpc_max_threads: Annotated[int, typer.Option(help="gRPC requests that run at once.", min=1, max=1024)] = 16,
    grpc_max_queue: Annotated[
        int, typer.Option(help="gRPC requests that may wait; one more gets RESOURCE_EXHAUSTED.", min=0)
    ] = 256,
    grpc_max_message_mb: Annotated[int, typer.Option(help="Of a gRPC request or answer.", min=1, max=2047)] = 128,
    file_system_poll_wait_seconds: Annotated[
        float, typer.Option(help="Between two looks for new versions; 0 for never.", min=0)
    ] = 1.0,
    max_num_load_retries: Annotated[int, typer.Option(help="Tries of a version that did not load.", min=0)] = 0,
    load_retry_interval_micros: Annotated[int, typer.Option(help="Between two tries.", min=0)] = 60_000_000,
    allow_version_labels_for_unavailable_models: Annotated[
        bool, typer.Option(help="Labels may be of versions that are not loaded yet.")
    ] = False,
    monitoring_config_file: Annotated[
        Path | None, typer.Option(help="A MonitoringConfig in text form; enables Prometheus' metrics.")
    ] = None,
    ssl_config_file: Annotated[
        Path | None, typer.Option(help="An SSLConfig in text form: TLS for gRPC, and clients' certificates.")
    ] = None,
    log_requests: Annotated[bool, typer.Option(help="One line of JSON per request on standard error.")] = False,
) -> None:
    """Serve SavedModels with TensorFlow Serving's API, for development."""
    from tfserving_ext.serving.grpc_service import GrpcOptions
    from tfserving_ext.serving.manager import LoadOptions
    from tfserving_ext.serving.rest import RestOptions
    from tfserving_ext.serving.server import ServerOptions, log_json, run_forever
    from tfserving_ext.serving.text_protos import read_metrics_path, read_tls

    given = [path for path in (base_path, model_base_path, model_config_file) if path is not None]
    if len(given) != 1:
        raise NannError(
            f"{len(given)} of a folder of versions, --model_base_path and --model_config_file are given; one is needed"
        )
    options = ServerOptions(
        host=host,
        grpc_port=port,
        rest_port=rest_api_port,
        load=LoadOptions(
            file_system_poll_wait_seconds,
            max_num_load_retries,
            load_retry_interval_micros / 1e6,
            allow_version_labels_for_unavailable_models,
        ),
        grpc=GrpcOptions(
            threads=grpc_max_threads,
            queue=grpc_max_queue,
            max_message_bytes=grpc_max_message_mb << 20,
            tls=None if ssl_config_file is None else read_tls(ssl_config_file),
        ),
        rest=RestOptions(None if monitoring_config_file is None else read_metrics_path(monitoring_config_file)),
        **({"log": log_json} if log_requests else {}),
    )
    if model_config_file is None:
        run_forever({name: given[0]}, options)
    else:
        run_forever(_models(model_config_file), options)


def _models(path: Path) -> dict:
    """The models of a configuration file, by name."""
    from tfserving_ext.serving.model_config import parse_config, read_config
    from tfserving_ext.serving.models import ServingError

    try:
        return dict(read_config(parse_config(path.read_text())))
    except (NannError, ServingError, UnicodeDecodeError) as error:
        raise NannError(f"{path}: {error}") from error


def smoke(
    target: Annotated[str, typer.Argument(help="HOST:PORT of the gRPC port.")] = "127.0.0.1:8500",
    name: Annotated[str, typer.Option(help="The model's name.")] = "nann",
) -> None:
    """Ask a running server, local or TensorFlow Serving, for its default answer: the original's smoke request."""
    from tfserving_ext.serving.client import smoke as run

    for key, answer in run(target, name).items():
        outcome("smoke", f"{key} {answer.dtype} {list(answer.shape)}, first {answer.ravel()[:5].tolist()}")


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `nann`."""
    # `--rest_api_port` is `--rest-api-port`: what starts TensorFlow Serving starts this server.
    settings = {"token_normalize_func": lambda name: name.replace("_", "-")}
    app.command(epilog=_SERVE_EXAMPLES, context_settings=settings)(serve)
    app.command(epilog="Example: nann smoke 127.0.0.1:8500")(smoke)
