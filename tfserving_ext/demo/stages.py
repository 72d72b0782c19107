"""The stages of the demo: a stage is reused if its inputs, parameters and result are those of an earlier run."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfserving_ext import __version__
from tfserving_ext.artifacts import read_json, write_json
from tfserving_ext.progress import outcome


@dataclasses.dataclass
class Stage:
    """A stage.

    Attributes:
      identity: a digest of everything that the stage's result depends on.
      path: the stage's result, a file or folder.
    """

    identity: str
    path: Path


class Stages:
    """Runs stages in a folder, reusing those that are finished.

    `stages.json` records the identity of the stage that made each result, so that different stages with a result of the
    same name are not mistaken for each other.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the record of finished stages in `folder`, if there is one."""
        self.folder = folder
        self._record = folder / "stages.json"
        self._finished: dict[str, str] = read_json(self._record) if self._record.exists() else {}

    def stage(self, name: str, result: str, parameters: dict[str, Any], inputs: Sequence[Stage]) -> Stage:
        """Returns the stage, whether it is finished or not."""
        return Stage(_identity(name, parameters, inputs), self.folder / result)

    def has(self, name: str, result: str, parameters: dict[str, Any], inputs: Sequence[Stage]) -> bool:
        """Returns whether exactly this stage is finished and its result exists."""
        wanted = self.stage(name, result, parameters, inputs)
        return self._finished.get(result) == wanted.identity and wanted.path.exists()

    def run(
        self,
        name: str,
        result: str,
        parameters: dict[str, Any],
        inputs: Sequence[Stage],
        work: Callable[[Path], Any],
        describe: Callable[[Path], str],
    ) -> Stage:
        """Runs a stage unless it is finished, and prints one line with its outcome.

        Args:
          name: the name of the stage.
          result: the name of its result in the folder.
          parameters: the values that the result depends on, JSON.
          inputs: the stages whose results it reads.
          work: writes the result to the given path.
          describe: returns a description of the result at the given path.

        Returns:
          The finished stage.
        """
        stage = self.stage(name, result, parameters, inputs)
        reused = self.has(name, result, parameters, inputs)
        started = time.monotonic()
        if not reused:
            # Forget the stage first: an interruption must not leave an old record beside a new result.
            if self._finished.pop(result, None) is not None:
                write_json(self._record, self._finished)
            work(stage.path)
            self._finished[result] = stage.identity
            write_json(self._record, self._finished)
        spent = "reused" if reused else f"{time.monotonic() - started:.1f} s"
        outcome(name, f"{describe(stage.path)} ({spent})")
        return stage


def _identity(name: str, parameters: dict[str, Any], inputs: Sequence[Stage]) -> str:
    key = json.dumps([__version__, name, parameters, [stage.identity for stage in inputs]], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()
