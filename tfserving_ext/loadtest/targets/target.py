"""The interface of a target of `nann bench`."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import ModelSpec

OK = "OK"
UNREACHABLE = "UNAVAILABLE"  # With any protocol: no server answers.
TIMED_OUT = "DEADLINE_EXCEEDED"


# Causes of errors that the server's message does not explain, by the beginning of the message.
_CAUSES = {
    "Server Threadpool Exhausted": (
        "TensorFlow Serving's gRPC server refuses requests that exceed its threads, 4 per core by default: "
        "start it with --grpc_max_threads=64 or more"
    ),
    "Concurrent RPC limit exceeded": (
        "the queue of `nann serve` is full; raise --grpc_max_threads or --grpc_max_queue"
    ),
}


class TargetError(Exception):
    """A request failed.

    Attributes:
      code: the name of the gRPC status, `HTTP 400` and the like, `UNREACHABLE` or `TIMED_OUT`.
      message: the server's message, followed by its cause in parentheses if the message does not explain it.
    """

    def __init__(self, code: str, message: str) -> None:
        message = " ".join(message.split())  # TensorFlow's messages can have several lines.
        cause = next((cause for words, cause in _CAUSES.items() if message.startswith(words)), "")
        message += f" ({cause})" if cause else ""
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def with_defaults(signature: Any, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Adds a SignatureDef's default values to inputs; REST and functions need every input, unlike gRPC and sessions.

    Raises:
      NannError: a default cannot be parsed.
    """
    from tfserving_ext.serving.tensors import parse_tensor

    try:
        return {name: parse_tensor(value) for name, value in signature.defaults.items()} | dict(inputs)
    except ValueError as error:
        raise NannError(f"a default of the signature cannot be read: {error}") from error


class Target(Protocol):
    """A place to send requests to, used from one event loop.

    Attributes:
      kind: "grpc", "rest", "session" or "function".
      address: the server's address, or the kind for a target in process.
      shared_process: whether the model runs in this process.
    """

    kind: str
    address: str
    shared_process: bool

    async def open(self) -> None:
        """Connects to the server, or loads the models; must be called first.

        Raises:
          NannError: the address is invalid, or a model does not load.
        """

    async def close(self) -> None:
        """Releases what `open` acquired."""

    async def signatures(self, model: ModelSpec) -> dict[str, Any]:
        """Returns the model's SignatureDefs by name; must be called before `prepare` for the model.

        Raises:
          NannError: there is no such model, or the server does not answer.
        """

    def prepare(self, model: ModelSpec, inputs: Mapping[str, np.ndarray]) -> Any:
        """Encodes a request ahead of time as far as possible, for `send`."""

    async def send(self, request: Any, timeout: float) -> Any:
        """Sends a request and waits for the whole answer.

        Returns:
          The answer, not decoded.

        Raises:
          TargetError: it was not answered successfully within `timeout` seconds.
        """

    async def ask(self, model: ModelSpec, inputs: Mapping[str, np.ndarray], timeout: float) -> dict[str, np.ndarray]:
        """Sends a request and decodes the answer.

        Raises:
          TargetError: as in `send`.
        """

    async def versions(self, model: str) -> dict[int, bool]:
        """Returns the versions that serve (True) and those that failed to load (False); empty in process.

        Raises:
          TargetError: the server does not answer.
        """
