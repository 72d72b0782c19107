"""The REST API: `/v1/models/NAME[/versions/N][/metadata]` and `:predict`, as TensorFlow Serving answers it.

Unlike TensorFlow Serving it limits a body to 64 MiB and how many requests wait, has `/healthz` and `/readyz`, and lays
out its JSON with other white space. What differs in values and texts is said in json_tensors.py.
"""

import asyncio
import json
import re
import socket
import sys
import threading
import time
import traceback
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
import uvicorn
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import classification_pb2, model_pb2, regression_pb2

from tfserving_ext.errors import NannError
from tfserving_ext.serving import inference, json_examples, json_tensors
from tfserving_ext.serving.models import Servable, ServingError, invalid
from tfserving_ext.serving.predict import Predictor
from tfserving_ext.serving.request_log import Asked, RequestLog
from tfserving_ext.serving.rest_gate import Gate
from tfserving_ext.serving.tls import server_context

MAX_BODY_BYTES = 64 << 20
MAX_BODIES_BYTES = 16 * MAX_BODY_BYTES  # Of all requests that are being answered or wait.
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
# As TensorFlow Serving maps them.
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
    """How the REST server answers.

    Attributes:
      metrics_path: where Prometheus reads; None for nowhere.
      threads: requests that run at once.
      queue: requests that may wait for a thread; one more is refused with 503.
      timeout_seconds: from a request's arrival to 504.
      cors: let browsers use it from pages of any origin.
      tls: as that of `GrpcOptions`; None for plain text.
    """

    metrics_path: str | None = None
    threads: int = 16
    queue: int = 256
    timeout_seconds: float = 30.0
    cors: bool = False
    tls: tuple[bytes, bytes, bytes | None] | None = None


def _json(value: object, status: int = 200) -> Response:
    return Response(json.dumps(value, indent=4) + "\n", status, media_type="application/json")


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
    """What a request is counted as."""
    if _PREDICT.fullmatch(path) and method == "POST":
        return "Predict"
    if (found := _OTHER_METHODS.fullmatch(path)) and method == "POST":
        return str(found["method"]).capitalize()
    return "GetModelMetadata" if _METADATA.fullmatch(path) else "GetModelStatus"


def _target(request: Request) -> str:
    """What was asked for, which TensorFlow Serving matches as it was sent: undecoded, and with its query."""
    path = request.scope["raw_path"].decode("latin-1")
    return f"{path}?{request.url.query}" if request.url.query else path


class _TooLongError(Exception):
    def __init__(self) -> None:
        super().__init__(f"The body has more than {MAX_BODY_BYTES} bytes")


def _unzipped(body: bytes) -> bytes:
    """The body, at most a byte more than is allowed; like TensorFlow Serving's, empty where it is not gzip."""
    try:
        return zlib.decompressobj(wbits=31).decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        return b""


class _Api:
    def __init__(self, predictor: Predictor, options: RestOptions, log: Callable[..., None]) -> None:
        self._predictor, self._options = predictor, options
        self.gate, self._requests = Gate(options.threads, options.queue, MAX_BODIES_BYTES), RequestLog(predictor, log)

    async def handle(self, request: Request) -> Response:
        """Answers a request. Those for the server itself, and not for a model, never wait for a thread."""
        path = _target(request)
        if path == self._options.metrics_path:
            return Response(await run_in_threadpool(self._predictor.metrics.text), media_type="text/plain")
        if request.method in ("GET", "HEAD") and path in ("/healthz", "/readyz"):
            return self._health(path)
        if not path.startswith("/v1/"):
            return Response(_NOT_FOUND, 404, media_type="text/html")
        begin = time.perf_counter()
        client = "" if request.client is None else f"{request.client.host}:{request.client.port}"
        asked = Asked("rest", _entry(request.method, path), client)
        if found := _PREFIX.match(path):
            asked.model = urllib.parse.unquote(found["name"])
        status, message = grpc.StatusCode.OK, ""
        try:
            response = await asyncio.wait_for(self._respond(request, asked), self._options.timeout_seconds)
        except ServingError as error:
            status, message = error.code, error.message
            asked.version = error.version or asked.version
            response = _json({"error": message}, _HTTP.get(status, 500))
        except asyncio.TimeoutError:
            status, message = grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification"
            response = _json({"error": message}, 504)
        except _TooLongError as error:
            status, message = grpc.StatusCode.INVALID_ARGUMENT, str(error)
            response = _json({"error": message}, 413)
        except ClientDisconnect:
            status, message = grpc.StatusCode.CANCELLED, "the client left"
            response = Response(status_code=400)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            status, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
            response = _json({"error": message}, 500)
        self._requests.done(asked, status, time.perf_counter() - begin, message)
        response.headers.update(_CORS if self._options.cors else {})
        return response

    def _health(self, path: str) -> Response:
        """`/healthz`: the process answers. `/readyz`: every model of the configuration has a version that serves."""
        manager = self._predictor.manager
        missing = [name for name in manager.names() if not manager.available(name)] if path == "/readyz" else []
        text = f"no version serves of {', '.join(missing)}\n" if missing else "ok\n"
        return Response(text, 503 if missing else 200, media_type="text/plain")

    async def _respond(self, request: Request, asked: Asked) -> Response:
        end = time.monotonic() + self._options.timeout_seconds
        if request.method == "GET":  # Status and metadata take no time; whether a busy server is well has to be seen.
            return await run_in_threadpool(self._answer, request, b"", asked, end)
        with self.gate.entered() as keep:
            body = bytearray()
            async for chunk in request.stream():
                if len(body) + len(chunk) > MAX_BODY_BYTES:
                    raise _TooLongError
                keep(len(chunk))
                body += chunk
            return await self.gate.run(lambda: self._answer(request, bytes(body), asked, end), request.is_disconnected)

    def _answer(self, request: Request, body: bytes, asked: Asked, end: float) -> Response:
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
            return self._predict(_spec(found), body, asked, end)
        if method == "POST" and (found := _OTHER_METHODS.fullmatch(path)):
            return self._examples(_spec(found), found["method"], body, asked)
        if method == "GET" and (found := _STATUS.fullmatch(path)):
            status = self._predictor.manager.status(_spec(found))
            as_dict = json_format.MessageToDict(
                status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            return _json(as_dict)
        if method == "GET" and (found := _METADATA.fullmatch(path)):
            return self._metadata(_spec(found), asked)
        raise invalid(f"Malformed request: {method} {path}")

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes, asked: Asked, end: float) -> Response:
        by_row = False

        def read(servable: Servable) -> Mapping[str, np.ndarray]:
            nonlocal by_row
            request = json_tensors.read_request(body)
            spec.signature_name = request.get("signature_name") or "serving_default"
            asked.of(spec)
            if spec.signature_name not in servable.signatures:
                raise invalid(f'Serving signature name: "{spec.signature_name}" not found in signature def')
            proto = servable.signatures[spec.signature_name].proto
            types = {name: tf.dtypes.as_dtype(info.dtype) for name, info in proto.inputs.items()}
            by_row = "instances" in request
            return (
                json_tensors.rows(request["instances"], types)
                if by_row
                else json_tensors.columns(request["inputs"], types)
            )

        asked.version, outputs = self._predictor.predict(spec, read, seconds_left=end - time.monotonic())
        if by_row:
            return _json({"predictions": json_tensors.row_outputs(outputs)})
        return _json({"outputs": json_tensors.column_outputs(outputs)})

    def _examples(self, spec: model_pb2.ModelSpec, method: str, body: bytes, asked: Asked) -> Response:
        """`:classify` and `:regress`."""
        with self._predictor.manager.use(spec) as (version, _):
            asked.version = version  # A model that is not there is said before what the body is.
        spec.signature_name, given = json_examples.read_examples(body, method)
        asked.of(spec)
        if method == "regress":
            found = inference.regress(self._predictor, regression_pb2.RegressionRequest(model_spec=spec, input=given))
            return _json({"results": [json_tensors.number(one.value) for one in found.result.regressions]})
        request = classification_pb2.ClassificationRequest(model_spec=spec, input=given)
        classified = inference.classify(self._predictor, request).result.classifications
        results = [[[entry.label, json_tensors.number(entry.score)] for entry in one.classes] for one in classified]
        return _json({"results": results})

    def _metadata(self, spec: model_pb2.ModelSpec, asked: Asked) -> Response:
        found, signatures = self._predictor.signature_defs(spec)
        asked.version = found.version.value
        as_dict = json_format.MessageToDict(
            signatures, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        model_spec = {"name": found.name, "version": str(found.version.value), "signature_name": ""}
        return _json({"model_spec": model_spec, "metadata": {"signature_def": as_dict}})


def _relative(app: Any) -> Any:
    """`app` for requests to an absolute URI, too, as proxies send them."""

    async def relative(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path", "").startswith("http://"):
            scope["path"] = "/" + scope["path"].split("/", 3)[-1]
            scope["raw_path"] = b"/" + scope["raw_path"].split(b"/", 3)[-1]
        await app(scope, receive, send)

    return relative


class RestServer:
    """The REST server in a thread of its own.

    Attributes:
      port: what it listens on.
    """

    def __init__(
        self, predictor: Predictor, host: str, port: int, options: RestOptions, log: Callable[..., None]
    ) -> None:
        """Starts it; `port` 0 is a free one.

        Raises:
          NannError: the port is in use, or the TLS key and certificates are not usable.
        """
        tls = None if options.tls is None else server_context(*options.tls)
        # asyncio sets TCP_NODELAY only where the protocol is named. Without it the body waits for the client's
        # acknowledgement of the headers, 40 ms on Linux.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            # Until it listens, Linux lets another socket bind the same port.
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise NannError(f"cannot listen for REST on {host}:{port}: {error.strerror or error}") from error
        self.port = self._socket.getsockname()[1]
        self._api = _Api(predictor, options, log)
        app = _relative(Starlette(routes=[Route("/{path:path}", self._api.handle, methods=_METHODS)]))
        # Without a limit, a client that never finishes its request would keep the server from stopping.
        # What goes wrong in a request is printed by `handle`; below that level are only the requests cut off so.
        # log_config: Uvicorn's own would close every log handler of the process that the server runs in.
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
        """Answers what has begun, then stops."""
        self._server.should_exit = True
        self._thread.join()
        self._api.gate.close()
        self._socket.close()
