"""Writes folders and files that appear whole or not at all.

Every stage writes into a hidden folder or file beside its target and renames it at the end, so that a reader never sees
a half-written artefact, whatever interrupts the writer.
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

_FICLONE = 0x40049409  # Linux's ioctl that makes a file share all blocks of another.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Arguments of Linux's renameat2.
_ABANDONED_SECONDS = 60  # An older hidden folder that no process has locked was left behind by a killed writer.


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike[str], stage: Stage, force: bool = False) -> Iterator[Path]:
    """Yields a new empty folder that becomes `target` when the block ends without an exception.

    An existing `target` is replaced if `stage` wrote it or `force` is True. If `target` is a symbolic link, the link
    stays and the folder that it points to is written. On an exception the new folder is removed and `target` stays
    unchanged.

    Args:
      target: the folder to write.
      stage: the stage that writes it.
      force: whether to replace a folder with any other content too.

    Raises:
      NannError: the folder cannot be written (no space, no permission), or has content that `stage` did not write.
    """
    target = Path(target)
    check_replaceable(target, stage, force)
    if target.is_symlink():  # It may point to a larger disk: replacing the link would leave the old folder there.
        target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent))
        held = os.open(new, os.O_RDONLY)
    except OSError as error:
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        fcntl.flock(held, fcntl.LOCK_SH)  # Shows other writers that this folder is in use, until this process ends.
        yield new
        new.chmod(0o755)  # With mkdtemp's 0700, a server that runs as another user could not read a model.
        put_folder(new, target)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    finally:
        os.close(held)


def put_folder(new: Path, target: Path) -> None:
    """Renames the folder `new` to `target`, and removes the folder that had this name.

    Raises:
      OSError: the folder cannot be renamed.
    """
    while not target.exists():
        try:
            new.rename(target)
        except OSError as error:
            # Another writer was faster. The last writer wins, so its folder is replaced below.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    _exchange(new, target)
    shutil.rmtree(new)  # After the exchange, this is the old folder.


def _exchange(new: Path, target: Path) -> None:
    """Exchanges two folders, atomically if the kernel and the file system support it.

    Otherwise `target` is missing for a moment.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 and not renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE):
        return
    old = new.with_suffix(".old")
    target.rename(old)
    new.rename(target)
    old.rename(new)


def _remove_abandoned(target: Path) -> None:
    """Removes folders that killed writers of `target` left behind."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.new"):
        with contextlib.suppress(OSError):  # It is locked, or another process has removed it.
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
        with contextlib.suppress(NotADirectoryError):  # The parent is a file, which was reported above.
            new.unlink(missing_ok=True)


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Creates a folder and checks that it can be written to; call it before long work that writes there.

    Raises:
      NannError: the folder cannot be created or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise NannError(f"cannot write to {folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def tensorflow_writes(what: str) -> Iterator[None]:
    """Turns errors that TensorFlow raises while it writes files, of a full disk for example, into OSError.

    Args:
      what: the name of the files, for the error message.
    """
    import tensorflow as tf  # Here, because programs that only read artefacts do not need it.

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"TensorFlow could not write the {what}: {error.message.splitlines()[0]}") from error


def to_json(value: Any, indent: int | None = 2) -> str:
    """Converts `value` to JSON, on one line if `indent` is None; NaN and infinities, which JSON lacks, become null."""
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
    """Writes `value` to a file in the form of `to_json`, atomically.

    Raises:
      NannError: the file cannot be written.
    """
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
        # Apart from bad syntax and bad UTF-8: numbers with thousands of digits, a thousand nested brackets.
        raise NannError(f"{path} is not valid JSON: {error}") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file in hexadecimal; the file is read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Creates `target` with the content of `source`: as a clone that shares its blocks, else as a hard link or a copy.

    Only for files that are never modified in place.

    Raises:
      OSError: the file cannot be read or written.
    """
    try:
        with source.open("rb") as old, target.open("xb") as new:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
    except OSError:  # The files are on different file systems, or theirs cannot share blocks.
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source.resolve())
        except OSError:
            shutil.copyfile(source, target)
