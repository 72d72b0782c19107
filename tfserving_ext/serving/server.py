"""The local server: TensorFlow Serving's gRPC and REST interfaces in one Python process.

It is for development and tests. It runs models and swaps versions as TensorFlow Serving does and answers with the same
errors, but it has neither its batching nor its speed under load: use TensorFlow Serving in production. docs/serving.md
lists the differences.
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
_M_MMAP_THRESHOLD = -3  # A parameter of glibc's mallopt.
LARGE_BLOCK_BYTES = 4 << 20
_SIGNAL_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True)
class ServerOptions:
    """How the server listens and loads.

    Attributes:
      host: the address to listen on.
      grpc_port: the port for gRPC; None for 8500, or a free one if that is in use; 0 for a free one.
      rest_port: the port for REST; None for 8501, or a free one if that is in use; 0 for a free one.
      load: how versions are found and loaded.
      model: how each version is loaded into a session and warmed up.
      grpc: how the gRPC server accepts requests.
      rest: how the REST server accepts requests.
      check_methods: whether Classify and Regress refuse a signature whose method_name is another method's.
      config_file: a ModelServerConfig in text form, the source of the models given to `LocalServer`, to poll for
        changes; None for no polling.
      config_poll_seconds: the interval between two reads of `config_file`; 0 disables polling.
      deltas: the folder of updates that all indexes follow (docs/live.md), as the environment variable NANN_DELTAS of
        the process, which is set, says to the ops; None to leave the variable as it is.
      log: called with keyword arguments for each finished request (`api` and others) and for each event of a version
        (`event` and others).
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
    deltas: Path | None = None
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
          models: for each name, either a folder of versions such as `models/nann`, which contains `1/` and of which
            the newest version is served, or a ModelConfig, which can select others.
          options: how the server listens and loads.

        Raises:
          NannError: a model has no version or does not load, or a given port is out of range or in use.
        """
        for port_name, port in (("grpc_port", options.grpc_port), ("rest_port", options.rest_port)):
            if port is not None and not 0 <= port <= 65535:
                raise NannError(f"{port_name} is {port}, allowed are 0 to 65535")
        if options.deltas is not None:
            os.environ["NANN_DELTAS"] = str(options.deltas)
        load = functools.partial(load_servable, options=options.model)
        self._manager = ModelManager(options.load, load, options.log)
        served = ServedModels(self._manager, Metrics(), options.check_methods)
        # Signal handlers put to this queue. An Event would not do: its lock could be held by the interrupted code.
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
                    f"{config.base_path} is not a folder; it must contain versions, such as {config.base_path / '1'}"
                )
            if not config.wanted():
                raise NannError(
                    f"{config.base_path} holds no version to serve, which is a folder with a number as its name, such "
                    "as 1"
                )
        try:
            self._manager.apply(configs)
        except ServingError as error:
            raise NannError(error.message) from error

    @property
    def versions(self) -> dict[str, list[int]]:
        """The numbers of the versions that serve, by model."""
        return {name: self._manager.available(name) for name in self._manager.names()}

    def __enter__(self) -> "LocalServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> None:
        """Blocks until Ctrl-C, SIGTERM or `stop`; must be called from the main thread."""
        with self.catching_signals():
            # Python runs signal handlers between two instructions of this thread. A signal that arrives just before
            # `get` blocks is handled only when `get` returns, so `get` must not block for long.
            while True:
                with contextlib.suppress(queue.Empty):
                    return self._ends.get(timeout=_SIGNAL_SECONDS)

    @contextlib.contextmanager
    def catching_signals(self) -> Iterator[None]:
        """Makes Ctrl-C and SIGTERM inside the block end `wait`, also if it is called later.

        Enter it before announcing that the server is ready.
        """

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
        """Answers the pending requests, stops listening and unloads the models."""
        self._ends.put(None)
        if self._watch is not None:
            self._watch.stop()
        self._grpc.stop(GRACE_SECONDS)
        self._rest.stop()
        self._manager.close()


def _listen(start: Callable[[int], T], port: int | None, usual: int) -> T:
    """Starts a server on `port`, or, if that is None, on the usual port or a free one."""
    if port is not None:
        return start(port)
    try:
        return start(usual)
    except NannError:
        return start(0)


def _config(name: str, model: str | os.PathLike[str] | ModelConfig) -> ModelConfig:
    return model if isinstance(model, ModelConfig) else ModelConfig(name, Path(model))


def _give_large_blocks_back() -> None:
    """Makes glibc return freed blocks above LARGE_BLOCK_BYTES to the system.

    By default glibc raises this threshold as large blocks are freed, and it has an arena for each thread: after a few
    requests with large tensors, the process would hold hundreds of MB for good.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Only some C libraries have it.
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def run_forever(
    models: Mapping[str, str | os.PathLike[str] | ModelConfig],
    options: ServerOptions = ServerOptions(),
) -> None:
    """Serves models until Ctrl-C or SIGTERM; the arguments and errors are those of `LocalServer`."""
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
            console.print("REST is plain text, as in TensorFlow Serving; --rest-api-tls gives it the same TLS as gRPC.")
        console.print("For development only; use TensorFlow Serving in production. Press Ctrl-C to stop.")
        server.wait()
