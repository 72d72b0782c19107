"""Updates of an index as files: written by NumPy, read by the op, whole after a writer is killed at any step."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.index.conftest import DIM
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index.deltas import Deltas, segment_paths, write_durably
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.index.segments import Rows, checksum

NONE = np.zeros(0, np.int64)


def rows(ids: list[int], value: float = 0.0) -> Rows:
    return Rows(np.array(ids, np.int64), np.full([len(ids), DIM], value, np.float32), None, np.zeros(0, np.uint8))


def answer(index: MappedIndex, query, k: int = 20) -> tuple[list[int], int]:
    """Returns the ids by their dot product with `query`, best first, and the number of the last update."""
    found = ops.best_first_search(
        index.resource_handle,
        [tf.constant([query], tf.float32)],
        "dot",
        k=k,
        frontier=4,
        pool=k,
    )
    ids = found.item_ids[0].numpy()
    return ids[ids != -1].tolist(), int(found.index_sequence[0])


def test_the_checksum_is_the_sum_of_mixed_words():
    def mix(x: int) -> int:
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    rng = np.random.default_rng(0)
    for size in (0, 1, 7, 8, 9, 1000, 600_000):
        content = rng.integers(0, 256, size).astype(np.uint8)
        total, padded = 0, content.tobytes() + bytes(-size % 8)
        for place in range(0, len(padded) // 8):
            word = int.from_bytes(padded[8 * place : 8 * place + 8], "little")
            total += mix((word + (place + 1) * 0x9E3779B97F4A7C15) % 2**64)
        assert checksum(content) == mix(total % 2**64 ^ size)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_an_index_follows_its_updates(arrays, tmp_path, monkeypatch, dtype):
    from tests.index.conftest import write
    from tfserving_ext.index.table import encode

    index = write(tmp_path / "index", **arrays, parameters={}, dtype=dtype)
    values, scales = encode(np.full([2, DIM], 50, np.float32) * [[1], [2]], dtype)
    deltas = Deltas(tmp_path / "deltas", index)
    with deltas.writing():
        assert deltas.append(Rows(np.array([5, 6]), values, scales, np.zeros(0, np.uint8)), np.array([70])) == 1
    monkeypatch.setenv("NANN_DELTAS", str(tmp_path / "deltas"))
    mapped = MappedIndex(index)
    ids, sequence = answer(mapped, np.ones(DIM))
    assert ids[:2] == [6, 5] and sequence == 1 and 70 not in ids and len(ids) == 10
    monkeypatch.delenv("NANN_DELTAS")
    assert answer(MappedIndex(index), np.ones(DIM))[1] == 0


def test_one_writer_at_a_time(index, tmp_path):
    deltas, other = Deltas(tmp_path / "deltas", index), Deltas(tmp_path / "deltas", index)
    with deltas.writing():
        deltas.append(rows([4, 90]), np.array([70]))
        with pytest.raises(NannError, match=r"another process writes to .*; only one may at a time"), other.writing():
            pass
    with other.writing():  # It has read what was written meanwhile.
        assert other.append(rows([]), np.array([4])) == 2
    assert Deltas(tmp_path / "deltas", index).sequence == 2
    assert other.changed[70] is None and other.changed[4] is None and other.changed[90].row == 1


def test_damage_is_refused(index, tmp_path):
    deltas = Deltas(tmp_path / "deltas", index)
    with deltas.writing():
        for number in range(3):
            deltas.append(rows([number]), NONE)
        with pytest.raises(NannError, match="an id is -1"):
            deltas.append(rows([-1]), NONE)
    paths = segment_paths(deltas.folder)
    whole = paths[1].read_bytes()
    for damaged, words in (
        (whole[:-9] + b"x" + whole[-8:], "is damaged: its checksum is wrong"),
        (whole[:100], "is no segment"),
        (paths[0].read_bytes(), "is number 1, of width 3 and type 0: it is misplaced"),
    ):
        paths[1].write_bytes(damaged)
        with pytest.raises(NannError, match=words):
            Deltas(tmp_path / "deltas", index)
    paths[1].unlink()
    with pytest.raises(NannError, match=r"000000000002\.seg is missing, but 000000000003\.seg is there"):
        Deltas(tmp_path / "deltas", index)


WRITER = """
import os, signal, sys
from pathlib import Path
from tfserving_ext.index.deltas import write_durably

folder, last = Path(sys.argv[1]), int(sys.argv[2])
count = 0
def step(name):
    global count
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
for number in range(4):
    write_durably(folder / f"{number}.seg", bytes([number]) * 1000, step)
    os.write(1, b"x")  # It had returned.
"""


def test_a_writer_that_is_killed_loses_and_half_writes_nothing(tmp_path):
    """It is killed before each step of four writes; five steps each."""
    for last in range(21):
        folder = tmp_path / str(last)
        folder.mkdir()
        run = subprocess.run([sys.executable, "-c", WRITER, folder, str(last)], capture_output=True, check=False)
        assert run.returncode == (-signal.SIGKILL if last < 20 else 0), run.stderr
        there = sorted(folder.glob("[0-9].seg"))
        assert len(there) >= len(run.stdout)
        for number, path in enumerate(there):
            assert path.read_bytes() == bytes([number]) * 1000


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_durably(tmp_path / "x.seg", b"x")
    assert list(Path(tmp_path).iterdir()) == []


def test_an_update_that_could_not_be_written_is_said(index, tmp_path, monkeypatch):
    deltas = Deltas(tmp_path / "deltas", index)
    with deltas.writing(), monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(NannError, match=r"cannot write .*000000000001\.seg: No space left"):
            deltas.append(rows([5]), NONE)
    with deltas.writing():
        assert deltas.append(rows([5]), NONE) == 1
