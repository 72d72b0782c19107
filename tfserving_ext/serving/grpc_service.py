"""The gRPC services: TensorFlow Serving's PredictionService and ModelService, health and reflection."""

import concurrent.futures
import contextlib
import functools
import importlib
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from tfserving_ext.errors import NannError
from tfserving_ext.serving.classify_regress import classify, multi_inference, regress
from tfserving_ext.serving.inference import Call, ServedModels
from tfserving_ext.serving.model_config import read_config
from tfserving_ext.serving.models import ServingError, invalid
from tfserving_ext.serving.request_log import RequestLog, address
from tfserving_ext.serving.tensors import answer_tensor, parse_tensor

# How `GrpcServer.stop` polls: with no request in the thread pool for so many polls, the last answer has been sent.
_POLL_SECONDS, _QUIET_POLLS = 0.05, 6
SERVICES = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
MAX_ERROR_BYTES = 1024  # As in TensorFlow Serving.


@dataclass(frozen=True)
class GrpcOptions:
    """How the gRPC server accepts requests.

    Attributes:
      threads: the number of requests that run at once.
      queue: how many more requests may wait for a thread; further ones are refused with RESOURCE_EXHAUSTED.
      max_message_bytes: the largest request or answer, in bytes.
      tls: the server's key and certificate, and the certificate of the clients' authority if clients must have a
        certificate, else None; all in PEM. None for plain text.
      socket_path: a Unix socket to listen on as well; None for none.
      channel_arguments: arguments of the gRPC library, by name.
      as_content: whether tensors are answered as bytes; see `answer_tensor`.
    """

    threads: int = 16
    queue: int = 256
    max_message_bytes: int = 128 << 20
    tls: tuple[bytes, bytes, bytes | None] | None = None
    socket_path: str | None = None
    channel_arguments: tuple[tuple[str, str | int], ...] = ()
    as_content: bool = False


def _answers(method: Callable[..., Any]) -> Callable[[Any, bytes, grpc.ServicerContext], Any]:
    """Wraps a method: parses its request, turns errors into gRPC statuses, and logs and counts the request."""
    request_type = inspect.signature(method).parameters["request"].annotation

    @functools.wraps(method)
    def handler(self: "_Service", raw: bytes, context: grpc.ServicerContext) -> Any:
        call, answer = Call("grpc", method.__name__, address(context.peer()), is_active=context.is_active), None
        if (left := context.time_remaining()) is not None:
            call.deadline = call.arrival + left
        try:
            request = _parsed(request_type, raw)
            if (spec := _spec_of(request)) is not None:
                call.asks(spec)
            answer = method(self, request, call)
        except Exception as error:
            call.fail(error)
        self._requests.done(call)
        if call.status != grpc.StatusCode.OK:
            context.abort(call.status, _cut(call.error))
        return answer

    return handler


def _parsed(request_type: Any, raw: bytes) -> Any:
    try:
        return request_type.FromString(raw)
    except DecodeError as error:
        raise ServingError(grpc.StatusCode.INTERNAL, "Exception deserializing request!") from error


def _spec_of(request: Any) -> Any:
    """Returns the ModelSpec of a request or of its first task; None if there is none."""
    return getattr(next(iter(getattr(request, "tasks", [])), request), "model_spec", None)


def _checked_spec(request: Any) -> model_pb2.ModelSpec:
    """Returns the ModelSpec of a request or a task; raises ServingError if it is missing."""
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _cut(message: str) -> str:
    """Truncates an error's text as TensorFlow Serving does."""
    text = message.encode()
    return message if len(text) <= MAX_ERROR_BYTES else text[:MAX_ERROR_BYTES].decode(errors="ignore") + "...TRUNCATED"


class _Service:
    def __init__(self, models: ServedModels, requests: RequestLog, options: GrpcOptions) -> None:
        self._models, self._requests, self._options = models, requests, options

    def add_to(self, server: grpc.Server, name: str) -> None:
        """Registers the methods as the gRPC service `name`.

        The handlers get requests as bytes and parse them: if the gRPC library itself fails to parse a message, it never
        frees the call's memory, so that a client could fill the memory by sending garbage.
        """
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                getattr(self, method), response_serializer=lambda response: response.SerializeToString()
            )
            for method in dir(self)
            if method[0].isupper()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))


class _Prediction(_Service):
    @_answers
    def Predict(self, request: predict_pb2.PredictRequest, call: Call) -> Any:  # noqa: N802
        spec = _checked_spec(request)
        with self._models.use(spec, call) as model:
            signature = model.servable.signature(spec.signature_name)
            # A tensor of a few bytes can expand to 64 MiB, so only inputs of the signature are parsed.
            signature.check_names(set(request.inputs))
            inputs = {}
            for name in sorted(set(signature.proto.inputs) & set(request.inputs)):
                try:
                    inputs[name] = parse_tensor(request.inputs[name])
                except ValueError as error:
                    raise invalid(f"tensor parsing error: {name}") from error
            outputs = model.run(signature, inputs, list(request.output_filter))
        response = predict_pb2.PredictResponse(model_spec=model.spec(spec.signature_name))
        for name, array in outputs.items():
            response.outputs[name].CopyFrom(answer_tensor(array, self._options.as_content))
        return response

    @_answers
    def Classify(self, request: classification_pb2.ClassificationRequest, call: Call) -> Any:  # noqa: N802
        spec = _checked_spec(request)
        with self._models.use(spec, call) as model:
            result = classify(model, spec.signature_name, request.input)
        return classification_pb2.ClassificationResponse(model_spec=model.spec(spec.signature_name), result=result)

    @_answers
    def Regress(self, request: regression_pb2.RegressionRequest, call: Call) -> Any:  # noqa: N802
        spec = _checked_spec(request)
        with self._models.use(spec, call) as model:
            result = regress(model, spec.signature_name, request.input)
        return regression_pb2.RegressionResponse(model_spec=model.spec(spec.signature_name), result=result)

    @_answers
    def MultiInference(self, request: inference_pb2.MultiInferenceRequest, call: Call) -> Any:  # noqa: N802
        if not request.tasks:
            raise invalid("ModelSpec has no name specified.")
        with self._models.use(_checked_spec(request.tasks[0]), call) as model:
            return multi_inference(model, request)

    @_answers
    def GetModelMetadata(self, request: get_model_metadata_pb2.GetModelMetadataRequest, call: Call) -> Any:  # noqa: N802
        spec = _checked_spec(request)
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        packed = any_pb2.Any()
        with self._models.use(spec, call) as model:
            packed.Pack(model.servable.signature_def_map())
        return get_model_metadata_pb2.GetModelMetadataResponse(
            model_spec=model.spec(), metadata={"signature_def": packed}
        )


class _Model(_Service):
    @_answers
    def GetModelStatus(self, request: get_model_status_pb2.GetModelStatusRequest, call: Call) -> Any:  # noqa: N802
        return self._models.manager.status(_checked_spec(request))

    @_answers
    def HandleReloadConfigRequest(self, request: model_management_pb2.ReloadConfigRequest, call: Call) -> Any:  # noqa: N802
        manager = self._models.manager
        manager.apply(read_config(request.config, manager.names()))
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        return response


class _Threads(concurrent.futures.ThreadPoolExecutor):
    """A thread pool that counts the requests that run or wait in it."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "grpc")
        self._lock = threading.Lock()
        self.requests = 0

    def submit(self, *arguments: Any, **named: Any) -> concurrent.futures.Future:
        with self._lock:
            self.requests += 1
        try:
            future = super().submit(*arguments, **named)
        except BaseException:
            self._done()
            raise
        future.add_done_callback(self._done)
        return future

    def _done(self, _: object = None) -> None:
        with self._lock:
            self.requests -= 1


class GrpcServer:
    """The gRPC server.

    Attributes:
      port: the port that it listens on.
    """

    def __init__(self, server: grpc.Server, port: int, threads: _Threads) -> None:
        """Wraps a running server; use `start` to create one."""
        self.port, self._server, self._threads = port, server, threads

    def stop(self, seconds: float) -> None:
        """Refuses new requests, answers the pending ones for at most `seconds`, then stops listening."""
        ended, quiet = self._server.stop(seconds), 0
        # The library also waits for open connections that have no request; this loop does not.
        while not ended.wait(_POLL_SECONDS) and quiet < _QUIET_POLLS:
            quiet = 0 if self._threads.requests else quiet + 1
        self._server.stop(None).wait()


def start(models: ServedModels, host: str, port: int, options: GrpcOptions, log: Callable[..., None]) -> GrpcServer:
    """Starts the gRPC server.

    Args:
      models: the models to serve.
      host: the address to listen on.
      port: the port to listen on; 0 for a free one.
      options: how the server accepts requests.
      log: called with keyword arguments for each finished request.

    Returns:
      The running server.

    Raises:
      NannError: the port or the socket is in use, or the TLS key and certificates are not usable.
    """
    threads = _Threads(options.threads)
    arguments: dict[str, str | int] = {
        "grpc.so_reuseport": 0,  # Otherwise two servers could share a port and answer in turn.
        "grpc.max_receive_message_length": options.max_message_bytes,
        "grpc.max_send_message_length": options.max_message_bytes,
        **dict(options.channel_arguments),
    }
    server = grpc.server(
        threads,
        maximum_concurrent_rpcs=options.threads + options.queue,
        options=list(arguments.items()),
    )
    requests = RequestLog(models, log)
    for service, name in zip((_Prediction, _Model), SERVICES, strict=True):
        service(models, requests, options).add_to(server, name)
    servicer = health.HealthServicer()
    for name in ("", *SERVICES, "PredictionService", "ModelService"):
        servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    _describe_services()
    reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    bound = _add_port(server, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", options)
    if options.socket_path is not None:
        _add_port(server, f"unix:{options.socket_path}", options)
    server.start()
    return GrpcServer(server, bound, threads)


def _describe_services() -> None:
    """Registers the services' descriptors in protobuf's default pool, where reflection looks them up.

    Importing these modules of the client package registers them. The import itself then fails with AttributeError
    under a protobuf release newer than the one the modules were generated for.
    """
    for name in ("model_service_pb2", "prediction_service_pb2"):
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{name}")


def _add_port(server: grpc.Server, where: str, options: GrpcOptions) -> int:
    """Makes the server listen on the address `where` and returns the port."""
    try:
        if options.tls is None:
            bound = server.add_insecure_port(where)
        else:
            key, certificate, authority = options.tls
            credentials = grpc.ssl_server_credentials([(key, certificate)], authority, authority is not None)
            bound = server.add_secure_port(where, credentials)
    except (RuntimeError, ValueError):
        bound = 0
    if not bound:
        place = "a path of this machine" if where.startswith("unix:") else "an address of this machine"
        tls = "" if options.tls is None else ", or the TLS key and certificate are not usable"
        raise NannError(f"cannot listen for gRPC on {where}: in use, or not {place}{tls}")
    return bound
