"""Watches the models' base paths, loads new versions and unloads versions that are no longer wanted.

An old version is retired only once a new one serves, and keeps serving if the new one fails to load. A request holds
the version that answers it: the version's session is closed when its last request has finished. versions.py has the
states of a version.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_pb2

from tfserving_ext.serving.model_config import ModelConfig
from tfserving_ext.serving.models import LoadError, Servable, ServingError, invalid, load_servable
from tfserving_ext.serving.versions import LoadOptions, Model, Version


class ModelManager:
    """The served models, by name and version. All methods may be called from any thread."""

    def __init__(
        self,
        options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
        load: Callable[[Path], Servable] = load_servable,
        log: Callable[..., None] = lambda **_: None,
    ) -> None:
        """Creates a manager that serves nothing until a configuration is applied.

        Args:
          options: how versions are found and loaded.
          load: loads the servable in a version's folder.
          log: called for each change of a version with the keyword arguments `event`, `model`, `version` and further
            ones that depend on the event.
        """
        self._options, self._load, self._log = options, load, log
        self._models: dict[str, Model] = {}
        self._lock = threading.RLock()
        # Held while the base paths are scanned, by the watcher or by `apply`.
        self._scanning = threading.Lock()
        self._ending = threading.Event()
        self._watcher: threading.Thread | None = None

    def apply(self, configs: Mapping[str, ModelConfig]) -> None:
        """Replaces the served models by `configs`; returns when each of them has a version that serves.

        Models that are no longer named are unloaded.

        Args:
          configs: the models by name.

        Raises:
          ServingError: a label is assigned to a version that is not available, in which case nothing changes; or a
            model did not become available, in which case all others are served as configured.
        """
        with self._scanning:
            self._check_labels(configs)
            with self._lock:
                for name in configs:
                    self._models.setdefault(name, Model())
                for name, model in self._models.items():
                    model.config = configs.get(name)
            self._scan()
            with self._lock:
                for model in self._models.values():
                    model.labels = {} if model.config is None else dict(model.config.labels)
            failed = [text for name in configs if (text := self._why_not_available(name))]
        if self._watcher is None and self._options.poll_seconds > 0:
            self._watcher = threading.Thread(target=self._watch, name="watch base paths", daemon=True)
            self._watcher.start()
        if failed:
            raise ServingError(
                grpc.StatusCode.UNKNOWN, f"{len(failed)} model(s) did not become available: {{{', '.join(failed)}, }}"
            )

    def close(self) -> None:
        """Stops watching and unloads all models; a model that is in use is closed by its last request."""
        self._ending.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._scanning:
            for model in self._models.values():
                self._retire(model.versions.values())

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[tuple[int, Servable]]:
        """Yields the number and the servable of the version that `spec` names; it stays loaded inside the block.

        Raises:
          ServingError: no such version is available.
        """
        with self._lock:
            version = self._find(spec)
            version.users += 1
            servable = version.servable
        try:
            if servable is None:
                raise RuntimeError(f"version {version.number} of {spec.name} is available but not loaded")
            yield version.number, servable
        finally:
            with self._lock:
                version.users -= 1
            self._unload(version)

    def names(self) -> list[str]:
        """Returns the names of the configured models."""
        with self._lock:
            return [name for name, model in self._models.items() if model.config is not None]

    def available(self, name: str) -> list[int]:
        """Returns the versions of a model that serve, in ascending order."""
        with self._lock:
            return sorted(self._model(name).available())

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the state of the version that `spec` names, or of all versions, the newest first.

        Raises:
          ServingError: the model or the version is unknown.
        """
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._lock:
            versions = self._model(spec.name).versions
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

    def _model(self, name: str) -> Model:
        """Returns the model `name`, or an empty one if it is unknown."""
        return self._models.get(name, Model())

    def _find(self, spec: model_pb2.ModelSpec) -> Version:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self._model(spec.name)
        available = model.available()
        # An empty label counts as a label if it was sent.
        if spec.WhichOneof("version_choice") == "version_label":
            if spec.version_label not in model.labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            number = model.labels[spec.version_label]
            request = f"Specific({spec.name}, {number})"
        elif spec.HasField("version"):
            number = spec.version.value
            request = f"Specific({spec.name}, {number})"
        else:
            number = max(available, default=-1)
            request = f"Latest({spec.name})"
        if number not in available:
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}")
        return available[number]

    def _check_labels(self, configs: Mapping[str, ModelConfig]) -> None:
        if self._options.labels_ahead:
            return
        with self._lock:
            for name, config in configs.items():
                for number in config.labels.values():
                    if number not in self._model(name).available():
                        raise ServingError(
                            grpc.StatusCode.FAILED_PRECONDITION,
                            f"Request to assign label to version {number} of model {name}, which is not currently "
                            "available for inference",
                        )

    def _watch(self) -> None:
        while not self._ending.wait(self._options.poll_seconds):
            with self._scanning:
                self._scan()

    def _scan(self) -> None:
        """Scans all base paths once, loads new versions and retires unwanted ones."""
        for name, model in list(self._models.items()):
            wanted = {} if model.config is None else model.config.wanted()
            if wanted is None:
                continue
            for number, path in sorted(wanted.items()):
                if not self._ending.is_set():
                    self._start(name, model, number, path)
            with self._lock:
                available = any(number in wanted for number in model.available())
                unwanted = [version for number, version in model.versions.items() if number not in wanted]
            # Unwanted versions are retired once a wanted one serves, or if no version is wanted at all.
            if available or not wanted:
                self._retire(unwanted)
            with self._lock:
                for version in unwanted:
                    version.forget_folder()

    def _start(self, name: str, model: Model, number: int, path: Path) -> None:
        """Loads a version unless it is loaded already, has failed for good or waits for its next try."""
        with self._lock:
            version = model.versions.get(number)
            if version is None or version.may_return(path):
                version = model.versions[number] = Version(name, number, path)
            if not version.is_due(time.monotonic()):
                return
            version.load()
        which = {"model": name, "version": number}
        self._log(event="loading", **which, path=str(path))
        begin = time.monotonic()
        try:
            servable = self._load(path)
        except Exception as found:  # The watcher must survive whatever TensorFlow raises for a model's files.
            error = (
                found
                if isinstance(found, LoadError)
                else LoadError(path, grpc.StatusCode.UNKNOWN, f"{type(found).__name__}: {found}")
            )
            with self._lock:
                again = version.failed(error, self._options, time.monotonic())
            retry = {"retry_after_seconds": self._options.retry_seconds} if again else {}
            self._log(event="failed", **which, seconds=_since(begin), error=error.message, **retry)
            return
        with self._lock:
            version.loaded(servable)
        self._log(event="serving", **which, seconds=_since(begin))

    def _retire(self, versions: Iterable[Version]) -> None:
        """Stops these versions from taking requests and unloads those that are not in use."""
        with self._lock:
            requests = [(version, version.users) for version in versions if version.retire()]
        for version, users in requests:
            self._log(event="retiring", model=version.model, version=version.number, requests=users)
            self._unload(version)

    def _unload(self, version: Version) -> None:
        """Closes the servable of a retired version if it is not in use."""
        with self._lock:
            servable = version.unload()
        if servable is not None:  # Closing is slow, so it happens without the lock.
            begin = time.monotonic()
            servable.close()
            self._log(event="unloaded", model=version.model, version=version.number, seconds=_since(begin))

    def _why_not_available(self, name: str) -> str:
        """Returns TensorFlow Serving's message for a model that does not serve, or "" if the model serves."""
        with self._lock:
            model = self._models[name]
            if model.available():
                return ""
            errors = {number: version.error for number, version in model.versions.items() if version.error is not None}
            config = model.config
        if config is None:
            return ""
        if not errors:
            if config.policy.WhichOneof("policy_choice") == "specific" and config.base_path.is_dir():
                return ""  # The specified versions may appear later.
            return f"{{{{name: {name}}} due to error: NOT_FOUND: {config.base_path} holds no version to serve}}"
        number = max(errors)
        reason = f"{errors[number].code.name}: {errors[number].message}"
        return f"{{{{name: {name} version: {number}}} due to error: {reason}}}"


def _since(begin: float) -> float:
    return round(time.monotonic() - begin, 3)
