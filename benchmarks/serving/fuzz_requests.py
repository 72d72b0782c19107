"""Makes damaged requests for a server, by gRPC and REST: valid ones whose bytes or values are changed at random."""

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

PREDICTION, MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
_SIZES = (-1, 0, 1, 2, 3, 50, 1024, 1 << 20, 1 << 31, 1 << 62)
_NUMBERS: Sequence[Any] = (0, 1, -1, 5, 200, 2**31 - 1, 2**31, 2**63 - 1, -(2**63), 2**64, 1e400, -1e-320, 0.5, 1e308)
_VALUES: Sequence[Any] = (None, True, False, "", "a", "\u0000", "\ud83d\ude00", {}, [], {"b64": "AA=="}, {"b64": "?"})
_PATHS = ("", ":predict", ":classify", ":regress", "/metadata", "/versions/1:predict", "/labels/x:predict", "/", ":x")
_VERBS = ("POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD")


class GrpcRequest(NamedTuple):
    """A gRPC method, and the bytes to send to it."""

    method: str
    body: bytes


class RestRequest(NamedTuple):
    """An HTTP request."""

    verb: str
    path: str
    headers: dict[str, str]
    body: bytes


def grpc_request(rng: random.Random, name: str, ids: Sequence[int]) -> GrpcRequest:
    """Makes a damaged gRPC request for the model `name`, whose items are `ids`."""
    method, message = rng.choice(_MESSAGES)(rng, name, ids)
    body = message.SerializeToString()
    if rng.random() < 0.4:
        body = _damage(rng, body)
    return GrpcRequest(method, body)


def _predict(rng: random.Random, name: str, ids: Sequence[int]) -> tuple[str, Any]:
    request = predict_pb2.PredictRequest()
    _spec(rng, request.model_spec, name)
    inputs = rng.choice(("item_history", "comm_seq")), *rng.sample(_INPUTS, rng.randrange(4))
    for one in inputs:
        if rng.random() < 0.5 and one == "item_history":
            request.inputs[one].dtype = types_pb2.DT_INT64
            history = rng.choices(ids, k=rng.randrange(30))
            request.inputs[one].int64_val.extend(history)
            for size in (1, len(history)):
                request.inputs[one].tensor_shape.dim.add(size=size)
        else:
            request.inputs[one].CopyFrom(_tensor(rng))
    if rng.random() < 0.1:
        request.output_filter.extend(rng.choices(("item_ids", "scores", "nope"), k=2))
    return f"{PREDICTION}Predict", request


_INPUTS = (
    *("category_history", "k", "frontier", "pool", "max_steps", "ef", "rounds", "exclude", "budget", "deadline_ms"),
    "nope",
)


def _tensor(rng: random.Random) -> tensor_pb2.TensorProto:
    tensor = tensor_pb2.TensorProto(
        dtype=rng.choice([*types_pb2.DataType.values(), types_pb2.DT_INT32, types_pb2.DT_INT64])
    )
    for _ in range(rng.choice((0, 0, 1, 1, 2, 2, 3, 40))):
        tensor.tensor_shape.dim.add(size=rng.choice(_SIZES))
    tensor.tensor_shape.unknown_rank = rng.random() < 0.05
    kind = rng.randrange(5)
    if kind == 0:
        tensor.tensor_content = rng.randbytes(rng.choice((0, 1, 4, 8, 24, 6400)))
    elif kind == 1:
        tensor.int_val.extend(rng.choices((-1, 0, 1, 5, 200, 2**31 - 1), k=rng.randrange(7)))
    elif kind == 2:
        tensor.int64_val.extend(rng.choices((-1, 0, 1, 5, 2**63 - 1), k=rng.randrange(7)))
    elif kind == 3:
        tensor.float_val.extend(rng.choices((0.0, float("nan"), float("inf"), 1e30), k=rng.randrange(7)))
    else:
        tensor.string_val.extend(rng.choices((b"", b"a", b"\xff" * 100), k=rng.randrange(4)))
    return tensor


def _spec(rng: random.Random, spec: Any, name: str) -> None:
    spec.name = rng.choice((name, name, name, name, "", "nope"))
    spec.signature_name = rng.choice(("retrieve", "retrieve", "retrieve_rounds", "serving_default", "", "nope"))
    if rng.random() < 0.1:
        spec.version.value = rng.choice((1, 0, -1, 2**62))
    elif rng.random() < 0.05:
        spec.version_label = "nope"


def _examples(kind: Any, method: str) -> Any:
    def make(rng: random.Random, name: str, ids: Sequence[int]) -> tuple[str, Any]:
        request = kind()
        _spec(rng, request.model_spec, name)
        if rng.random() < 0.7:
            example = request.input.example_list.examples.add()
            example.features.feature["x"].float_list.value.append(1.0)
        return f"{PREDICTION}{method}", request

    return make


def _multi(rng: random.Random, name: str, ids: Sequence[int]) -> tuple[str, Any]:
    request = inference_pb2.MultiInferenceRequest()
    for _ in range(rng.randrange(3)):
        task = request.tasks.add(method_name=rng.choice(("tensorflow/serving/regress", "x")))
        _spec(rng, task.model_spec, name)
    return f"{PREDICTION}MultiInference", request


def _metadata(rng: random.Random, name: str, ids: Sequence[int]) -> tuple[str, Any]:
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.metadata_field.extend(rng.choices(("signature_def", "nope"), k=rng.randrange(3)))
    _spec(rng, request.model_spec, name)
    return f"{PREDICTION}GetModelMetadata", request


def _status(rng: random.Random, name: str, ids: Sequence[int]) -> tuple[str, Any]:
    request = get_model_status_pb2.GetModelStatusRequest()
    _spec(rng, request.model_spec, name)
    return f"{MODEL}GetModelStatus", request


_MESSAGES = (
    *[_predict] * 6,
    _examples(classification_pb2.ClassificationRequest, "Classify"),
    _examples(regression_pb2.RegressionRequest, "Regress"),
    _multi,
    _metadata,
    _status,
)


def rest_request(rng: random.Random, name: str, ids: Sequence[int]) -> RestRequest:
    """Makes a damaged REST request for the model `name`, whose items are `ids`."""
    path = f"/v1/models/{rng.choice((name, name, name, 'nope', 'a%00b'))}{rng.choice((':predict', *_PATHS))}"
    inputs: dict[str, Any] = {
        "item_history": [rng.choices(ids, k=rng.randrange(30))],
        "category_history": [[]],
        "k": 5,
        "frontier": 16,
        "pool": 50,
        "max_steps": 1000,
        "exclude": [[]],
        "budget": 0,
        "deadline_ms": 0,
    }
    for _ in range(rng.randrange(3)):
        key = rng.choice((*inputs, "nope"))
        inputs[key] = _value(rng, 3)
    form = rng.choice(("inputs", "inputs", "instances", "examples"))
    body = {"signature_name": rng.choice(("retrieve", "retrieve_rounds", "nope", 7)), form: inputs}
    if rng.random() < 0.2:
        body[form] = _value(rng, 4)
    raw = json.dumps(body).encode()
    if rng.random() < 0.3:
        raw = _damage(rng, raw)
    headers = {"Content-Type": rng.choice(("application/json", "text/plain", ""))}
    if rng.random() < 0.05:
        headers["Content-Encoding"] = "gzip"
    return RestRequest(rng.choice(_VERBS), path, headers, raw)


def _value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(4)
    if depth and kind == 0:
        return [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if depth and kind == 1:
        return {rng.choice(("item_history", "k", "x", "b64")): _value(rng, depth - 1) for _ in range(rng.randrange(3))}
    return rng.choice(_NUMBERS if kind == 2 else _VALUES)


def _damage(rng: random.Random, body: bytes) -> bytes:
    """Flips, cuts, repeats or inserts some bytes."""
    data = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[place : place + rng.randrange(1, 9)]
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.randrange(1, 9))
        else:
            data[place:place] = data[max(place - 16, 0) : place]
    return bytes(data)
