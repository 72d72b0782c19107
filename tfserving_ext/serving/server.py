"""The local server: TensorFlow Serving's gRPC and REST interfaces in one Python process.

For development and tests. It runs models as TensorFlow Serving does and refuses requests in its words, but it has
neither its batching nor its version policies nor its speed under load: production is TensorFlow Serving.
"""

import contextlib
import os
import queue
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

from tfserving_ext.errors import NannError
from tfserving_ext.progress import console, outcome
from tfserving_ext.serving import grpc_service
from tfserving_ext.serving.predict import Models
from tfserving_ext.serving.rest import RestServer

GRPC_PORT = 8500
REST_PORT = 8501
GRACE_SECONDS = 5.0

T = TypeVar("T")


class LocalServer:
    """Serves the newest version of one model, from construction to `stop`; also a context manager.

    Example:
      >>> with LocalServer("nann", "models/nann") as server:
      ...     print(server.grpc_port, server.rest_port)

    Attributes:
      version: what is served.
      grpc_port: where PredictionService, ModelService and health listen.
      rest_port: where the REST API listens.
    """

    def __init__(
        self,
        name: str,
        base_path: str | os.PathLike[str],
        host: str = "127.0.0.1",
        grpc_port: int | None = None,
        rest_port: int | None = None,
    ) -> None:
        """Loads the model and listens.

        Args:
          name: the model's name in requests.
          base_path: a folder of versions, such as `models/nann` with `1/` in it.
          host: address to listen on.
          grpc_port: None for 8500, or a free one where that is in use; 0 for a free one.
          rest_port: None for 8501, or a free one.

        Raises:
          NannError: no version, a model that does not load, or a port that was asked for is in use.
        """
        for port_name, port in (("grpc_port", grpc_port), ("rest_port", rest_port)):
            if port is not None and not 0 <= port <= 65535:
                raise NannError(f"{port_name} is {port}, allowed are 0 to 65535")
        self._models = Models()
        self.version = self._models.load(name, Path(base_path))
        # An Event's lock could be held just when a signal's handler wants it; this queue may be put to from anywhere.
        self._ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        try:
            self._grpc, self.grpc_port = _listen(
                lambda port: grpc_service.start(self._models, host, port), grpc_port, GRPC_PORT
            )
            try:
                self._rest = _listen(lambda port: RestServer(self._models, host, port), rest_port, REST_PORT)
            except BaseException:
                self._grpc.stop(None)
                raise
        except BaseException:
            self._models.close()
            raise
        self.rest_port = self._rest.port

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> None:
        """Returns on Ctrl-C, SIGTERM or `stop`. Call it from the main thread."""
        with self.catching_signals():
            self._ends.get()

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM inside end the next `wait`. Enter it before telling anybody that the server is there."""

        def end(number: int, frame: FrameType | None) -> None:
            del number, frame
            self._ends.put(None)

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> None:
        """Answers what has begun, stops listening and unloads the model."""
        self._ends.put(None)
        self._grpc.stop(GRACE_SECONDS).wait()
        self._rest.stop()
        self._models.close()


def _listen(start: Callable[[int], T], port: int | None, usual: int) -> T:
    """Starts on `port`; where none was asked for, on the usual one or a free one."""
    if port is not None:
        return start(port)
    try:
        return start(usual)
    except NannError:
        return start(0)


def run_forever(
    name: str,
    base_path: str | os.PathLike[str],
    host: str = "127.0.0.1",
    grpc_port: int | None = None,
    rest_port: int | None = None,
) -> None:
    """Serves until Ctrl-C or SIGTERM; arguments and errors are those of `LocalServer`."""
    with LocalServer(name, base_path, host, grpc_port, rest_port) as server, server.catching_signals():
        shown = f"[{host}]" if ":" in host else host
        outcome(
            "serve",
            f"{name} version {server.version}: gRPC {shown}:{server.grpc_port}, "
            f"REST http://{shown}:{server.rest_port}/v1/models/{name}",
        )
        console.print("For development; production is TensorFlow Serving. Ctrl-C stops.")
        server.wait()
