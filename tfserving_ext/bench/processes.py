"""Runs `nann` commands in processes of their own, and measures them."""

import os
import subprocess
import sys
import time
from pathlib import Path
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


def run_nann(*arguments: object) -> Spent:
    """Runs `nann` with these arguments; its output goes where this process' goes.

    Raises:
      NannError: it failed.
    """
    command = [str(Path(sys.executable).with_name("nann")), *map(str, arguments)]
    begin = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise NannError(f"`nann {arguments[0]}` ended with exit code {process.returncode}")
    return Spent(seconds, usage.ru_maxrss / 2**20)
