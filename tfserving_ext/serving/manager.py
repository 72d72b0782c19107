"""Which versions are loaded: watches the base paths, loads what is new, unloads what is not wanted any more.

A new version serves before the old one goes, and a broken one leaves the old serving. A request holds the version that
answers it: its session closes when the last request has left it. What may become of a version is in versions.py.
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
                for name in configs:
                    self._models.setdefault(name, Model())
                for name, model in self._models.items():
                    model.config = configs.get(name)
            self._look()
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
        """Stops watching and unloads all; requests that are in a model are waited for by their own threads."""
        self._ending.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._looking:
            for model in self._models.values():
                self._retire(model.versions.values())

    @contextlib.contextmanager
    def use(self, spec: model_pb2.ModelSpec) -> Iterator[tuple[int, Servable]]:
        """The version and model that a request is for, which stays loaded inside the block.

        Raises:
          ServingError: none is.
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
        """Names of the models of the configuration."""
        with self._lock:
            return [name for name, model in self._models.items() if model.config is not None]

    def available(self, name: str) -> list[int]:
        """The versions of a model that serve."""
        with self._lock:
            return sorted(self._model(name).available())

    def status(self, spec: model_pb2.ModelSpec) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of one version, or of all, the newest first.

        Raises:
          ServingError: the model or the version was never there.
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
        """The model `name`; one without versions where there is none."""
        return self._models.get(name, Model())

    def _find(self, spec: model_pb2.ModelSpec) -> Version:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        model = self._model(spec.name)
        available = model.available()
        # A label that was sent is a label, the empty one too.
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
                available = any(number in wanted for number in model.available())
                unwanted = [version for number, version in model.versions.items() if number not in wanted]
            # A version goes once another one serves; or where none is to serve.
            if available or not wanted:
                self._retire(unwanted)
            with self._lock:
                for version in unwanted:
                    version.forget_folder()

    def _start(self, name: str, model: Model, number: int, path: Path) -> None:
        """Loads a version that is not loaded yet, unless it failed for good."""
        with self._lock:
            version = model.versions.get(number)
            if version is None or version.may_return(path):
                version = model.versions[number] = Version(name, number, path)
            if not version.is_due(time.monotonic()):
                return
            version.load()
        told = {"model": name, "version": number}
        self._log(event="loading", **told, path=str(path))
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
                again = version.failed(error, self._options, time.monotonic())
            retry = {"retry_after_seconds": self._options.retry_seconds} if again else {}
            self._log(event="failed", **told, seconds=_since(begin), error=error.message, **retry)
            return
        with self._lock:
            version.loaded(servable)
        self._log(event="serving", **told, seconds=_since(begin))

    def _retire(self, versions: Iterable[Version]) -> None:
        """Has these versions take no more requests, and unloads those that no request is in."""
        with self._lock:
            requests = [(version, version.users) for version in versions if version.retire()]
        for version, users in requests:
            self._log(event="retiring", model=version.model, version=version.number, requests=users)
            self._unload(version)

    def _unload(self, version: Version) -> None:
        """Closes the model of a version that was retired, once no request is in it."""
        with self._lock:
            servable = version.unload()
        if servable is not None:  # Closing takes a while, during which others may have the lock.
            begin = time.monotonic()
            servable.close()
            self._log(event="unloaded", model=version.model, version=version.number, seconds=_since(begin))

    def _why_not_available(self, name: str) -> str:
        """What TensorFlow Serving says of a model that does not serve; empty where it does."""
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
                return ""  # Versions that may come later.
            return f"{{{{name: {name}}} due to error: NOT_FOUND: {config.base_path} holds no version to serve}}"
        number = max(errors)
        reason = f"{errors[number].code.name}: {errors[number].message}"
        return f"{{{{name: {name} version: {number}}} due to error: {reason}}}"


def _since(begin: float) -> float:
    return round(time.monotonic() - begin, 3)
