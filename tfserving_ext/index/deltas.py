"""The updates of an index in a folder: numbered segments that a server follows (docs/live.md).

A segment appears by a rename and is never changed. Whoever writes holds a lock, and an update is on the disk when the
call that writes it returns.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.index.segments import SUFFIX, Rows, Segment, encode_segment, index_key, read_segment
from tfserving_ext.local_paths import check_local

_NAME = re.compile(rf"(\d{{12}}){re.escape(SUFFIX)}")
_LOCK = "writer.lock"


class Place(NamedTuple):
    """Where the last row of an item is: `row` of `rows`."""

    rows: Rows
    row: int


class Deltas:
    """The updates of one index.

    Attributes:
      index: the index.
      key: its key (`index_key`).
      folder: the folder of its segments.
      sequence: the number of the last update that was read or written.
      changed: what the updates say of every item that they name: where its row is, or None if it is deleted.
      added: the ids that stand for texts, in UTF-8, which the updates brought and the index does not have.
    """

    def __init__(self, deltas: str | os.PathLike[str], index: Index) -> None:
        """Reads and checks all segments that are there.

        Args:
          deltas: the folder of deltas, of any number of indexes; the first update makes it if it is not there.
          index: the index.

        Raises:
          NannError: a segment is missing or damaged.
        """
        check_local(deltas)
        self.index, self.key = index, index_key(index)
        self.folder = Path(deltas) / f"{self.key:016x}"
        self.sequence = 0
        self.changed: dict[int, Place | None] = {}
        self.added: dict[bytes, int] = {}
        self._writes = False
        self.read()

    def read(self) -> None:
        """Reads the segments that are new.

        Raises:
          NannError: one is missing or damaged.
        """
        for path in segment_paths(self.folder)[self.sequence :]:
            self._note(read_segment(path, self.key, self.index))

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Lets the block append updates, after it has read those of others.

        Raises:
          NannError: another process is writing, the folder cannot be written to, or a segment is missing or damaged.
        """
        try:
            _make_folder(self.folder)
            lock = _locked(self.folder / _LOCK)
        except OSError as error:
            raise NannError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        try:
            for path in self.folder.glob(f".*{SUFFIX}.new"):  # A writer that was killed left it.
                path.unlink()
            self.read()
            self._writes = True
            yield
        finally:
            self._writes = False
            os.close(lock)

    def append(self, rows: Rows, deleted: np.ndarray) -> int:
        """Writes the next segment, in a block of `writing`; returns its number once it is on the disk.

        Raises:
          NannError: the segment cannot be written.
        """
        assert self._writes
        segment = Segment(self.sequence + 1, rows, deleted)
        target = self.folder / f"{segment.sequence:012d}{SUFFIX}"
        content = encode_segment(segment, self.key)
        try:
            write_durably(target, content)
        except OSError as error:
            self._writes = False  # It may count nevertheless: what comes next must read it first.
            raise NannError(f"cannot write {target}: {error.strerror or error}") from error
        self._note(segment)
        return segment.sequence

    def _note(self, segment: Segment) -> None:
        self.sequence = segment.sequence
        for item_id in segment.deleted.tolist():
            self.changed[item_id] = None
        for row, item_id in enumerate(segment.rows.item_ids.tolist()):
            self.changed[item_id] = Place(segment.rows, row)
            if segment.rows.keys is not None and segment.rows.keys[row]:
                self.added[segment.rows.keys[row]] = item_id


def segment_paths(folder: Path) -> list[Path]:
    """Returns the paths of all segments in their order.

    Raises:
      NannError: one is missing between others.
    """
    if not folder.is_dir():
        return []
    found = sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))
    paths = [folder / f"{number:012d}{SUFFIX}" for number in found]
    for place, number in enumerate(found, 1):
        if number != place:
            raise NannError(f"{folder / f'{place:012d}{SUFFIX}'} is missing, but {paths[-1].name} is there")
    return paths


def write_durably(target: Path, content: bytes, step: Callable[[str], None] = lambda _: None) -> None:
    """Writes a file that appears whole or not at all, and is on the disk when this returns.

    Args:
      target: the file.
      content: what it holds.
      step: called with the name of each step before it, which lets a test end the process there.

    Raises:
      OSError: it cannot be written.
    """
    new = target.with_name(f".{target.name}.new")
    try:
        with new.open("wb", buffering=0) as file:
            view = memoryview(content)
            step("write")
            while view:
                view = view[file.write(view) :]
            step("sync")
            os.fsync(file.fileno())
        step("rename")
        new.rename(target)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    step("sync folder")
    _sync(target.parent)
    step("done")


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, so that they are on the disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(held)
    finally:
        os.close(held)


def _locked(path: Path) -> int:
    """Returns an open and locked file; the system lets go of it when the process ends, however it does."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        if isinstance(error, BlockingIOError):
            raise NannError(f"another process writes to {path.parent}; only one may at a time") from error
        raise
    return held
