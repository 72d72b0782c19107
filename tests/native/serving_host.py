"""Builds and runs the program that stands for TensorFlow Serving (serving_host.cc)."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import named_tensor_pb2
from tensorflow_serving.apis import predict_pb2

from tests.native.building import MINOR, build_targets

OPS = f"libnann_serving-{MINOR}.so"


class Built(NamedTuple):
    """Two folders: `serving` with the files as they are shipped, `host` with the stand-in and the files for it."""

    serving: Path
    host: Path

    @property
    def server(self) -> Path:
        """The stand-in."""
        return self.host / "tensorflow_model_server"


def build() -> Built:
    """Builds both."""
    folder = build_targets("nann_serving", "nann_host")
    return Built(folder / "serving", folder / "serving_host")


def host(program: Path, *arguments: str | Path, preload: Path | None) -> subprocess.CompletedProcess[str]:
    """Runs the stand-in for the server."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "TF_CPP_MIN_LOG_LEVEL")
    }
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    command = [str(word) for word in (program, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def write_requests(path: Path, requests: Sequence[predict_pb2.PredictRequest], names: Sequence[str]) -> Path:
    """Writes requests as the stand-in reads them; `names` are those of the models, in the order that it loads them."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            spec = request.model_spec
            writer.write(f"{names.index(spec.name)} {spec.signature_name} {len(request.inputs)}")
            for name, tensor in request.inputs.items():
                writer.write(named_tensor_pb2.NamedTensorProto(name=name, tensor=tensor).SerializeToString())
    return path


def read_answers(path: Path) -> list[dict[str, np.ndarray]]:
    """Reads the outputs by name, request after request."""
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    answers = []
    for head in records:
        count, _, error = head.decode().partition(" ")
        assert int(count) >= 0, error
        pairs = (named_tensor_pb2.NamedTensorProto.FromString(next(records)) for _ in range(int(count)))
        answers.append({pair.name: tf.make_ndarray(pair.tensor) for pair in pairs})
    return answers
