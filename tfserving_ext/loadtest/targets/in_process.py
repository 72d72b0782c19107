"""SavedModels in this process, run in a session as TensorFlow Serving does, or as functions."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.ranges import MAX_CONCURRENCY, parse_range
from tfserving_ext.loadtest.scenario import ModelSpec, Scenario
from tfserving_ext.loadtest.targets.target import TIMED_OUT, TargetError, with_defaults

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class Call(NamedTuple):
    """A prepared request.

    Attributes:
      run: calls the signature.
      inputs: the signature's inputs by name.
    """

    run: Run
    inputs: Mapping[str, np.ndarray]


class InProcessTarget:
    """Models in this process; see `Target`. Calls run on as many threads as there are clients, 64 for an open loop."""

    shared_process = True

    def __init__(self, scenario: Scenario) -> None:
        """Creates the target; all models of the scenario must have paths."""
        self.kind = self.address = scenario.target
        self._paths = {model.name: model.path for model in scenario.models}
        self._models: dict[str, Any] = {}
        self._signatures: dict[str, dict[str, Any]] = {}
        threads = 64 if scenario.concurrency is None else int(max(parse_range(scenario.concurrency, MAX_CONCURRENCY)))
        self._threads = ThreadPoolExecutor(min(threads, scenario.max_in_flight), "request")

    async def open(self) -> None:
        """Loads the models."""
        for name, path in self._paths.items():
            self._models[name] = await asyncio.to_thread(_load, self.kind, Path(path or ""))

    async def close(self) -> None:
        """Waits for running calls and unloads the models."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self.kind == "session":
            for model in self._models.values():
                model.close()

    async def signatures(self, model: ModelSpec) -> dict[str, Any]:
        """See `Target`."""
        session = self.kind == "session"
        found = self._models[model.name].signature_defs if session else _signature_defs(Path(model.path or ""))
        self._signatures[model.name] = found
        return found

    def prepare(self, model: ModelSpec, inputs: Mapping[str, np.ndarray]) -> Call:
        """Returns the signature with its inputs."""
        loaded = self._models[model.name]
        if self.kind == "session":
            return Call(loaded.signature(model.signature).run, inputs)
        import tensorflow as tf

        function = loaded.signatures[model.signature]
        full = with_defaults(self._signatures[model.name][model.signature], inputs)
        tensors = {name: tf.constant(array) for name, array in full.items()}

        def run(arguments: Mapping[str, Any]) -> dict[str, np.ndarray]:
            return {name: value.numpy() for name, value in function(**arguments).items()}

        return Call(run, tensors)

    async def send(self, request: Call, timeout: float) -> dict[str, np.ndarray]:
        """See `Target`."""
        return await self._run(request, timeout)

    async def ask(self, model: ModelSpec, inputs: Mapping[str, np.ndarray], timeout: float) -> dict[str, np.ndarray]:
        """See `Target`."""
        return await self._run(self.prepare(model, inputs), timeout)

    async def versions(self, model: str) -> dict[int, bool]:
        """Returns nothing: models in this process have no versions."""
        del model
        return {}

    async def _run(self, request: Call, timeout: float) -> dict[str, np.ndarray]:
        import tensorflow as tf

        from tfserving_ext.serving.models import ServingError

        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._threads, request.run, request.inputs), timeout)
        except asyncio.TimeoutError:
            # The call itself continues; it cannot be stopped.
            raise TargetError(TIMED_OUT, f"no answer in {timeout:g} s") from None
        except ServingError as error:
            raise TargetError(error.code.name, error.message) from None
        except tf.errors.OpError as error:
            raise TargetError(type(error).__name__, (error.message or "").strip().partition("\n")[0]) from None


def _signature_defs(path: Path) -> dict[str, Any]:
    """Reads the SignatureDefs from the file, because TensorFlow's loader drops their default values."""
    from tensorflow.core.protobuf import saved_model_pb2

    raw = (path / "saved_model.pb").read_bytes()
    return dict(saved_model_pb2.SavedModel.FromString(raw).meta_graphs[0].signature_def)


def _load(kind: str, path: Path) -> Any:
    from tfserving_ext.serving.models import load_servable

    if kind == "session":
        return load_servable(path)
    import tensorflow as tf

    import tfserving_ext.ops  # noqa: F401 - registers the ops that models use

    try:
        return tf.saved_model.load(str(path))
    except (tf.errors.OpError, OSError, ValueError) as error:
        raise NannError(f"{path} does not load: {str(error).strip().splitlines()[0]}") from error
