"""The manifest of an exported model, `assets.extra/nann_export.json`: what went in, and checksums of its files."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfserving_ext import __version__
from tfserving_ext.artifacts import read_json, sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.local_paths import check_local

FILE = Path("assets.extra") / "nann_export.json"
FORMAT, FORMAT_VERSION = "nann-export", 1
# Left out of the checksums: TensorFlow writes a random number into it at each save.
STAMPED = "fingerprint.pb"
MAX_FIGURES_BYTES = 1 << 20


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes the manifest of the SavedModel in `folder`, with the checksums of its files."""
    versions = {"nann": __version__, "tensorflow": tf.__version__}
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "versions": versions, **facts}
    write_json(folder / FILE, {**manifest, "files": _files(folder)})


def read_figures(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the metrics that a manifest is to keep.

    Raises:
      NannError: the file is not a JSON object, or it is too large for a few metrics.
    """
    size = Path(path).stat().st_size if Path(path).exists() else 0
    if size > MAX_FIGURES_BYTES:
        raise NannError(f"{path} has {size} bytes, a file of metrics may have at most {MAX_FIGURES_BYTES}")
    figures = read_json(path)
    if not isinstance(figures, dict):
        raise NannError(f"{path} holds a {type(figures).__name__}, metrics must be a JSON object")
    return figures


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of an exported model.

    Raises:
      NannError: `folder` is not a SavedModel that `nann export` wrote, or its manifest is damaged or too new or old.
    """
    check_local(folder)
    if not (folder / "saved_model.pb").exists():
        raise NannError(f"{folder} is not a SavedModel: it has no saved_model.pb; make one with `nann export`")
    if not (folder / FILE).exists():
        raise NannError(f"{folder} was not written by `nann export`: it has no {FILE}")
    manifest = read_json(folder / FILE)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise NannError(f"{folder / FILE} does not describe an export (format {FORMAT!r})")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise NannError(
            f"{folder / FILE} has format version {manifest.get('format_version')!r}, this release reads "
            f"{FORMAT_VERSION}; export again"
        )
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise NannError(f"{folder / FILE}: files must be an object of objects")
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compares the files of an exported model with the manifest's sizes and checksums.

    Raises:
      NannError: a file is missing, damaged or not part of the export; the message names the first such file.
    """
    listed: dict[str, Any] = manifest["files"]
    held = {path.relative_to(folder).as_posix() for path in _paths(folder)}
    for name in sorted(held - set(listed)):
        raise NannError(f"{folder / name} is not part of this export: its manifest does not list it")
    for name, entry in listed.items():
        if name not in held:
            raise NannError(f"{folder / name} is missing from the export")
        size = (folder / name).stat().st_size
        if size != entry.get("bytes"):
            raise NannError(f"{folder / name} has {size} bytes, the manifest says {entry.get('bytes')}")
        if sha256(folder / name) != entry.get("sha256"):
            raise NannError(f"{folder / name} does not have the checksum that the manifest gives")


@contextlib.contextmanager
def exported_index(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Index]:
    """Opens and checks the index inside an exported model.

    Raises:
      NannError: as `Index.open` does, with the paths of files in `folder`.
    """
    with tempfile.TemporaryDirectory(prefix="nann_index_") as made:
        for path in (folder / "assets").iterdir():
            (Path(made) / path.name).symlink_to(path.resolve())
        write_json(Path(made) / "manifest.json", manifest.get("index"))
        try:
            index = Index.open(made)
        except NannError as error:
            message = str(error).replace(f"{made}/manifest.json", f"{folder / FILE}: index")
            raise NannError(message.replace(made, str(folder / "assets"))) from error
        yield index


def _paths(folder: Path) -> list[Path]:
    skipped = (folder / FILE, folder / STAMPED)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in skipped)


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in _paths(folder)
    }
