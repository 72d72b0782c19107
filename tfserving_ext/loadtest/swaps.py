"""Swaps a model to new versions under load."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

from tfserving_ext.artifacts import link_or_copy
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import Scenario
from tfserving_ext.loadtest.targets.target import Target, TargetError

POLL_SECONDS = 0.05
LEAST_WAIT_SECONDS = 60.0  # How long to wait at least for a version to serve.


class Swapper:
    """Adds a new version at regular intervals, and removes all of them at the end.

    Attributes:
      model: the name of the model.
      swaps: for each swap the `model` and `version`, and in seconds from `begin`: `put`, when its folder appeared, and
        `served`, when the server reported that it serves, None if it never did.
    """

    def __init__(self, scenario: Scenario, target: Target) -> None:
        """Checks the folder of versions and the exports.

        Raises:
          NannError: the folder has no version, or an export is not a SavedModel.
        """
        spec = scenario.swap
        if spec is None:
            raise NannError("the scenario has no swap")
        self.model = spec.model or scenario.models[0].name
        self.swaps: list[dict[str, Any]] = []
        self._spec, self._target = spec, target
        self._there = sorted(_versions(spec.base_path))
        if not self._there:
            raise NannError(f"swap.base_path {spec.base_path} has no version of the model, such as 1/saved_model.pb")
        self._exports = spec.exports or [spec.base_path / str(self._there[-1])]
        for export in self._exports:
            if not (export / "saved_model.pb").is_file():
                raise NannError(f"swap: {export} is not a SavedModel; it has no saved_model.pb")
        self._ours: list[int] = []

    async def run(self, begin: float) -> None:
        """Swaps until it is cancelled; `begin` is the event loop's time from which seconds count."""
        loop = asyncio.get_running_loop()
        try:
            for number in range(1_000_000):
                await asyncio.sleep(max(begin + (number + 1) * self._spec.every - loop.time(), 0))
                version = max(*self._there, *self._ours, 0) + 1
                export = self._exports[number % len(self._exports)]
                await asyncio.to_thread(_put, export, self._spec.base_path, version)
                self._ours.append(version)
                swap: dict[str, Any] = {
                    "model": self.model,
                    "version": version,
                    "put": loop.time() - begin,
                    "served": None,
                }
                self.swaps.append(swap)
                if await self._serves(version):
                    swap["served"] = loop.time() - begin
                while len(self._ours) > self._spec.keep:
                    await asyncio.to_thread(_remove, self._spec.base_path, self._ours.pop(0))
        finally:
            for version in self._ours:  # The server returns to the version that it had before.
                _remove(self._spec.base_path, version)

    async def _serves(self, version: int) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + max(self._spec.every, LEAST_WAIT_SECONDS)
        while loop.time() < end:
            try:
                serves = (await self._target.versions(self.model)).get(version)
                if serves is not None:
                    return serves
            except TargetError:
                pass  # If the server is gone, the load notices and ends the run.
            await asyncio.sleep(POLL_SECONDS)
        return False


def _versions(base_path: Path) -> list[int]:
    if not base_path.is_dir():
        return []
    return [
        int(path.name) for path in base_path.iterdir() if path.name.isdigit() and (path / "saved_model.pb").exists()
    ]


def _put(export: Path, base_path: Path, version: int) -> None:
    """Adds a version in one step; its files are hard links to the export's if possible."""
    made = base_path / f".{version}.new"  # Servers ignore names that are not numbers.
    try:
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(export, made, copy_function=lambda source, goal: link_or_copy(Path(source), Path(goal)))
        made.rename(base_path / str(version))
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise NannError(f"cannot put version {version} into {base_path}: {error}") from error


def _remove(base_path: Path, version: int) -> None:
    shutil.rmtree(base_path / str(version), ignore_errors=True)
