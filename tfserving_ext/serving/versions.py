"""What the local server knows of its models and their versions, and what may become of a version."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tensorflow_serving.apis import get_model_status_pb2

from tfserving_ext.serving.model_config import ModelConfig
from tfserving_ext.serving.models import LoadError, Servable

STATUS = get_model_status_pb2.ModelVersionStatus

# Every change of a version's state: the event, and by the state before it the state after it. A version that has ended
# stays so: what comes in its place is another `Version`.
_TRANSITIONS: dict[str, dict[int, int]] = {
    "load": {STATUS.START: STATUS.LOADING, STATUS.LOADING: STATUS.LOADING},  # Again, after a try that failed.
    "loaded": {STATUS.LOADING: STATUS.AVAILABLE},
    "failed": {STATUS.LOADING: STATUS.END},  # The last try.
    "retire": {STATUS.LOADING: STATUS.UNLOADING, STATUS.AVAILABLE: STATUS.UNLOADING},
    "unload": {STATUS.UNLOADING: STATUS.END},  # Once no request is in it.
}


@dataclass(frozen=True)
class LoadOptions:
    """How versions are found and loaded.

    Attributes:
      poll_seconds: between two looks at the base paths; 0 looks only when a configuration is applied.
      retries: how often a version that does not load is tried again.
      retry_seconds: between two tries.
      labels_ahead: allow labels of versions that are not available yet.
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
      number: the version's.
      path: its folder; None once it has ended and is not wanted any more.
      state: as ModelService reports it; changed by the methods, as `_TRANSITIONS` allows.
      error: why it could not be loaded, where it ended so.
      servable: while it is loaded.
      users: requests that are in it.
      tries: how often it failed to load.
      next_try: when to try again, on the monotonic clock.
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
        """Whether it is to be loaded at this time."""
        return self._allows("load") and now >= self.next_try

    def may_return(self, path: Path) -> bool:
        """Whether it has ended, and not because what is in `path` does not load."""
        return self.state == STATUS.END and (self.error is None or self.path != path)

    def load(self) -> None:
        """Loading begins."""
        self._take("load")

    def loaded(self, servable: Servable) -> None:
        """It takes requests from now on."""
        self._take("loaded")
        self.servable = servable

    def failed(self, error: LoadError, options: LoadOptions, now: float) -> bool:
        """A try to load it failed at the time `now`; returns whether it will be tried again."""
        self.tries += 1
        if self.tries <= options.retries:
            self.next_try = now + options.retry_seconds
            return True
        self._take("failed")
        self.error = error
        return False

    def retire(self) -> bool:
        """It takes no more requests; returns False where it took none before."""
        if not self._allows("retire"):
            return False
        self._take("retire")
        return True

    def unload(self) -> Servable | None:
        """Ends a version that was retired and that no request is in; returns the model that is to be closed, if any."""
        if self.users > 0 or not self._allows("unload"):
            return None
        self._take("unload")
        servable, self.servable = self.servable, None
        return servable

    def forget_folder(self) -> None:
        """Whatever comes in the place of its folder, which nobody wants any more, may be loaded."""
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
    """One model.

    Attributes:
      config: None once it is no longer named; its versions are still reported.
      versions: by number.
      labels: version numbers by label, as of the last configuration that was applied.
    """

    config: ModelConfig | None = None
    versions: dict[int, Version] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)

    def available(self) -> dict[int, Version]:
        """The versions that take requests, by number."""
        return {number: version for number, version in self.versions.items() if version.state == STATUS.AVAILABLE}
