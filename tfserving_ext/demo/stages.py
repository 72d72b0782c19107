"""The stages of a demo: one whose inputs, parameters and result are the same as in an earlier run is reused."""

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
    """One finished stage: its identity covers everything that its result depends on."""

    identity: str
    path: Path


class Stages:
    """Runs stages in a folder, reusing those that are finished.

    `stages.json` says, for each result, which stage it is of: two stages that make the same result do not pass for
    each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record = folder / "stages.json"
        self._finished: dict[str, str] = read_json(self._record) if self._record.exists() else {}

    def stage(self, name: str, result: str, parameters: dict[str, Any], inputs: Sequence[Stage]) -> Stage:
        """The stage as it is when it is finished, whether it is or not."""
        return Stage(_identity(name, parameters, inputs), self.folder / result)

    def has(self, name: str, result: str, parameters: dict[str, Any], inputs: Sequence[Stage]) -> bool:
        """Whether this very stage is finished and its result is there."""
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
        """Runs `work(path)` unless the very same stage is finished; prints one line of outcome."""
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
