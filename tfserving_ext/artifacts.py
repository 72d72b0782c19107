"""Folders and files that appear whole or not at all.

Every stage writes into a hidden neighbour of its target and renames it at the end, so that a reader never meets a
half-written artefact, whatever interrupts the writer.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfserving_ext.errors import NannError

# A folder that holds one of these was written by a stage, so that a stage may replace it.
IDENTIFYING_FILES = ("manifest.json", "model.json", "saved_model.pb", "item_embs.npy")


def _check_replaceable(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise NannError(f"{target} is a file; the output must be a new folder, or one that an earlier run wrote")
    if any(target.iterdir()) and not any((target / name).exists() for name in IDENTIFYING_FILES):
        raise NannError(f"{target} holds files that no stage wrote; choose a new or empty folder for the output")


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a new empty folder that becomes `target` when the block ends without an exception.

    An existing `target` is replaced, if a stage wrote it. On an exception the new folder is removed and `target` stays
    as it was.

    Raises:
      NannError: the folder cannot be written (no space, no permission), or holds files that no stage wrote.
    """
    target = Path(target)
    _check_replaceable(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".new", dir=target.parent))
    except OSError as error:
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield new
        new.chmod(0o755)  # mkdtemp's 0700 would hide a model from the user that serves it.
        if target.exists():
            old = new.with_suffix(".old")
            target.rename(old)
            new.rename(target)
            shutil.rmtree(old)
        else:
            new.rename(target)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise NannError(f"cannot write {target}: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


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
        new.unlink(missing_ok=True)


@contextlib.contextmanager
def tensorflow_writes(what: str) -> Iterator[None]:
    """Turns whatever TensorFlow raises while it writes files, full disks above all, into an OSError."""
    import tensorflow as tf  # Not needed by those who only read artefacts.

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"TensorFlow could not write the {what}: {error.message.splitlines()[0]}") from error


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, atomically."""
    with atomic_file(target) as path:
        path.write_text(json.dumps(value, indent=2) + "\n")


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
