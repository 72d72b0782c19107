"""gRPC and REST clients, for both the local server and TensorFlow Serving."""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from tfserving_ext.errors import NannError
from tfserving_ext.serving.tls import ClientTls

TIMEOUT_SECONDS = 10.0
MAX_MESSAGE_BYTES = 128 << 20

# As in the smoke request of alibaba/nann: beam widths of the upper layers, items picked in each ground round, and k.
SMOKE_LEVEL_TOPN = (100, 200, 200, 200, 200, 200)


class Client:
    """Calls PredictionService.Predict for one model; a context manager.

    Example:
      >>> with nann.LocalServer({"nann": "models/nann"}) as server:
      ...     with nann.Client(f"127.0.0.1:{server.grpc_port}", "nann") as client:
      ...         found = client.predict("retrieve", {"item_history": np.int64([[100031, 100062]]), "k": 3})
      >>> found["item_ids"].shape
      (1, 3)
    """

    def __init__(self, target: str, name: str, timeout: float = TIMEOUT_SECONDS, tls: ClientTls | None = None) -> None:
        """Creates a client.

        Args:
          target: HOST:PORT of the server's gRPC port.
          name: the model's name.
          timeout: seconds to wait for each answer.
          tls: certificates to use; None if the server does not use TLS.

        Raises:
          NannError: a file of `tls` is unusable.
        """
        self._target, self._name, self._timeout = target, name, timeout
        options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
        self._channel = (
            grpc.insecure_channel(target, options)
            if tls is None
            else grpc.secure_channel(target, tls.credentials(), options)
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
          signature: the signature's name.
          inputs: a value for each input, by name; inputs that have a default may be left out.

        Returns:
          The outputs by name.

        Raises:
          NannError: no server answers, or the request is refused; the message has the status and its text.
        """
        import tensorflow as tf

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._name
        request.model_spec.signature_name = signature
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        response = self._call(self._stub.Predict, request)
        return {key: tf.make_ndarray(value) for key, value in response.outputs.items()}

    def signature(self, name: str) -> Any:
        """Returns the model's SignatureDef called `name`.

        Raises:
          NannError: no server answers, or there is no such model or signature.
        """
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self._name
        signatures = get_model_metadata_pb2.SignatureDefMap()
        self._call(self._stub.GetModelMetadata, request).metadata["signature_def"].Unpack(signatures)
        if name not in signatures.signature_def:
            known = ", ".join(sorted(signatures.signature_def))
            raise NannError(f"{self._name} at {self._target} has no signature {name!r}, it has {known}")
        return signatures.signature_def[name]

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, self._timeout)
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.UNAVAILABLE:
                raise NannError(no_answer(self._target, error.details() or "")) from error
            raise NannError(f"{self._target} answered {code.name}: {error.details()}") from error


class RestClient:
    """Calls `:predict` of the REST API for one model, in column form."""

    def __init__(self, url: str, name: str, timeout: float = TIMEOUT_SECONDS, tls: ClientTls | None = None) -> None:
        """Creates a client.

        Args:
          url: the server's address, such as http://127.0.0.1:8501.
          name: the model's name.
          timeout: seconds to wait for each answer.
          tls: certificates to use with https://; None for the system's authorities.

        Raises:
          NannError: `url` is not an HTTP address, or a file of `tls` is unusable.
        """
        if not url.startswith(("http://", "https://")):
            raise NannError(f"url is {url!r}, it must start with http:// or https://")
        self._url, self._timeout = f"{url.rstrip('/')}/v1/models/{name}:predict", timeout
        self._tls = None if tls is None else tls.context()

    def predict(self, signature: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Runs a signature.

        Args:
          signature: the signature's name.
          inputs: a value for each input, by name. REST has no defaults, so every input must be given.

        Returns:
          The outputs as NumPy arrays by name; the only output of a signature is called "output".

        Raises:
          NannError: no server answers, or the request is refused; the message has the status and its text.
        """
        body = {"signature_name": signature, "inputs": {key: np.asarray(v).tolist() for key, v in inputs.items()}}
        request = urllib.request.Request(self._url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout, context=self._tls) as response:
                outputs = json.load(response)["outputs"]
        except urllib.error.HTTPError as error:
            raise NannError(f"{self._url} answered {error.code}: {_text(error.read())}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise NannError(f"no server answers at {self._url} ({reason}); start one with `nann serve`") from error
        except (ValueError, KeyError, TypeError) as error:
            raise NannError(f"{self._url} did not answer with outputs in JSON") from error
        if not isinstance(outputs, dict):  # A signature's only output comes without its name.
            return {"output": np.asarray(outputs)}
        return {key: np.asarray(value) for key, value in outputs.items()}


def _text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def no_answer(target: str, details: str) -> str:
    """Returns an error message for an unreachable server, with a hint if TLS is the likely cause.

    Args:
      target: the address that was called.
      details: the error's text from gRPC.
    """
    words = " ".join(details.split())
    if any(sign in words.lower() for sign in ("handshake", "certificate", "[ssl: ", "ssl_error")):
        return (
            f"no TLS connection to {target}: {words[:300]}; either the server does not use TLS, or --ca does not "
            "verify its certificate for this name, or it requires a client certificate (--cert, --key)"
        )
    # Errors that a client sees if only one of the two sides uses TLS.
    closed = any(sign in words.lower() for sign in ("socket closed", "reset by peer", "goaway"))
    hint = "; if it uses TLS, give its authority with --ca" if closed else ""
    return f"no server answers at {target}; start one with `nann serve`{hint}"


def smoke(
    target: str = "127.0.0.1:8500",
    name: str = "nann",
    tls: ClientTls | None = None,
    filter: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> dict[str, np.ndarray]:
    """Sends one simple request to the local server or TensorFlow Serving.

    A model with the input `comm_seq` of alibaba/nann gets that project's smoke request. Any other model gets one user:
    the one of its first warm-up record if `path` is given, whose values the model knows; else one whose features are
    all ones.

    Args:
      target: HOST:PORT of the server's gRPC port.
      name: the model's name.
      tls: certificates to use; None if the server does not use TLS.
      filter: which items the answer may have (docs/filters.md); `retrieve` is then asked, which any export has.
      path: the SavedModel that is served.

    Returns:
      The outputs by name, such as `top_k`, int64 [1, 200].

    Raises:
      NannError: no server answers, the request is refused, or there is a filter and the model does not take one.
    """
    called = "serving_default" if filter is None else "retrieve"
    with Client(target, name, tls=tls) as client:
        signature = client.signature(called)
        if filter is not None and "filter" not in signature.inputs:
            raise NannError(f"{name} at {target} takes no filter; export it with an index of `nann index --attributes`")
        if "comm_seq" in signature.inputs:
            width = signature.inputs["comm_seq"].tensor_shape.dim[1].size
            inputs: dict[str, Any] = {
                "comm_seq": np.zeros([1, width], np.float16),
                "level_topn": np.array(SMOKE_LEVEL_TOPN, np.int32),
            }
        else:
            known = {} if path is None else _warmed_up(Path(path), called)
            required = [key for key in signature.inputs if key not in signature.defaults]
            inputs = {key: known[key] if key in known else _ones(signature.inputs[key]) for key in required}
        try:
            return client.predict(called, inputs if filter is None else {**inputs, "filter": filter})
        except NannError as error:
            if path is not None or "INVALID_ARGUMENT" not in str(error):
                raise
            raise NannError(
                f"{' '.join(str(error).split())}; the made-up features are all ones: if the model does not know "
                "these, name its SavedModel, whose warm-up record is then sent (--path)"
            ) from error


def _warmed_up(path: Path, signature: str) -> dict[str, np.ndarray]:
    """Returns the inputs of the first warm-up record of a signature, or of `retrieve` if it has none."""
    from tfserving_ext.serving.tensors import parse_tensor
    from tfserving_ext.serving.warm_up import predict_requests

    if not (path / "saved_model.pb").exists():
        raise NannError(f"{path} is not a SavedModel: it has no saved_model.pb")
    found: dict[str, dict[str, np.ndarray]] = {}
    for request in predict_requests(path):
        inputs = {name: parse_tensor(value) for name, value in request.inputs.items()}
        found.setdefault(request.model_spec.signature_name, inputs)
    return found.get(signature, found.get("retrieve", {}))


def _ones(info: Any) -> np.ndarray:
    import tensorflow as tf

    shape = [1 if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
    dtype = tf.dtypes.as_dtype(info.dtype)
    return np.full(shape, b"1", object) if dtype == tf.string else np.ones(shape, dtype.as_numpy_dtype)
