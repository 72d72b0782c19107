"""Which versions are loaded: watches the base paths, loads what is new, unloads what is not wanted any more.

A new version serves before the old one goes, and a broken one leaves the old serving. A request holds the version that
answers it: its session closes when the last request has left it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from tfserving_ext.serving.model_config import ModelConfig
from tfserving_ext.serving.models import LoadError, Servable, ServingError, invalid, load_servable
from tfserving_ext.serving.versions import STATUS, Left, LoadOptions, Model, Version


class ModelManager:
    """The models that are served, by name and version. All methods may be called from any thread."""

    def __init__(
        self,
        options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
        load: Callable[[Path], Servable] = load_servable,
        log: Callable[..., None] = lambda **_: None,
    ) -> None:
        """Serves nothing until a configuration is applied.

        Args:
          options: see there.
          load: makes a version's folder a servable.
          log: takes what becomes of a version, by name: `event`, `model`, `version` and what belongs to it.
        """
        self._options, self._load, self._log = options, load, log
        self._models: dict[str, Model] = {}
        self._labels: dict[str, Mapping[str, int]] = {}
        self._lock = threading.RLock()
        # One look at a time: the watcher's, or that of who applies a configuration.
        self._looking = threading.Lock()
        self._ending = threading.Event()
        self._watcher: threading.Thread | None = None

    def apply(self, configs: Mapping[str, ModelConfig]) -> None:
        """Serves these models in place of those of before; returns when each has a version that serves.

        Models that are no longer named are unloaded.

        Raises:
          ServingError: a label is of a version that is not available, which changes nothing; or a model did not become
            available, where all others are served as the configuration says.
        """
        with self._looking:
            self._check_labels(configs)
            with self._lock:
                for name, model in self._models.items():
                    if name not in configs:
                        model.config = None
                for name, config in configs.items():
                    self._models.setdefault(name, Model(config)).config = config
            self._look()
            with self._lock:
                self._labels = {name: dict(config.labels) for name, config in configs.items()}
            failed = [text for name in configs if (text := self._why_not_available(name))]
        if self._watcher is None and self._options.poll_seconds > 0:
            self._watcher = threading.Thread(target=self._watch, name="watch base paths", daemon=True)
            self._watcher.start()
        if failed:
            raise ServingError(
                grpc.StatusCode.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{', '.join(failed)}, }}"
            )

    def close(self) -> None:
        """Stops watching and unloads all; requests that are in a model are waited for by their own threads."""
        self._ending.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._lock:
            left = [
                self._retire(name, number, version)
                for name, model in self._models.items()
                for number, version in model.versions.items()
            ]
        self._close(left)

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[tuple[int, Servable]]:
        """The version and model that a request is for, which stays loaded inside the block.

        Raises:
          ServingError: none is.
        """
        with self._lock:
            number, version = self._find(spec)
            version.users += 1
            servable = version.servable
        if servable is None:
            raise RuntimeError(f"version {number} of {spec.name} is available but not loaded")
        try:
            yield number, servable
        except ServingError as error:
            error.version = number
            raise
        finally:
            with self._lock:
                version.users -= 1
                left = Left(spec.name, number, self._end_when_left(version))
            self._close([left])

    def names(self) -> list[str]:
        """Names of the models of the configuration."""
        with self._lock:
            return [name for name, model in self._models.items() if model.config is not None]

    def available(self, name: str) -> list[int]:
        """The versions of a model that serve."""
        with self._lock:
            versions = self._models[name].versions if name in self._models else {}
            return sorted(number for number, version in versions.items() if version.state == STATUS.AVAILABLE)

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of one version, or of all, the newest first.

        Raises:
          ServingError: the model or the version was never there.
        """
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._lock:
            versions = self._models[spec.name].versions if spec.name in self._models else {}
            if not versions:
                raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}")
            wanted = sorted(versions, reverse=True)
            if spec.HasField("version"):
                wanted = [spec.version.value]
                if spec.version.value not in versions:
                    message = f"Could not find version {spec.version.value} of model {spec.name}"
                    raise ServingError(grpc.StatusCode.NOT_FOUND, message)
            for number in wanted:
                entry = response.model_version_status.add(version=number, state=versions[number].state)
                entry.status.SetInParent()
                if (error := versions[number].error) is not None:
                    entry.status.error_code = error.code.value[0]
                    entry.status.error_message = error.message
        return response

    def _find(self, spec: model_pb2.ModelSpec) -> tuple[int, Version]:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        versions = {
            number: version
            for number, version in (self._models[spec.name].versions if spec.name in self._models else {}).items()
            if version.state == STATUS.AVAILABLE
        }
        # A label that was sent is a label, the empty one too.
        if spec.WhichOneof("version_choice") == "version_label":
            labels = self._labels.get(spec.name, {})
            if spec.version_label not in labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            number = labels[spec.version_label]
            request = f"Specific({spec.name}, {number})"
        elif spec.HasField("version"):
            number = spec.version.value
            request = f"Specific({spec.name}, {number})"
        else:
            number = max(versions, default=-1)
            request = f"Latest({spec.name})"
        if number not in versions:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}")
        return number, versions[number]

    def _check_labels(self, configs: Mapping[str, ModelConfig]) -> None:
        if self._options.labels_ahead:
            return
        with self._lock:
            for name, config in configs.items():
                for number in config.labels.values():
                    version = self._models[name].versions.get(number) if name in self._models else None
                    if version is None or version.state != STATUS.AVAILABLE:
                        raise ServingError(
                            grpc.StatusCode.FAILED_PRECONDITION,
                            f"Request to assign label to version {number} of model {name}, which is not currently "
                            "available for inference",
                        )

    def _watch(self) -> None:
        while not self._ending.wait(self._options.poll_seconds):
            with self._looking:
                self._look()

    def _look(self) -> None:
        """Looks once at all base paths."""
        for name, model in list(self._models.items()):
            wanted = {} if model.config is None else model.config.wanted()
            if wanted is None:
                continue
            for number, path in sorted(wanted.items()):
                if not self._ending.is_set():
                    self._start(name, model, number, path)
            with self._lock:
                available = any(
                    version.state == STATUS.AVAILABLE for number, version in model.versions.items() if number in wanted
                )
                unwanted = {number: version for number, version in model.versions.items() if number not in wanted}
                # A version goes once another one serves; or where none is to serve.
                left = [
                    self._retire(name, number, version)
                    for number, version in unwanted.items()
                    if available or not wanted
                ]
                for version in unwanted.values():
                    if version.state == STATUS.END:
                        version.path = Path()  # When it comes back, it is tried again.
            self._close(left)

    def _start(self, name: str, model: Model, number: int, path: Path) -> None:
        """Loads a version that is not loaded yet, unless it failed for good."""
        with self._lock:
            version = model.versions.get(number)
            ended = version is not None and version.state == STATUS.END
            if version is None or (ended and (version.path != path or version.error is None)):
                version = model.versions[number] = Version(path)
            elif ended or version.servable is not None or time.monotonic() < version.next_try:
                return
            version.state = STATUS.LOADING
        self._log(event="loading", model=name, version=number, path=str(path))
        begin = time.monotonic()
        try:
            servable = self._load(path)
        except Exception as found:  # Whatever a model's files make TensorFlow raise, the watcher goes on.
            error = (
                found
                if isinstance(found, LoadError)
                else LoadError(path, grpc.StatusCode.UNKNOWN, f"{type(found).__name__}: {found}")
            )
            with self._lock:
                version.tries += 1
                if version.tries <= self._options.retries:
                    version.next_try = time.monotonic() + self._options.retry_seconds
                else:
                    version.state, version.error = STATUS.END, error
                again = version.state == STATUS.LOADING
            retry = {"retry_after_seconds": self._options.retry_seconds} if again else {}
            seconds = round(time.monotonic() - begin, 3)
            self._log(event="failed", model=name, version=number, seconds=seconds, error=error.message, **retry)
            return
        with self._lock:
            version.servable, version.error, version.state = servable, None, STATUS.AVAILABLE
        self._log(event="serving", model=name, version=number, seconds=round(time.monotonic() - begin, 3))

    def _why_not_available(self, name: str) -> str:
        """What TensorFlow Serving says of a model that does not serve; empty where it does."""
        with self._lock:
            versions = self._models[name].versions
            if any(version.state == STATUS.AVAILABLE for version in versions.values()):
                return ""
            failed = {number: version for number, version in versions.items() if version.error is not None}
            config = self._models[name].config
        if config is None:
            return ""
        if not failed:
            if config.policy.WhichOneof("policy_choice") == "specific" and config.base_path.is_dir():
                return ""  # Versions that may come later.
            return f"{{{{name: {name}}} due to error: NOT_FOUND: {config.base_path} holds no version to serve}}"
        number = max(failed)
        error = failed[number].error
        reason = f"{error.code.name}: {error.message}" if error else ""
        return f"{{{{name: {name} version: {number}}} due to error: {reason}}}"

    @staticmethod
    def _retire(name: str, number: int, version: Version) -> Left:
        """Takes no more requests; what is to be closed, where no request is left in it."""
        retired = None
        if version.state in (STATUS.AVAILABLE, STATUS.LOADING, STATUS.START):
            version.state, retired = STATUS.UNLOADING, version.users
        return Left(name, number, ModelManager._end_when_left(version), retired)

    @staticmethod
    def _end_when_left(version: Version) -> Servable | None:
        if version.state != STATUS.UNLOADING or version.users > 0:
            return None
        servable, version.servable, version.state = version.servable, None, STATUS.END
        return servable

    def _close(self, versions: list[Left]) -> None:
        """Closes what is there to close; outside of the lock, as it can take a while."""
        for left in versions:
            told = {"model": left.model, "version": left.number}
            if left.retired is not None:
                self._log(event="retiring", **told, requests=left.retired)
            if left.servable is not None:
                begin = time.monotonic()
                left.servable.close()
                self._log(event="unloaded", **told, seconds=round(time.monotonic() - begin, 3))
