"""The REST API: `/v1/models/NAME[/versions/N][/metadata]` and its methods, as TensorFlow Serving answers them.

Unlike TensorFlow Serving, it limits a body to 64 MiB, limits how many requests wait, has `/healthz` and `/readyz`, and
formats its JSON with other white space. json_tensors.py lists the differences in values and texts.
"""

import asyncio
import json
import re
import socket
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import tensorflow as tf
import uvicorn
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import model_pb2

from tfserving_ext.errors import NannError
from tfserving_ext.serving import json_examples, json_tensors
from tfserving_ext.serving.classify_regress import classify, regress
from tfserving_ext.serving.inference import Call, ServedModels
from tfserving_ext.serving.models import ServingError, invalid
from tfserving_ext.serving.request_log import RequestLog
from tfserving_ext.serving.rest_gate import Gate
from tfserving_ext.serving.tls import server_context

MAX_BODY_BYTES = 64 << 20
MAX_BODIES_BYTES = 16 * MAX_BODY_BYTES  # Of all requests that are running or waiting, together.
GRACE_SECONDS = 5
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,19})|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(_MODEL + r":predict")
_OTHER_METHODS = re.compile(_MODEL + r":(?P<method>classify|regress)")
_PREFIX = re.compile(r"/v1/models/(?P<name>[^/:]+)")
_NO_NAME = re.compile(r"/v1/models(?:/versions/\d+|/labels/[^/:]+)?")
_STATUS = re.compile(_MODEL)
_METADATA = re.compile(_MODEL + r"/metadata")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_NOT_FOUND = """<HTML><HEAD>
<TITLE>404 Not Found</TITLE>
</HEAD><BODY>
<H1>Not Found</H1>
</BODY></HTML>
"""
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
# The HTTP status for each gRPC status, as in TensorFlow Serving; 500 for all others.
_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


@dataclass(frozen=True)
class RestOptions:
    """How the REST server accepts requests.

    Attributes:
      metrics_path: the URL path of the Prometheus metrics; None to not serve them.
      threads: the number of requests that run at once.
      queue: how many more requests may wait for a thread; further ones are refused with 503.
      timeout_seconds: the time after a request's arrival when it is answered with 504.
      cors: whether pages of any origin may use the server from a browser.
      tls: key and certificates as in `GrpcOptions`; None for plain text.
    """

    metrics_path: str | None = None
    threads: int = 16
    queue: int = 256
    timeout_seconds: float = 30.0
    cors: bool = False
    tls: tuple[bytes, bytes, bytes | None] | None = None


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value, indent=4) + "\n", status, media_type="application/json")


def _dict(message: Message) -> dict[str, Any]:
    """Converts a protobuf message to JSON, with the proto's own field names and the fields that are not set."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _spec(found: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(found["name"]))
    if found["version"]:
        if int(found["version"]) >= 1 << 63:
            raise invalid(f"Version {found['version']} is not an int64")
        spec.version.value = int(found["version"])
    elif found["label"]:
        spec.version_label = urllib.parse.unquote(found["label"])
    return spec


def _entry(method: str, path: str) -> str:
    """Returns the method under which a request is logged and counted."""
    if _PREDICT.fullmatch(path) and method == "POST":
        return "Predict"
    if (found := _OTHER_METHODS.fullmatch(path)) and method == "POST":
        return str(found["method"]).capitalize()
    return "GetModelMetadata" if _METADATA.fullmatch(path) else "GetModelStatus"


def _target(request: Request) -> str:
    """Returns the request's path, undecoded and with its query: TensorFlow Serving matches it in this form."""
    path = request.scope["raw_path"].decode("latin-1")
    return f"{path}?{request.url.query}" if request.url.query else path


class _TooLongError(ServingError):
    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, f"The body has more than {MAX_BODY_BYTES} bytes")


def _unzipped(body: bytes) -> bytes:
    """Decompresses a gzip body, at most a byte more than is allowed; returns b"" if it is not gzip.

    TensorFlow Serving takes such a body as empty too.
    """
    try:
        return zlib.decompressobj(wbits=31).decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        return b""


def _refusal(call: Call, error: Exception) -> Response:
    """Records in `call` why a request failed, and returns the error's response."""
    call.fail(error)
    status = 413 if isinstance(error, _TooLongError) else _HTTP.get(call.status, 500)
    return _json({"error": call.error}, status)


class _Api:
    def __init__(self, models: ServedModels, options: RestOptions, log: Callable[..., None]) -> None:
        self._models, self._options = models, options
        self.gate, self._requests = Gate(options.threads, options.queue, MAX_BODIES_BYTES), RequestLog(models, log)

    async def handle(self, request: Request) -> Response:
        """Answers a request; only those for a model may wait for a thread of the gate."""
        path = _target(request)
        if path == self._options.metrics_path:
            return Response(await run_in_threadpool(self._models.metrics.text), media_type="text/plain")
        if request.method in ("GET", "HEAD") and path in ("/healthz", "/readyz"):
            return self._health(path)
        if not path.startswith("/v1/"):
            return Response(_NOT_FOUND, 404, media_type="text/html")
        client = "" if request.client is None else f"{request.client.host}:{request.client.port}"
        call = Call("rest", _entry(request.method, path), client)
        call.deadline = call.arrival + self._options.timeout_seconds
        if found := _PREFIX.match(path):
            call.model = urllib.parse.unquote(found["name"])
        try:
            response = await asyncio.wait_for(self._respond(request, call), self._options.timeout_seconds)
        except asyncio.TimeoutError:
            response = _refusal(
                call, ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")
            )
        except ClientDisconnect:
            response = _refusal(call, ServingError(grpc.StatusCode.CANCELLED, "the client left"))
        except Exception as error:
            response = _refusal(call, error)
        self._requests.done(call)
        response.headers.update(_CORS if self._options.cors else {})
        return response

    def _health(self, path: str) -> Response:
        """Answers `/healthz`, always with 200, and `/readyz`, with 200 if every configured model has a version."""
        manager = self._models.manager
        missing = [name for name in manager.names() if not manager.available(name)] if path == "/readyz" else []
        text = f"no version is available of {', '.join(missing)}\n" if missing else "ok\n"
        return Response(text, 503 if missing else 200, media_type="text/plain")

    async def _respond(self, request: Request, call: Call) -> Response:
        if request.method == "GET":  # Status and metadata are cheap, and must be available when the server is busy.
            return await run_in_threadpool(self._answer, request, b"", call)
        with self.gate.entered() as keep:
            body = bytearray()
            async for chunk in request.stream():
                if len(body) + len(chunk) > MAX_BODY_BYTES:
                    raise _TooLongError
                keep(len(chunk))
                body += chunk
            return await self.gate.run(lambda: self._answer(request, bytes(body), call), request.is_disconnected)

    def _answer(self, request: Request, body: bytes, call: Call) -> Response:
        method, path = request.method, _target(request)
        if request.headers.get("Content-Encoding", "").lower() == "gzip":
            body = _unzipped(body)
            if len(body) > MAX_BODY_BYTES:
                raise _TooLongError
        if method == "OPTIONS":
            from_a_page = request.headers.get("Origin", "null") != "null"
            if self._options.cors:
                return Response(b"", 200 if from_a_page else 400, media_type="text/html; charset=ISO-8859-1")
            if from_a_page:
                return Response(b"", media_type="application/json")
        if _NO_NAME.fullmatch(path):
            raise invalid("Missing model name in request.")
        if method == "POST" and (found := _PREDICT.fullmatch(path)):
            return self._predict(_spec(found), body, call)
        if method == "POST" and (found := _OTHER_METHODS.fullmatch(path)):
            return self._examples(_spec(found), found["method"], body, call)
        if method == "GET" and (found := _STATUS.fullmatch(path)):
            return _json(_dict(self._models.manager.status(_spec(found))))
        if method == "GET" and (found := _METADATA.fullmatch(path)):
            return self._metadata(_spec(found), call)
        raise invalid(f"Malformed request: {method} {path}")

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes, call: Call) -> Response:
        with self._models.use(spec, call) as model:
            request = json_tensors.read_request(body)
            spec.signature_name = request.get("signature_name") or "serving_default"
            call.asks(spec)
            signature = model.servable.signatures.get(spec.signature_name)
            if signature is None:
                raise invalid(f'Serving signature name: "{spec.signature_name}" not found in signature def')
            types = {name: tf.dtypes.as_dtype(info.dtype) for name, info in signature.proto.inputs.items()}
            by_row = "instances" in request
            if by_row:
                inputs = json_tensors.rows(request["instances"], types)
            else:
                inputs = json_tensors.columns(request["inputs"], types)
            outputs = model.run(signature, inputs)
        if by_row:
            return _json({"predictions": json_tensors.row_outputs(outputs)})
        return _json({"outputs": json_tensors.column_outputs(outputs)})

    def _examples(self, spec: model_pb2.ModelSpec, method: str, body: bytes, call: Call) -> Response:
        """Answers `:classify` and `:regress`."""
        with self._models.use(spec, call) as model:
            spec.signature_name, given = json_examples.read_examples(body, method)
            call.asks(spec)
            if method == "regress":
                values = regress(model, spec.signature_name, given).regressions
                return _json({"results": [json_tensors.number(one.value) for one in values]})
            classified = classify(model, spec.signature_name, given).classifications
        results = [[[entry.label, json_tensors.number(entry.score)] for entry in one.classes] for one in classified]
        return _json({"results": results})

    def _metadata(self, spec: model_pb2.ModelSpec, call: Call) -> Response:
        with self._models.use(spec, call) as model:
            as_dict = _dict(model.servable.signature_def_map())
        model_spec = {"name": model.name, "version": str(model.version), "signature_name": ""}
        return _json({"model_spec": model_spec, "metadata": {"signature_def": as_dict}})


def _relative(app: Any) -> Any:
    """Wraps `app` so that it also answers requests for an absolute URI, which proxies send."""

    async def relative(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path", "").startswith("http://"):
            scope["path"] = "/" + scope["path"].split("/", 3)[-1]
            scope["raw_path"] = b"/" + scope["raw_path"].split(b"/", 3)[-1]
        await app(scope, receive, send)

    return relative


class RestServer:
    """The REST server, in a thread of its own.

    Attributes:
      port: the port that it listens on.
    """

    def __init__(
        self, models: ServedModels, host: str, port: int, options: RestOptions, log: Callable[..., None]
    ) -> None:
        """Starts the server.

        Args:
          models: the models to serve.
          host: the address to listen on.
          port: the port to listen on; 0 for a free one.
          options: how the server accepts requests.
          log: called with keyword arguments for each finished request.

        Raises:
          NannError: the port is in use, or the TLS key and certificates are not usable.
        """
        tls = None if options.tls is None else server_context(*options.tls)
        # asyncio sets TCP_NODELAY only if the socket's protocol is given. Without it, the body of an answer waits for
        # the client's acknowledgement of the headers, 40 ms on Linux.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            # Listen at once: until then, Linux lets another socket bind the same port.
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise NannError(f"cannot listen for REST on {host}:{port}: {error.strerror or error}") from error
        self.port = self._socket.getsockname()[1]
        self._api = _Api(models, options, log)
        app = _relative(Starlette(routes=[Route("/{path:path}", self._api.handle, methods=_METHODS)]))
        # timeout_graceful_shutdown: without it, a client that never finishes its request would keep the server from
        # stopping. log_level: `handle` prints the errors of requests, so below "critical" Uvicorn only reports requests
        # that were cut off at shutdown. log_config: Uvicorn's own would close every log handler of this process.
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",
            lifespan="off",
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_context_factory=None if tls is None else lambda *_: tls,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        """Answers the pending requests, for at most GRACE_SECONDS, then stops."""
        self._server.should_exit = True
        self._thread.join()
        self._api.gate.close()
        self._socket.close()
