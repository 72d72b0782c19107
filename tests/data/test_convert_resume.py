"""A conversion that was interrupted or killed, or ran out of disk, loses no finished work and leaves no half."""

import errno
import importlib
import signal
import subprocess
import sys
from unittest import mock

import pytest

from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Rules
from tfserving_ext.data.sequence_format import load
from tfserving_ext.errors import NannError

convert_module = importlib.import_module("tfserving_ext.data.convert")


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interruption_leaves_the_target_as_it_was(csv, tmp_path, there, error):
    target = tmp_path / "out"
    if there:
        convert(csv, target, Rules(validation=5, test=5))
    before = {path.name: path.read_bytes() for path in target.glob("*")}
    with mock.patch.object(convert_module, "write_manifest", side_effect=error), pytest.raises(error):
        convert(csv, target, Rules(validation=9, test=9))
    assert {path.name: path.read_bytes() for path in target.glob("*")} == before
    convert(csv, target, Rules(validation=9, test=9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "out"]


KILL = """
import os, signal, sys
from tfserving_ext.data import convert as module
from tfserving_ext.data.spill import Spill
from tfserving_ext.data import sources
from tfserving_ext.data.rows import Rules
step, count = sys.argv[3], int(sys.argv[4])
original = getattr(Spill, step, None) or getattr(module, step)
calls = []
def dying(*arguments):
    calls.append(None)
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
setattr(Spill if hasattr(Spill, step) else module, step, dying)
module.cores = lambda: 1
read = sources.read_blocks
module.read_blocks = lambda parts, _, first: read(parts, 2000, first)
module._BYTES_PER_ROW = (module.MEMORY_BYTES - module.MIN_MEMORY_BYTES // 2) // 60
module.convert_behaviors(sys.argv[1], sys.argv[2], Rules(validation=5, test=5))
"""


@pytest.mark.medium
@pytest.mark.parametrize(("step", "count"), [("write_block", 2), ("write_histories", 3), ("write_items", 1)])
def test_a_killed_conversion_resumes(csv, tmp_path, step, count):
    target = tmp_path / "out"
    command = [sys.executable, "-c", KILL, csv, target, step]
    assert subprocess.run([*command, str(count)], check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    # A resumed run does not repeat finished work, or it would be killed at the same place again.
    left = {"write_block": 1, "write_histories": 3, "write_items": 1}[step]
    assert subprocess.run([*command, str(left + 1)], check=False).returncode == 0
    whole = convert(csv, tmp_path / "whole", Rules(validation=5, test=5))
    for path in whole.iterdir():
        assert path.read_bytes() == (target / path.name).read_bytes()


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)])
def test_it_resumes_with_another_number_of_cores(csv, tmp_path, before, after):
    """Ranges of users then end elsewhere; no user is lost or written twice."""
    target, rules = tmp_path / "out", Rules(validation=5, test=5)
    with mock.patch.object(convert_module, "_LEAST_RANGE_ROWS", 1):
        with (
            mock.patch.object(convert_module, "cores", lambda: before),
            mock.patch.object(convert_module, "write_manifest", side_effect=KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            convert(csv, target, rules)
        sorted_before = sorted(path.name for path in tmp_path.glob(".out.converting/histories-*"))
        with mock.patch.object(convert_module, "cores", lambda: after):
            convert(csv, target, rules)
    assert len(sorted_before) > 2
    whole = convert(csv, tmp_path / "whole", rules)
    for path in whole.iterdir():
        assert path.read_bytes() == (target / path.name).read_bytes()


def test_a_full_disk_loses_no_finished_work(csv, tmp_path):
    rules = Rules(validation=5, test=5)

    def full(*_):
        raise NannError("cannot write: No space left on device") from OSError(errno.ENOSPC, "No space left on device")

    with (
        mock.patch.object(convert_module.Spill, "write_histories", side_effect=full),
        pytest.raises(NannError, match=r"No space left on device; the finished part is kept in .*\.out\.converting"),
    ):
        convert(csv, tmp_path / "out", rules)
    with mock.patch.object(convert_module.Spill, "write_block", side_effect=AssertionError("was read again")):
        convert(csv, tmp_path / "out", rules)
    assert not (tmp_path / ".out.converting").exists()


def test_a_link_to_a_folder_stays_one(csv, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for seed in (0, 1):
        convert(csv, tmp_path / "out", Rules(validation=5, test=5, seed=seed))
        assert (tmp_path / "out").is_symlink()
        assert load(tmp_path / "disk")[0]["rules"]["seed"] == seed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "disk", "out"]


def test_another_source_starts_anew(csv, tmp_path, capsys):
    with (
        mock.patch.object(convert_module, "write_manifest", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        convert(csv, tmp_path / "out", Rules(validation=5, test=5))
    csv.write_text(csv.read_text() + "99,1,1,pv,1\n" * 9)
    convert(csv, tmp_path / "out", Rules(validation=5, test=5))
    assert "belongs to another conversion; starting anew" in capsys.readouterr().out
    assert load(tmp_path / "out")[0]["counts"]["users"] == 51
