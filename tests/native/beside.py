"""Answers of models beside the fake accelerator: `python -m tests.native.beside LIBRARY MODEL...` writes them as JSON.

LIBRARY is the accelerator's (fake_accelerator.cc), or "none". Every warm-up record of a model, or a request of our own
if it has none, is answered as `tf.saved_model.load` gives the model, in a session, and by the local server.
"""

import ctypes
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import tfserving_ext.ops  # noqa: F401 - registers the ops.
from tests.compatibility.answering import TIMES
from tfserving_ext.serving import LocalServer, ServerOptions
from tfserving_ext.serving.models import load_servable
from tfserving_ext.serving.warm_up import predict_requests

VECTOR = [[1.0, 2.0, -1.0, 0.5]]  # Of a user of the models in tests/compatibility.


def use_accelerator(library: str) -> ctypes.CDLL | None:
    """Adds the fake accelerator to TensorFlow, before it lists its devices."""
    if library == "none":
        return None
    tf.load_op_library(library)
    assert len(tf.config.list_physical_devices("FAKE")) == 1
    loaded = ctypes.CDLL(library)
    loaded.fake_accelerator_kernels.restype = ctypes.c_int64
    return loaded


def requests(model: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields signatures and inputs."""
    recorded = list(predict_requests(model))
    for request in recorded:
        yield (
            request.model_spec.signature_name,
            {name: tf.make_ndarray(value) for name, value in request.inputs.items()},
        )
    if not recorded:
        for signature in ("rounds", "deployed", "metric"):
            yield signature, {"vector": np.float32(VECTOR)}


def by_load(model: Path) -> list[dict[str, np.ndarray]]:
    loaded, servable = tf.saved_model.load(str(model)), load_servable(model)
    found = []
    for name, inputs in requests(model):
        given = {**servable.signature(name).defaults, **inputs}
        answer = loaded.signatures[name](**{key: tf.constant(value) for key, value in given.items()})
        found.append({key: value.numpy() for key, value in answer.items()})
    return found


def by_session(model: Path) -> list[dict[str, np.ndarray]]:
    servable = load_servable(model)
    return [servable.signature(name).run(inputs) for name, inputs in requests(model)]


def by_server(model: Path) -> list[dict[str, np.ndarray]]:
    found = []
    with (
        LocalServer({"served": model.parent}, ServerOptions(grpc_port=0, rest_port=0)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        for name, inputs in requests(model):
            request = predict_pb2.PredictRequest()
            request.model_spec.name, request.model_spec.signature_name = "served", name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            found.append({key: tf.make_ndarray(value) for key, value in predict(request).outputs.items()})
    return found


WAYS = {"load": by_load, "session": by_session, "server": by_server}


def plain(answers: list[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Returns answers as JSON has them, without times."""
    return [{name: value.tolist() for name, value in answer.items() if name not in TIMES} for answer in answers]


def main() -> None:
    """Answers the requests, and counts the kernels that ran on the accelerator."""
    library = use_accelerator(sys.argv[1])
    found: dict[str, Any] = {}
    for model in sys.argv[2:]:
        for name, answers in WAYS.items():
            before = 0 if library is None else library.fake_accelerator_kernels()
            found[f"{model} {name}"] = {
                "answers": plain(answers(Path(model))),
                "kernels": 0 if library is None else library.fake_accelerator_kernels() - before,
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
