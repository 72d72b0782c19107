import subprocess
import sys
import time

import pytest

from benchmarks import processes
from benchmarks.processes import OtherWork


def test_other_work_is_the_busy_time_of_others(monkeypatch):
    others, now = iter([100.0, 103.0]), iter([0.0, 4.0])
    monkeypatch.setattr(processes, "_others_seconds", lambda: next(others))
    monkeypatch.setattr(processes.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(processes.os, "cpu_count", lambda: 2)
    assert OtherWork().share() == pytest.approx(3 / 8)


@pytest.mark.medium
def test_own_work_is_not_others():
    """The two CPU seconds of a child process do not count, however busy the machine is."""
    before = processes._others_seconds()
    spin = "import time\nwhile time.process_time() < 2: pass"
    begin = time.process_time()
    busy = _busy_seconds()
    subprocess.run([sys.executable, "-c", spin], check=True)
    own = time.process_time() - begin
    counted = _busy_seconds() - busy - (processes._others_seconds() - before)
    assert counted == pytest.approx(2 + own, abs=0.5)


def test_a_system_that_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "Path", lambda _: tmp_path / "none")
    assert OtherWork().share() is None


def _busy_seconds():
    fields = [int(one) for one in open("/proc/stat").readline().split()[1:9]]  # noqa: PTH123, SIM115
    return (sum(fields) - fields[3] - fields[4]) / 100
