"""Runs `nann` commands and modules in separate processes, and measures their time and memory."""

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
    """The time and memory that a process used.

    Attributes:
      seconds: time from its start to its end.
      peak_gb: its largest resident set, including mapped files, in units of 2^30 bytes.
    """

    seconds: float
    peak_gb: float


def run_nann(
    *arguments: object, log: Path | None = None, environment: Mapping[str, str] = MappingProxyType({})
) -> Spent:
    """Runs `nann` with these arguments.

    Args:
      *arguments: the command and its arguments.
      log: file to which its output is appended; None to share this process' output.
      environment: variables to set besides this process' own.

    Raises:
      NannError: the command failed.
    """
    command = [str(Path(sys.executable).with_name("nann")), *map(str, arguments)]
    return _run(command, f"nann {arguments[0]}", log, environment)


def run_module(module: str, *arguments: object, log: Path | None = None) -> Spent:
    """Runs a module of the benchmarks, such as "data.index_builders", by `python -m`; otherwise like `run_nann`.

    Raises:
      NannError: the module failed.
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
        words = "" if log is None else f"; its output is in {log}"
        raise NannError(f"`{name}` ended with exit code {process.returncode}{words}")
    return Spent(seconds, usage.ru_maxrss / 2**20)


class OtherWork:
    """Measures how much of all cores is used, from now on, by processes that this process has not started.

    Such work distorts a ratio if one of its sides uses more threads than the other.
    """

    def __init__(self) -> None:
        """Starts to measure."""
        self._begin, self._others = time.monotonic(), _others_seconds()

    def share(self) -> float | None:
        """Returns the share, 0 to 1, or None where the system does not give it.

        Child processes must have ended, or their work counts as that of others.
        """
        now = _others_seconds()
        if now is None or self._others is None:
            return None
        seconds = (time.monotonic() - self._begin) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, (now - self._others) / max(seconds, 1e-9)))


def _others_seconds() -> float | None:
    """Returns the CPU seconds since boot that this process and its ended children did not use, the host's included."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _, _, irq, soft_irq, stolen = map(int, fields)
    except (OSError, ValueError):
        return None
    busy = (user + nice + system + irq + soft_irq + stolen) / os.sysconf("SC_CLK_TCK")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return busy - sum(one.ru_utime + one.ru_stime for one in used)
