"""Reads TensorFlow Serving's configuration files whose protos are not part of its client package."""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from tfserving_ext.errors import NannError

_STRING, _BOOL, _MESSAGE = (
    descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
)
# The fields of each message: name, number, type and message type, as in tensorflow_serving/config/*.proto.
_MESSAGES: dict[str, list[tuple[str, int, int, str]]] = {
    "SSLConfig": [
        ("server_key", 1, _STRING, ""),
        ("server_cert", 2, _STRING, ""),
        ("custom_ca", 3, _STRING, ""),
        ("client_verify", 4, _BOOL, ""),
    ],
    "PrometheusConfig": [("enable", 1, _BOOL, ""), ("path", 2, _STRING, "")],
    "MonitoringConfig": [("prometheus_config", 1, _MESSAGE, ".nann.PrometheusConfig")],
}
DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="nann_serving_config.proto", package="nann", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, type_name in fields:
            message.field.add(
                name=field,
                number=number,
                type=kind,
                type_name=type_name or None,
                label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"nann.{name}")) for name in _MESSAGES}


def _read(path: Path, name: str) -> Any:
    try:
        return text_format.Parse(path.read_text(), _classes()[name]())
    except FileNotFoundError as error:
        raise NannError(f"{path} does not exist") from error
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise NannError(f"{path} is not a {name} in text form: {error}") from error


def read_tls(path: Path) -> tuple[bytes, bytes, bytes | None]:
    """Reads a `--ssl_config_file`, an SSLConfig in text form.

    Returns:
      The server's key, its certificate, and the certificate of the clients' authority, all in PEM; the last is None if
      clients need no certificate.

    Raises:
      NannError: the file is not an SSLConfig, or lacks the key, the certificate or the authority.
    """
    config = _read(path, "SSLConfig")
    for field in ("server_key", "server_cert"):
        if not getattr(config, field):
            raise NannError(f"{path} has no {field}")
    if config.client_verify and not config.custom_ca:
        raise NannError(f"{path} has client_verify but no custom_ca to verify clients with")
    authority = config.custom_ca.encode() if config.client_verify else None
    return config.server_key.encode(), config.server_cert.encode(), authority


def read_metrics_path(path: Path) -> str | None:
    """Reads a `--monitoring_config_file`, a MonitoringConfig in text form.

    Returns:
      The URL path of the Prometheus metrics; None if they are not enabled.

    Raises:
      NannError: the file is not a MonitoringConfig, or the path does not start with a slash.
    """
    config = _read(path, "MonitoringConfig").prometheus_config
    if not config.enable:
        return None
    found = config.path or DEFAULT_METRICS_PATH
    if not found.startswith("/"):
        raise NannError(f"{path}: the path is {found!r}, it must start with /")
    return found
