"""What it means to run a request, whether it came by gRPC or by REST, and whichever method it asks for.

All requests take the same road, which the services write down from top to bottom:

    with models.use(spec, call) as model:        # The version stays loaded, and somebody waits for the answer.
        signature = ...                          # Refused in the words of the method.
        inputs = ...                             # Read in the words of the API.
        outputs = model.run(signature, inputs)   # In the time that the client has left, and counted.
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
    """One request: what becomes known of it on its way, and how long its client waits.

    Attributes:
      api: "grpc" or "rest".
      entry: the method that was asked for, such as "Predict".
      client: its address.
      arrival: of the request, on the monotonic clock.
      deadline: until when the client waits, on that clock; None for as long as it takes.
      is_active: says whether the client is still there.
      model: the name that it came with.
      version: of the model that answered, or refused; None where it came to none.
      signature: that was asked for.
      status: what the request ended with.
      error: the text where it failed.
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
        """Takes down what the request's ModelSpec says."""
        self.model, self.signature = spec.name, spec.signature_name

    def fail(self, error: Exception) -> None:
        """Takes down what the request failed with; what is no refusal is a fault of the server, and is printed."""
        if isinstance(error, ServingError):
            self.status, self.error = error.code, error.message
        else:
            traceback.print_exception(error, file=sys.stderr)
            self.status, self.error = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"

    def seconds_left(self) -> float | None:
        """How long the client will still wait; None for as long as it takes."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def check_waits(self) -> None:
        """Checks that there is still somebody to answer.

        Of what waited for a thread in vain gRPC itself drops only a part.

        Raises:
          ServingError: the deadline has passed, or the client has left.
        """
        left = self.seconds_left()
        if left is not None and left <= 0:
            raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the model was run")
        if not self.is_active():
            raise ServingError(grpc.StatusCode.CANCELLED, "the client left before the model was run")


@dataclass(frozen=True)
class ServedModels:
    """The models that are served, as requests use them.

    Attributes:
      manager: has their versions.
      metrics: counts what is run.
      check_methods: refuse Classify and Regress where a signature's method_name says something else.
    """

    manager: ModelManager
    metrics: Metrics
    check_methods: bool = False

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec, call: Call) -> Iterator["ModelInUse"]:
        """The version that a request is for, which stays loaded inside the block.

        Args:
          spec: model, and version or label.
          call: the request; the version is taken down in it.

        Raises:
          ServingError: no such version is served, or nobody waits for the answer any more.
        """
        with self.manager.use(spec) as (version, servable):
            call.version = version
            call.check_waits()
            yield ModelInUse(spec.name, version, servable, call, self)


@dataclass(frozen=True)
class ModelInUse:
    """A version of a model that a request is in.

    Attributes:
      name: the model's.
      version: its number.
      servable: what is loaded.
      call: the request.
      models: all that is served.
    """

    name: str
    version: int
    servable: Servable
    call: Call
    models: ServedModels

    def spec(self, signature_name: str | None = None) -> model_pb2.ModelSpec:
        """The ModelSpec of the answer; "" for a signature stands for serving_default, None for no signature."""
        version = wrappers_pb2.Int64Value(value=self.version)
        if signature_name is not None:
            signature_name = signature_name or "serving_default"
        return model_pb2.ModelSpec(name=self.name, version=version, signature_name=signature_name)

    def run(
        self, signature: Signature, inputs: dict[str, np.ndarray], wanted: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature, unless nobody waits for it any more, and counts the run.

        Args:
          signature: of this model.
          inputs: by name. A search of ours ends once the client no longer waits: its `deadline_ms` is set here.
          wanted: outputs to return; none for all.

        Returns:
          Outputs by name.

        Raises:
          ServingError: no such output, wrong inputs, nobody waits, or the model failed.
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
