"""The local server: TensorFlow Serving's gRPC and REST interfaces in one Python process.

For development and tests. It runs models as TensorFlow Serving does, swaps versions and refuses requests in its words,
but it has neither its batching nor its speed under load: production is TensorFlow Serving. docs/serving.md lists what
differs, and why.
"""

import contextlib
import ctypes
import functools
import os
import queue
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

from tfserving_ext.errors import NannError
from tfserving_ext.progress import console, outcome
from tfserving_ext.serving import grpc_service
from tfserving_ext.serving.config_file import ConfigWatch
from tfserving_ext.serving.grpc_service import GrpcOptions
from tfserving_ext.serving.inference import ServedModels
from tfserving_ext.serving.manager import ModelManager
from tfserving_ext.serving.metrics import Metrics
from tfserving_ext.serving.model_config import ModelConfig
from tfserving_ext.serving.models import ModelOptions, ServingError, load_servable
from tfserving_ext.serving.request_log import Log, log_events
from tfserving_ext.serving.rest import RestOptions, RestServer
from tfserving_ext.serving.versions import LoadOptions

GRPC_PORT = 8500
REST_PORT = 8501
GRACE_SECONDS = 5.0
_M_MMAP_THRESHOLD = -3  # Of glibc's mallopt.
LARGE_BLOCK_BYTES = 4 << 20
_SIGNAL_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class ServerOptions:
    """How the server listens and loads.

    Attributes:
      host: address to listen on.
      grpc_port: None for 8500, or a free one where that is in use; 0 for a free one.
      rest_port: None for 8501, or a free one.
      load: how versions are found and loaded.
      model: how each is run.
      grpc: how the gRPC server takes requests.
      rest: how the REST server answers.
      check_methods: refuse Classify and Regress where a signature's method_name says something else.
      config_file: a ModelServerConfig whose models are those of the constructor, and of which more is to come.
      config_poll_seconds: between two looks at it; 0 for none.
      log: takes what there is to say of a request (`api` and more) or of a version (`event` and more), by name.
    """

    host: str = "127.0.0.1"
    grpc_port: int | None = None
    rest_port: int | None = None
    load: LoadOptions = LoadOptions()  # noqa: RUF009 - frozen
    model: ModelOptions = ModelOptions()  # noqa: RUF009
    grpc: GrpcOptions = GrpcOptions()  # noqa: RUF009
    rest: RestOptions = RestOptions()  # noqa: RUF009
    check_methods: bool = False
    config_file: Path | None = None
    config_poll_seconds: float = 0.0
    log: Log = log_events


class LocalServer:
    """Serves models, from construction to `stop`; also a context manager.

    Example:
      >>> with nann.LocalServer({"nann": "models/nann"}) as server:
      ...     server.versions
      {'nann': [1]}

    Attributes:
      grpc_port: where PredictionService, ModelService, health and reflection listen.
      rest_port: where the REST API listens.
    """

    def __init__(
        self,
        models: Mapping[str, str | os.PathLike[str] | ModelConfig],
        options: ServerOptions = ServerOptions(),
    ) -> None:
        """Loads the models and listens.

        Args:
          models: by name, a folder of versions, such as `models/nann` with `1/` in it, whose newest is served; or more.
          options: see there.

        Raises:
          NannError: no version, a model that does not load, or a port that was asked for is in use.
        """
        for port_name, port in (("grpc_port", options.grpc_port), ("rest_port", options.rest_port)):
            if port is not None and not 0 <= port <= 65535:
                raise NannError(f"{port_name} is {port}, allowed are 0 to 65535")
        load = functools.partial(load_servable, options=options.model)
        self._manager = ModelManager(options.load, load, options.log)
        served = ServedModels(self._manager, Metrics(), options.check_methods)
        # An Event's lock could be held just when a signal's handler wants it; this queue may be put to from anywhere.
        self._ends: queue.SimpleQueue[None] = queue.SimpleQueue()
        host = options.host
        try:
            self._apply({name: _config(name, model) for name, model in models.items()})
            self._grpc = _listen(
                lambda port: grpc_service.start(served, host, port, options.grpc, options.log),
                options.grpc_port,
                GRPC_PORT,
            )
            try:
                self._rest = _listen(
                    lambda port: RestServer(served, host, port, options.rest, options.log),
                    options.rest_port,
                    REST_PORT,
                )
            except BaseException:
                self._grpc.stop(0)
                raise
        except BaseException:
            self._manager.close()
            raise
        self.grpc_port, self.rest_port = self._grpc.port, self._rest.port
        self._watch = None
        if options.config_file is not None and options.config_poll_seconds > 0:
            self._watch = ConfigWatch(options.config_file, options.config_poll_seconds, self._manager, options.log)

    def _apply(self, configs: Mapping[str, ModelConfig]) -> None:
        for config in configs.values():
            if not config.base_path.is_dir():
                raise NannError(
                    f"{config.base_path} is not a folder; it must hold versions, such as {config.base_path / '1'}"
                )
            if not config.wanted():
                raise NannError(
                    f"{config.base_path} holds no version to serve, a folder with a number for a name such as 1"
                )
        try:
            self._manager.apply(configs)
        except ServingError as error:
            raise NannError(error.message) from error

    @property
    def versions(self) -> dict[str, list[int]]:
        """The versions that serve, by model."""
        return {name: self._manager.available(name) for name in self._manager.names()}

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> None:
        """Returns on Ctrl-C, SIGTERM or `stop`. Call it from the main thread."""
        with self.catching_signals():
            # Python runs a handler between two instructions of this thread, and one that comes just as `get` begins to
            # block would wait for as long as it does: so it does not block for long.
            while True:
                with contextlib.suppress(queue.Empty):
                    return self._ends.get(timeout=_SIGNAL_SECONDS)

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
        if self._watch is not None:
            self._watch.stop()
        self._grpc.stop(GRACE_SECONDS)
        self._rest.stop()
        self._manager.close()


def _listen(start: Callable[[int], T], port: int | None, usual: int) -> T:
    """Starts on `port`; where none was asked for, on the usual one or a free one."""
    if port is not None:
        return start(port)
    try:
        return start(usual)
    except NannError:
        return start(0)


def _config(name: str, model: str | os.PathLike[str] | ModelConfig) -> ModelConfig:
    return model if isinstance(model, ModelConfig) else ModelConfig(name, Path(model))


def _give_large_blocks_back() -> None:
    """Has glibc return freed blocks of some MB to the system.

    By itself it learns to keep ever larger blocks, in an arena a thread: a few requests with large tensors, and the
    process holds hundreds of MB for good.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Not every C library has it.
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def run_forever(
    models: Mapping[str, str | os.PathLike[str] | ModelConfig],
    options: ServerOptions = ServerOptions(),
) -> None:
    """Serves until Ctrl-C or SIGTERM; arguments and errors are those of `LocalServer`."""
    _give_large_blocks_back()
    with LocalServer(models, options) as server, server.catching_signals():
        host = options.host
        shown = f"[{host}]" if ":" in host else host
        served = ", ".join(f"{name} version {' '.join(map(str, found))}" for name, found in server.versions.items())
        first = next(iter(models), "MODEL")
        scheme = "http" if options.rest.tls is None else "https"
        outcome(
            "serve",
            f"{served}: gRPC {shown}:{server.grpc_port}, REST {scheme}://{shown}:{server.rest_port}/v1/models/{first}",
        )
        if options.grpc.tls is not None and options.rest.tls is None:
            console.print(
                "REST is plain text, as TensorFlow Serving's is; --rest-api-tls gives it the same TLS as gRPC."
            )
        console.print("For development; production is TensorFlow Serving. Ctrl-C stops.")
        server.wait()
