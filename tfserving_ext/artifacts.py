"""Folders and files that appear whole or not at all.

Every stage writes into a hidden neighbour of its target and renames it at the end, so that a reader never meets a
half-written artefact, whatever interrupts the writer.
"""

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfserving_ext.errors import NannError
from tfserving_ext.outputs import Stage, check_replaceable

_FICLONE = 0x40049409  # Linux: share all blocks of a file.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: renameat2.
# A hidden neighbour that nobody holds and that is older than this was left behind by a writer that was killed.
_ABANDONED_SECONDS = 60


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike[str], stage: Stage, force: bool = False) -> Iterator[Path]:
    """Yields a new empty folder that becomes `target` when the block ends without an exception.

    An existing `target` is replaced, if `stage` wrote it or `force` is true. A symbolic link stays, and the folder that
    it leads to is written. On an exception the new folder is removed and `target` stays as it was.

    Raises:
      NannError: the folder cannot be written (no space, no permission), or holds what `stage` did not write.
    """
    target = Path(target)
    check_replaceable(target, stage, force)
    if target.is_symlink():  # To a larger disk, say: exchanging the link itself would leave the old folder there.
        target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent))
        held = os.open(new, os.O_RDONLY)
    except OSError as error:
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_SH)  # Says that somebody is writing, until that process ends.
        yield new
        new.chmod(0o755)  # mkdtemp's 0700 would hide a model from the user that serves it.
        _put(new, target)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    finally:
        os.close(held)


def _put(new: Path, target: Path) -> None:
    """Gives the folder `new` the name `target`, and removes what had it."""
    while not target.exists():
        try:
            new.rename(target)
        except OSError as error:
            # Another writer was first: the last one to end is the one that stays.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    _exchange(new, target)
    shutil.rmtree(new)  # The old one, by now.


def _exchange(new: Path, target: Path) -> None:
    """Exchanges two folders in one step, where the kernel and the file system can; else there is a moment without."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 and not renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE):
        return
    old = new.with_suffix(".old")
    target.rename(old)
    new.rename(target)
    old.rename(new)


def _remove_abandoned(target: Path) -> None:
    """Removes what killed writers of `target` left behind."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.new"):
        with contextlib.suppress(OSError):  # Somebody holds it, or another cleaner was faster.
            held = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    shutil.rmtree(path)
            finally:
                os.close(held)


@contextlib.contextmanager
def atomic_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write; it becomes the file `target` when the block ends without an exception.

    Raises:
      NannError: the file cannot be written (no space, no permission).
    """
    target = Path(target)
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield new
        new.replace(target)
    except OSError as error:
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(NotADirectoryError):  # Said above: what should be the folder is a file.
            new.unlink(missing_ok=True)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Makes a folder and tries to write there, before long work whose outcome goes there.

    Raises:
      NannError: it cannot be made, or nothing can be written there.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise NannError(f"cannot write to {folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def tensorflow_writes(what: str) -> Iterator[None]:
    """Turns whatever TensorFlow raises while it writes files, full disks above all, into an OSError."""
    import tensorflow as tf  # Not needed by those who only read artefacts.

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"TensorFlow could not write the {what}: {error.message.splitlines()[0]}") from error


def to_json(value: Any, indent: int | None = 2) -> str:
    """`value` as JSON, on one line where `indent` is None. NaN and infinities, which JSON has not, are null."""
    return json.dumps(_without_non_finite(value), indent=indent, allow_nan=False)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_non_finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_non_finite(one) for one in value]
    return value


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as `to_json` has it, atomically."""
    with atomic_file(target) as path:
        path.write_text(to_json(value) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads a JSON file.

    Raises:
      NannError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise NannError(f"{path} does not exist") from error
    except (ValueError, RecursionError) as error:
        # Besides bad syntax and bad UTF-8: a number of thousands of digits, a thousand brackets.
        raise NannError(f"{path} is not valid JSON: {error}") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """The file's SHA-256 in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`: its blocks shared, else itself by another name, else a copy.

    For files that are never written in place.

    Raises:
      OSError: it cannot be read or written.
    """
    try:
        with source.open("rb") as old, target.open("xb") as new:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except OSError:  # Another file system, or one that cannot share blocks.
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source.resolve())
        except OSError:
            shutil.copyfile(source, target)
