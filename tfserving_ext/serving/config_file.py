"""A file of models that is read again and again: who edits it adds models, moves labels and changes policies."""

import threading
from pathlib import Path

from tfserving_ext.errors import NannError
from tfserving_ext.serving.manager import ModelManager
from tfserving_ext.serving.model_config import ModelConfig, parse_config, read_config
from tfserving_ext.serving.models import ServingError
from tfserving_ext.serving.request_log import Log


def read_models(path: Path, served: tuple[str, ...] = ()) -> dict[str, ModelConfig]:
    """The models of a configuration file, by name.

    Args:
      path: of the file.
      served: names of the models that are served now.

    Raises:
      NannError: it cannot be read, or served.
    """
    try:
        return read_config(parse_config(path.read_text()), served)
    except (NannError, ServingError, UnicodeDecodeError, OSError) as error:
        raise NannError(f"{path}: {error}") from error


class ConfigWatch:
    """Applies the file whenever it says something new, in a thread of its own, until `stop`.

    What cannot be served changes nothing, and is tried again at every look, as TensorFlow Serving does: a label may be
    of a version that is still being loaded.
    """

    def __init__(self, path: Path, poll_seconds: float, manager: ModelManager, log: Log) -> None:
        """Starts.

        Args:
          path: of the file, a ModelServerConfig in text form; what it holds now is being served.
          poll_seconds: between two looks at it.
          manager: whom it is for.
          log: takes what came of it, by name.
        """
        self._path, self._poll_seconds, self._manager, self._log = path, poll_seconds, manager, log
        self._applied: dict[str, ModelConfig] | None = None
        self._told = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch the model config", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ending.wait(self._poll_seconds):
            self._look()

    def _look(self) -> None:
        try:
            found = read_models(self._path, tuple(self._manager.names()))
            if found == self._applied:
                return
            self._manager.apply(found)
        except (NannError, ServingError) as error:
            if str(error) != self._told:
                self._told = str(error)
                self._log(event="model config not applied", path=str(self._path), error=self._told)
            return
        if self._applied is not None or self._told:
            self._log(event="model config applied", path=str(self._path), models=", ".join(found))
        self._applied, self._told = found, ""
