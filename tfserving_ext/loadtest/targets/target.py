"""What a target can do."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import ModelSpec

OK = "OK"
UNREACHABLE = "UNAVAILABLE"  # By whatever protocol: nobody answers.
TIMED_OUT = "DEADLINE_EXCEEDED"


# What a server's own words leave unsaid, by what they begin with.
_CAUSES = {
    "Server Threadpool Exhausted": (
        "TensorFlow Serving's gRPC server refuses what exceeds its threads, 4 a core by default: "
        "start it with --grpc_max_threads=64, or more"
    ),
    "Concurrent RPC limit exceeded": "`nann serve` keeps no more waiting: --grpc_max_threads, --grpc_max_queue",
}


class TargetError(Exception):
    """A request that failed.

    Attributes:
      code: gRPC's name of the status, `HTTP 400`, or one of the names above.
      message: the server's own words, and what they mean where they do not say it.
    """

    def __init__(self, code: str, message: str) -> None:
        message = " ".join(message.split())  # TensorFlow's have several lines.
        cause = next((cause for words, cause in _CAUSES.items() if message.startswith(words)), "")
        message += f" ({cause})" if cause else ""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def with_defaults(signature: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All inputs of a SignatureDef, for what wants every one: REST and functions, unlike gRPC and sessions.

    Raises:
      NannError: a default is no tensor that a request can hold.
    """
    from tfserving_ext.serving.tensors import parse_tensor

    try:
        return {name: parse_tensor(value) for name, value in signature.defaults.items()} | dict(inputs)
    except ValueError as error:
        raise NannError(f"a default of the signature cannot be read: {error}") from error


class Target(Protocol):
    """One place to send requests to. Used from one event loop.

    Attributes:
      kind: "grpc", "rest", "session" or "function".
      address: as the scenario names it.
      shared_process: whether the model runs in this process.
    """

    kind: str
    address: str
    shared_process: bool

    async def open(self) -> None:
        """Connects, or loads.

        Raises:
          NannError: nobody answers, or the model does not load.
        """

    async def close(self) -> None:
        """Gives back what `open` took."""

    async def signatures(self, model: ModelSpec) -> dict[str, Any]:
        """The model's SignatureDefs by name.

        Raises:
          NannError: there is no such model, or nobody answers.
        """

    def prepare(self, model: ModelSpec, inputs: Mapping[str, np.ndarray]) -> Any:
        """A request, encoded ahead of time as far as can be."""

    async def send(self, request: Any, timeout: float) -> Any:
        """Sends a request and waits for the whole answer.

        Returns:
          The answer as it came, not decoded.

        Raises:
          TargetError: it was not answered with success within `timeout` seconds.
        """

    async def ask(self, model: ModelSpec, inputs: Mapping[str, np.ndarray], timeout: float) -> dict[str, np.ndarray]:
        """Sends a request and decodes the answer.

        Raises:
          TargetError: as `send`.
        """

    async def versions(self, model: str) -> dict[int, bool]:
        """The versions that serve (True), and those that failed to load (False); empty where the target cannot tell.

        Raises:
          TargetError: nobody answers.
        """
