"""What a request means, whether it came by gRPC or by REST."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import grpc
import numpy as np
from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from tfserving_ext.serving.manager import ModelManager
from tfserving_ext.serving.metrics import Metrics
from tfserving_ext.serving.models import Servable, ServingError, Signature, invalid

Inputs = Callable[[Servable], Mapping[str, np.ndarray]]


class Answer(NamedTuple):
    """Outputs by name, and the version that gave them."""

    version: int
    outputs: dict[str, np.ndarray]


class Predictor:
    """Answers requests by the models that are served.

    Attributes:
      manager: the models.
      metrics: what is counted.
      check_methods: refuse Classify and Regress where a signature's method_name says something else.
    """

    def __init__(self, manager: ModelManager, metrics: Metrics, check_methods: bool = False) -> None:
        """Takes who has the models, who counts, and whether methods are checked."""
        self.manager, self.metrics, self.check_methods = manager, metrics, check_methods

    def predict(
        self,
        spec: model_pb2.ModelSpec,
        read: Inputs,
        wanted: list[str] | None = None,
        seconds_left: float | None = None,
    ) -> Answer:
        """Runs a signature.

        Args:
          spec: model, version or label, signature.
          read: the inputs, of the servable that is to answer.
          wanted: outputs to return; None or [] for all.
          seconds_left: how long the client waits. A search of ours stops then; nothing starts after it.

        Raises:
          ServingError: no such model, version, signature or output, wrong inputs, or the model failed.
        """
        begin = time.perf_counter()
        with self.manager.use(spec) as (version, servable):
            inputs = dict(read(servable))
            signature = servable.signature(spec.signature_name)
            names = _outputs(signature, wanted)
            if seconds_left is not None:
                seconds_left -= time.perf_counter() - begin
                if seconds_left <= 0:
                    raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the model was run")
                _stop_in_time(signature, inputs, seconds_left)
            started = time.perf_counter()
            outputs = signature.run(inputs)
        self.metrics.ran(spec.name, time.perf_counter() - started, outputs)
        return Answer(version, {name: outputs[name] for name in names})

    def signature_defs(
        self, spec: model_pb2.ModelSpec
    ) -> tuple[model_pb2.ModelSpec, get_model_metadata_pb2.SignatureDefMap]:
        """All signatures of a model, and the ModelSpec of who has them.

        Raises:
          ServingError: the model or the version is not served.
        """
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self.manager.use(spec) as (version, servable):
            for name, proto in servable.signature_defs.items():
                signatures.signature_def[name].CopyFrom(proto)
        return model_pb2.ModelSpec(name=spec.name, version=wrappers_pb2.Int64Value(value=version)), signatures


def _outputs(signature: Signature, wanted: list[str] | None) -> list[str]:
    names = sorted(signature.proto.outputs)
    for name in wanted or []:
        if name not in names:
            raise invalid(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(names)}}}."
            )
        if (wanted or []).count(name) > 1:
            raise invalid(f"duplicate output tensor alias: {name}")
    return wanted or names


def _stop_in_time(signature: Signature, inputs: dict[str, np.ndarray], seconds_left: float) -> None:
    """Lets a search of ours end when its client no longer waits: `deadline_ms` becomes at most what is left."""
    default = signature.defaults.get("deadline_ms")
    if default is None or default.shape or default.dtype != np.int32:
        return
    sent = np.asarray(inputs.get("deadline_ms", default))
    left = max(1, min(int(seconds_left * 1000), np.iinfo(np.int32).max))
    # In row form it comes once for every user, and equal; anything else the graph refuses in its own words.
    if (
        sent.dtype == np.int32
        and sent.size
        and (sent == sent.flat[0]).all()
        and (sent.flat[0] == 0 or sent.flat[0] > left)
    ):
        inputs["deadline_ms"] = np.full(sent.shape, left, np.int32)
