"""Runs `nann` commands and modules in processes of their own, and measures them."""

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from tfserving_ext.errors import NannError


class Spent(NamedTuple):
    """What a process took.

    Attributes:
      seconds: from its start to its end.
      peak_gb: its largest resident set, mapped files included, in units of 2^30 bytes.
    """

    seconds: float
    peak_gb: float


def run_nann(
    *arguments: object, log: Path | None = None, environment: Mapping[str, str] = MappingProxyType({})
) -> Spent:
    """Runs `nann` with these arguments.

    Args:
      *arguments: the command and its arguments.
      log: file that its output is added to; None where it goes where this process' goes.
      environment: variables besides this process'.

    Raises:
      NannError: it failed.
    """
    command = [str(Path(sys.executable).with_name("nann")), *map(str, arguments)]
    return _run(command, f"nann {arguments[0]}", log, environment)


def run_module(module: str, *arguments: object, log: Path | None = None) -> Spent:
    """Runs `python -m` with a benchmark's module, such as "data.index_builders"; else as `run_nann`.

    Raises:
      NannError: it failed.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return _run(command, f"python -m benchmarks.{module}", log, {})


def _run(command: list[str], name: str, log: Path | None, environment: Mapping[str, str]) -> Spent:
    begin = time.perf_counter()
    with contextlib.nullcontext() if log is None else log.open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        words = "" if log is None else f"; its own words are in {log}"
        raise NannError(f"`{name}` ended with exit code {process.returncode}{words}")
    return Spent(seconds, usage.ru_maxrss / 2**20)


class OtherWork:
    """How much of all cores is taken, from now on, by what this process has not started.

    Ratios bear little of it where one side of them uses more threads than the other.
    """

    def __init__(self) -> None:
        """Starts to count."""
        self._begin, self._others = time.monotonic(), _others_seconds()

    def share(self) -> float | None:
        """A part between 0 and 1; None where the system does not tell. Own processes count once they have ended."""
        now = _others_seconds()
        if now is None or self._others is None:
            return None
        seconds = (time.monotonic() - self._begin) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, (now - self._others) / max(seconds, 1e-9)))


def _others_seconds() -> float | None:
    """Processor time since the system's start that is not of this process and its ended children, the host's too."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, irq, soft_irq, stolen = map(int, fields)
    except (OSError, ValueError):
        return None
    busy = (user + nice + system + irq + soft_irq + stolen) / os.sysconf("SC_CLK_TCK")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return busy - sum(one.ru_utime + one.ru_stime for one in used)
