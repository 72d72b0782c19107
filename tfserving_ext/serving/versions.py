"""What the local server knows of the models and their versions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tensorflow_serving.apis import get_model_status_pb2

from tfserving_ext.serving.model_config import ModelConfig
from tfserving_ext.serving.models import LoadError, Servable

STATUS = get_model_status_pb2.ModelVersionStatus


@dataclass
class Version:
    """One version of one model; guarded by the manager's lock.

    Attributes:
      path: its folder.
      state: as ModelService reports it.
      error: why it ended.
      servable: while it is loaded.
      users: requests that are in it.
      tries: how often it failed to load.
      next_try: when to try again, on the monotonic clock.
    """

    path: Path
    state: int = STATUS.START
    error: LoadError | None = None
    servable: Servable | None = None
    users: int = 0
    tries: int = 0
    next_try: float = 0.0


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
class Model:
    """One model.

    Attributes:
      config: None once it is no longer named; its versions are still reported.
      versions: by number.
    """

    config: ModelConfig | None
    versions: dict[int, Version] = field(default_factory=dict)


class Left(NamedTuple):
    """A version that a request or the configuration has left.

    Attributes:
      model: its name.
      number: of the version.
      servable: what is to be closed; None where requests are still in it, or nothing is.
      retired: the requests that are in it, where it has only now stopped taking more; None otherwise.
    """

    model: str
    number: int
    servable: Servable | None
    retired: int | None = None
