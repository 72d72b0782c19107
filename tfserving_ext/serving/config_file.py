"""A model configuration file that is polled: editing it adds models, moves labels and changes version policies."""

import threading
from pathlib import Path

from tfserving_ext.errors import NannError
from tfserving_ext.serving.manager import ModelManager
from tfserving_ext.serving.model_config import ModelConfig, parse_config, read_config
from tfserving_ext.serving.models import ServingError
from tfserving_ext.serving.request_log import Log


def read_models(path: Path, served: tuple[str, ...] = ()) -> dict[str, ModelConfig]:
    """Reads the models of a configuration file.

    Args:
      path: a ModelServerConfig in text form.
      served: the names of the models that are served now.

    Returns:
      The models by name.

    Raises:
      NannError: the file cannot be read, or it configures something that cannot be served.
    """
    try:
        return read_config(parse_config(path.read_text()), served)
    except (NannError, ServingError, UnicodeDecodeError, OSError) as error:
        raise NannError(f"{path}: {error}") from error


class ConfigWatch:
    """Applies a configuration file whenever its content changes, in a thread of its own, until `stop`.

    A configuration that cannot be served changes nothing and is tried again at every poll, as TensorFlow Serving does:
    it may label a version that is still being loaded.
    """

    def __init__(self, path: Path, poll_seconds: float, manager: ModelManager, log: Log) -> None:
        """Starts the thread.

        Args:
          path: a ModelServerConfig in text form, whose present content is already served.
          poll_seconds: the interval between two reads of the file.
          manager: the manager to which new configurations are applied.
          log: called with keyword arguments for every configuration that is applied or refused.
        """
        self._path, self._poll_seconds, self._manager, self._log = path, poll_seconds, manager, log
        self._applied: dict[str, ModelConfig] | None = None
        self._last_error = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch the model config", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ending.wait(self._poll_seconds):
            self._poll()

    def _poll(self) -> None:
        try:
            found = read_models(self._path, tuple(self._manager.names()))
            if found == self._applied:
                return
            self._manager.apply(found)
        except (NannError, ServingError) as error:
            if str(error) != self._last_error:
                self._last_error = str(error)
                self._log(event="model config not applied", path=str(self._path), error=self._last_error)
            return
        if self._applied is not None or self._last_error:
            self._log(event="model config applied", path=str(self._path), models=", ".join(found))
        self._applied, self._last_error = found, ""
