"""Running a request, whether it came by gRPC or by REST, and for every method.

All requests take the same steps, which each service spells out:

    with models.use(spec, call) as model:        # The version stays loaded, and the client is still waiting.
        signature = ...                          # Errors have the method's wording.
        inputs = ...                             # Parsed from protos or JSON.
        outputs = model.run(signature, inputs)   # Within the client's deadline, and counted in the metrics.
"""

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
from google.protobuf import wrappers_pb2
from tensorflow_serving.apis import model_pb2

from tfserving_ext.serving.manager import ModelManager
from tfserving_ext.serving.metrics import Metrics
from tfserving_ext.serving.models import Servable, ServingError, Signature, invalid


@dataclass
class Call:
    """One request: what the server learns about it while handling it, and how long its client waits.

    Attributes:
      api: "grpc" or "rest".
      entry: the method that was called, such as "Predict".
      client: the client's address.
      arrival: when the request arrived, on the monotonic clock.
      deadline: when the client stops waiting, on the same clock; None if there is no deadline.
      is_active: returns whether the client is still connected.
      model: the model name in the request.
      version: the version of the model that handled the request; None if none was found.
      signature: the signature name in the request.
      status: the gRPC status the request finished with.
      error: the error's text; empty if the request succeeded.
    """

    api: str
    entry: str
    client: str = ""
    arrival: float = field(default_factory=time.monotonic)
    deadline: float | None = None
    is_active: Callable[[], bool] = lambda: True
    model: str = ""
    version: int | None = None
    signature: str = ""
    status: grpc.StatusCode = grpc.StatusCode.OK
    error: str = ""

    def asks(self, spec: model_pb2.ModelSpec) -> None:
        """Records the model and signature names from the request's ModelSpec."""
        self.model, self.signature = spec.name, spec.signature_name

    def fail(self, error: Exception) -> None:
        """Records why the request failed; an error other than a ServingError is a bug in the server and is printed."""
        if isinstance(error, ServingError):
            self.status, self.error = error.code, error.message
        else:
            traceback.print_exception(error, file=sys.stderr)
            self.status, self.error = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"

    def seconds_left(self) -> float | None:
        """Returns the seconds until the deadline, negative once it has passed; None if there is no deadline."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def check_waits(self) -> None:
        """Checks that the client is still waiting.

        gRPC itself drops only some of the requests whose deadline passed while they were queued.

        Raises:
          ServingError: the deadline has passed, or the client has disconnected.
        """
        left = self.seconds_left()
        if left is not None and left <= 0:
            raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the model was run")
        if not self.is_active():
            raise ServingError(grpc.StatusCode.CANCELLED, "the client left before the model was run")


@dataclass(frozen=True)
class ServedModels:
    """The served models, as the request handlers use them.

    Attributes:
      manager: resolves model specs to loaded versions.
      metrics: counts requests and runs.
      check_methods: whether Classify and Regress refuse a signature whose method_name is another method's.
    """

    manager: ModelManager
    metrics: Metrics
    check_methods: bool = False

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec, call: Call) -> Iterator["ModelInUse"]:
        """Yields the version that a request is for; it stays loaded inside the block.

        Args:
          spec: the model, and optionally a version or a label.
          call: the request, in which the version is recorded.

        Raises:
          ServingError: no such version is served, or the client no longer waits.
        """
        with self.manager.use(spec) as (version, servable):
            call.version = version
            call.check_waits()
            yield ModelInUse(spec.name, version, servable, call, self)


@dataclass(frozen=True)
class ModelInUse:
    """A loaded version of a model, held by a request.

    Attributes:
      name: the model's name.
      version: the version's number.
      servable: the loaded SavedModel.
      call: the request.
      models: all served models.
    """

    name: str
    version: int
    servable: Servable
    call: Call
    models: ServedModels

    def spec(self, signature_name: str | None = None) -> model_pb2.ModelSpec:
        """Returns the ModelSpec of the answer; the signature "" stands for serving_default, and None for no name."""
        version = wrappers_pb2.Int64Value(value=self.version)
        if signature_name is not None:
            signature_name = signature_name or "serving_default"
        return model_pb2.ModelSpec(name=self.name, version=version, signature_name=signature_name)

    def run(
        self, signature: Signature, inputs: dict[str, np.ndarray], wanted: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature if the client still waits, and counts the run in the metrics.

        Args:
          signature: a signature of this model.
          inputs: arrays by name. Where the signature has the input `deadline_ms`, it is lowered here to the time that
            the client has left, so that a search stops when nobody waits for it.
          wanted: the names of the outputs to return; empty for all.

        Returns:
          The outputs by name.

        Raises:
          ServingError: an output is unknown or named twice, the inputs are wrong, the client no longer waits, or the
            model failed.
        """
        names = _outputs(signature, wanted)
        self.call.check_waits()
        if (left := self.call.seconds_left()) is not None:
            _stop_in_time(signature, inputs, left)
        begin = time.perf_counter()
        outputs = signature.run(inputs)
        self.models.metrics.ran(self.name, self.call.entry, time.perf_counter() - begin, outputs)
        return {name: outputs[name] for name in names}


def _outputs(signature: Signature, wanted: Sequence[str]) -> Sequence[str]:
    names = sorted(signature.proto.outputs)
    for name in wanted:
        if name not in names:
            raise invalid(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {{{','.join(names)}}}."
            )
        if list(wanted).count(name) > 1:
            raise invalid(f"duplicate output tensor alias: {name}")
    return wanted or names


def _stop_in_time(signature: Signature, inputs: dict[str, np.ndarray], seconds_left: float) -> None:
    """Lowers the input `deadline_ms` of a search, if there is one, to the time that the client has left."""
    default = signature.defaults.get("deadline_ms")
    if default is None or default.shape or default.dtype != np.int32:
        return
    sent = np.asarray(inputs.get("deadline_ms", default))
    left = max(1, min(int(seconds_left * 1000), np.iinfo(np.int32).max))
    # In REST's row form the value is repeated for each user. Anything other than equal int32 values is left to the
    # graph, which refuses it with its own message.
    if (
        sent.dtype == np.int32
        and sent.size
        and (sent == sent.flat[0]).all()
        and (sent.flat[0] == 0 or sent.flat[0] > left)
    ):
        inputs["deadline_ms"] = np.full(sent.shape, left, np.int32)
