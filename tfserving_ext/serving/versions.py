"""The local server's state of its models and their versions, and the allowed changes of a version's state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from tfserving_ext.serving.model_config import ModelConfig
from tfserving_ext.serving.models import LoadError, Servable

STATUS = get_model_status_pb2.ModelVersionStatus

# The allowed changes of a version's state: for each event, the state after it by the state before it. A version never
# leaves the state END: a new `Version` takes its place.
_TRANSITIONS: dict[str, dict[int, int]] = {
    "load": {STATUS.START: STATUS.LOADING, STATUS.LOADING: STATUS.LOADING},  # LOADING: a further try.
    "loaded": {STATUS.LOADING: STATUS.AVAILABLE},
    "failed": {STATUS.LOADING: STATUS.END},  # After the last try only.
    "retire": {STATUS.LOADING: STATUS.UNLOADING, STATUS.AVAILABLE: STATUS.UNLOADING},
    "unload": {STATUS.UNLOADING: STATUS.END},  # Only once no request uses it.
}


@dataclass(frozen=True)
class LoadOptions:
    """How versions are found and loaded.

    Attributes:
      poll_seconds: the interval between two scans of the base paths; with 0 they are scanned only when a configuration
        is applied.
      retries: how often a version that fails to load is tried again.
      retry_seconds: the interval between two tries.
      labels_ahead: whether labels may be assigned to versions that are not available yet.
    """

    poll_seconds: float = 1.0
    retries: int = 0
    retry_seconds: float = 60.0
    labels_ahead: bool = False


@dataclass
class Version:
    """One version of one model, from its discovery to its end; guarded by the manager's lock.

    Attributes:
      model: the model's name.
      number: the version's number.
      path: the version's folder; None once the version has ended and is no longer wanted.
      state: the state that ModelService reports; only the methods change it, as `_TRANSITIONS` allows.
      error: the reason if the version failed to load for good, else None.
      servable: the loaded model; None while it is not loaded.
      users: the number of requests that use it.
      tries: how often it failed to load.
      next_try: when to load it again, on the monotonic clock.
    """

    model: str
    number: int
    path: Path | None
    state: int = STATUS.START
    error: LoadError | None = None
    servable: Servable | None = None
    users: int = 0
    tries: int = 0
    next_try: float = 0.0

    def is_due(self, now: float) -> bool:
        """Returns whether the version should be loaded at the time `now`."""
        return self._allows("load") and now >= self.next_try

    def may_return(self, path: Path) -> bool:
        """Returns whether the version has ended and may be loaded again from `path`.

        A version that failed to load from the same path may not.
        """
        return self.state == STATUS.END and (self.error is None or self.path != path)

    def load(self) -> None:
        """Records that loading begins."""
        self._take("load")

    def loaded(self, servable: Servable) -> None:
        """Records that the version is loaded and takes requests from now on."""
        self._take("loaded")
        self.servable = servable

    def failed(self, error: LoadError, options: LoadOptions, now: float) -> bool:
        """Records that a try to load it failed at the time `now`; returns whether it will be tried again."""
        self.tries += 1
        if self.tries <= options.retries:
            self.next_try = now + options.retry_seconds
            return True
        self._take("failed")
        self.error = error
        return False

    def retire(self) -> bool:
        """Stops the version from taking requests; returns False if it was neither loading nor available."""
        if not self._allows("retire"):
            return False
        self._take("retire")
        return True

    def unload(self) -> Servable | None:
        """Ends a retired version that no request uses; returns the model that the caller must close, if any."""
        if self.users > 0 or not self._allows("unload"):
            return None
        self._take("unload")
        servable, self.servable = self.servable, None
        return servable

    def forget_folder(self) -> None:
        """Lets a folder that later appears in the place of this ended version's folder be loaded."""
        if self.state == STATUS.END:
            self.path = None

    def _allows(self, event: str) -> bool:
        return self.state in _TRANSITIONS[event]

    def _take(self, event: str) -> None:
        if not self._allows(event):
            raise RuntimeError(
                f"{event} of {self.model} version {self.number} in state {STATUS.State.Name(self.state)}"
            )
        self.state = _TRANSITIONS[event][self.state]


@dataclass
class Model:
    """One model with its versions.

    Attributes:
      config: the model's configuration; None once it is no longer configured, though its versions are still reported.
      versions: its versions by number.
      labels: version numbers by label, from the last configuration that was applied.
    """

    config: ModelConfig | None = None
    versions: dict[int, Version] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)

    def available(self) -> dict[int, Version]:
        """Returns the versions that take requests, by number."""
        return {number: version for number, version in self.versions.items() if version.state == STATUS.AVAILABLE}
