"""The REST API: `/v1/models/NAME[/versions/N][/metadata]` and `:predict`, as TensorFlow Serving answers it.

Unlike TensorFlow Serving it knows no labels, `:classify`, `:regress` or CORS, limits a body to 64 MiB, and lays out its
JSON with other white space. What differs in values and texts is said in json_tensors.py.
"""

import json
import re
import socket
import sys
import threading
import time
import traceback
import urllib.parse
import zlib

import grpc
import tensorflow as tf
import uvicorn
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from tensorflow_serving.apis import model_pb2

from tfserving_ext.errors import NannError
from tfserving_ext.serving import json_tensors
from tfserving_ext.serving.models import ServingError, invalid
from tfserving_ext.serving.predict import Models

MAX_BODY_BYTES = 64 << 20
GRACE_SECONDS = 5
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,19})|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(_MODEL + r":predict")
_OTHER_METHODS = re.compile(_MODEL + r":(classify|regress)")
_NO_NAME = re.compile(r"/v1/models(?:/versions/\d+|/labels/[^/:]+)?")
_STATUS = re.compile(_MODEL)
_METADATA = re.compile(_MODEL + r"/metadata")
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
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


def _too_long() -> Response:
    return _json({"error": f"The body has more than {MAX_BODY_BYTES} bytes"}, 413)


def _unzipped(body: bytes) -> bytes:
    """The body, at most a byte more than is allowed; like TensorFlow Serving's, empty where it is not gzip."""
    try:
        return zlib.decompressobj(wbits=31).decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        return b""


class _Api:
    def __init__(self, models: Models) -> None:
        self._models = models

    async def handle(self, request: Request) -> Response:
        try:
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    return _too_long()
            return await run_in_threadpool(self._answer, request, bytes(body))
        except ServingError as error:
            return _json({"error": error.message}, _HTTP.get(error.code, 500))
        except ClientDisconnect:
            return Response(status_code=400)
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return _json({"error": f"{type(error).__name__}: {error}"}, 500)

    def _answer(self, request: Request, body: bytes) -> Response:
        # TensorFlow Serving matches the target as it was sent: undecoded, and with its query.
        method, path = request.method, request.scope["raw_path"].decode("latin-1")
        if request.url.query:
            path += f"?{request.url.query}"
        if request.headers.get("Content-Encoding", "").lower() == "gzip":
            body = _unzipped(body)
            if len(body) > MAX_BODY_BYTES:
                return _too_long()
        if not path.startswith("/v1/"):
            return Response("Not Found\n", 404, media_type="text/plain")
        if _NO_NAME.fullmatch(path):
            raise invalid("Missing model name in request.")
        if method == "POST" and (found := _PREDICT.fullmatch(path)):
            return self._predict(_spec(found), body)
        if method == "POST" and _OTHER_METHODS.fullmatch(path):
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, "this server answers :predict only")
        if method == "GET" and (found := _STATUS.fullmatch(path)):
            status = self._models.status(_spec(found))
            as_dict = json_format.MessageToDict(
                status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
            )
            return _json(as_dict)
        if method == "GET" and (found := _METADATA.fullmatch(path)):
            return self._metadata(_spec(found))
        raise invalid(f"Malformed request: {method} {path}")

    def _predict(self, spec: model_pb2.ModelSpec, body: bytes) -> Response:
        servable = self._models.find(spec)[1]
        request = json_tensors.read_request(body)
        spec.signature_name = request.get("signature_name") or "serving_default"
        if spec.signature_name not in servable.signatures:
            raise invalid(f'Serving signature name: "{spec.signature_name}" not found in signature def')
        proto = servable.signatures[spec.signature_name].proto
        types = {name: tf.dtypes.as_dtype(info.dtype) for name, info in proto.inputs.items()}
        if "instances" in request:
            outputs = self._models.predict(spec, json_tensors.rows(request["instances"], types)).outputs
            return _json({"predictions": json_tensors.row_outputs(outputs)})
        outputs = self._models.predict(spec, json_tensors.columns(request["inputs"], types)).outputs
        return _json({"outputs": json_tensors.column_outputs(outputs)})

    def _metadata(self, spec: model_pb2.ModelSpec) -> Response:
        found, signatures = self._models.signature_defs(spec)
        as_dict = json_format.MessageToDict(
            signatures, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        model_spec = {"name": found.name, "version": str(found.version.value), "signature_name": ""}
        return _json({"model_spec": model_spec, "metadata": {"signature_def": as_dict}})


class RestServer:
    """The REST server in a thread of its own.

    Attributes:
      port: what it listens on.
    """

    def __init__(self, models: Models, host: str, port: int) -> None:
        """Starts it; `port` 0 is a free one.

        Raises:
          NannError: the port is in use.
        """
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            # Until it listens, Linux lets another socket bind the same port.
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise NannError(f"cannot listen for REST on {host}:{port}: {error.strerror or error}") from error
        self.port = self._socket.getsockname()[1]
        app = Starlette(routes=[Route("/{path:path}", _Api(models).handle, methods=_METHODS)])
        # Without a limit, a client that never finishes its request would keep the server from stopping.
        # What goes wrong in a request is printed by `handle`; below that level are only the requests cut off so.
        config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=GRACE_SECONDS)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        """Answers what has begun, then stops."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
