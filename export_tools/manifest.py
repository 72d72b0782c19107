"""The manifest of an exported model, `assets.extra/nann_export.json`: what went in, and a checksum of what came out."""

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
# TensorFlow stamps each save with a random number there.
STAMPED = "fingerprint.pb"
MAX_FIGURES_BYTES = 1 << 20


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes the manifest of the SavedModel in `folder`, with the checksums of its files."""
    versions = {"nann": __version__, "tensorflow": tf.__version__}
    manifest = {"format": FORMAT, "format_version": FORMAT_VERSION, "versions": versions, **facts}
    write_json(folder / FILE, {**manifest, "files": _files(folder)})


def read_figures(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Figures to keep in a manifest.

    Raises:
      NannError: the file is not a JSON object, or is too large for what should be a few numbers.
    """
    size = Path(path).stat().st_size if Path(path).exists() else 0
    if size > MAX_FIGURES_BYTES:
        raise NannError(f"{path} has {size} bytes, figures may have {MAX_FIGURES_BYTES}")
    figures = read_json(path)
    if not isinstance(figures, dict):
        raise NannError(f"{path} holds a {type(figures).__name__}, figures must be a JSON object")
    return figures


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an exported model.

    Raises:
      NannError: `folder` is no SavedModel, or none that `nann export` wrote.
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
      NannError: naming the first file that is missing, damaged or not of the export.
    """
    listed: dict[str, Any] = manifest["files"]
    held = {path.relative_to(folder).as_posix() for path in _paths(folder)}
    for name in sorted(held - set(listed)):
        raise NannError(f"{folder / name} is not of this export: its manifest does not list it")
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
    """The index inside an exported model, opened and checked.

    Raises:
      NannError: see `Index.open`; by the files of `folder`.
    """
    with tempfile.TemporaryDirectory(prefix="nann_index_") as made:
        for path in (folder / "assets").iterdir():
            (Path(made) / path.name).symlink_to(path.resolve())
        write_json(Path(made) / "manifest.json", manifest.get("index"))
        try:
            index = Index.open(made)
        except NannError as error:
            told = str(error).replace(f"{made}/manifest.json", f"{folder / FILE}: index")
            raise NannError(told.replace(made, str(folder / "assets"))) from error
        yield index


def _paths(folder: Path) -> list[Path]:
    skipped = (folder / FILE, folder / STAMPED)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path not in skipped)


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in _paths(folder)
    }
