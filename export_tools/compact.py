"""Folds the updates of an exported model into a new index and a new version (docs/live.md)."""

import contextlib
import dataclasses
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export_tools.corpus import Items
from export_tools.cut import cut_of, vectors_of
from export_tools.manifest import exported_index, read_manifest
from export_tools.reuse import reuse
from export_tools.rows import write_table
from export_tools.updates import Updates
from export_tools.versions import versions_of
from tfserving_ext.artifacts import atomic_folder
from tfserving_ext.errors import NannError
from tfserving_ext.index.build import Hnsw, build_index
from tfserving_ext.index.deltas import Deltas, segment_paths
from tfserving_ext.index.format import Index
from tfserving_ext.index.segments import Rows, index_key, read_segment
from tfserving_ext.outputs import INDEX, check_replaceable

# In the folder of a version's updates: the key of the version from which it was made.
_AFTER = "after"
_WAIT_SECONDS = 30.0


class Compacted(NamedTuple):
    """What was made.

    Attributes:
      model: the new version.
      folder: the new index's folder.
      items: how many items it has.
      updates: how many updates it holds.
      carried: how many updates that came meanwhile now follow it.
      removed: of how many versions that are gone the updates were removed.
    """

    model: Path
    folder: Path
    items: int
    updates: int
    carried: int
    removed: int


def compact(
    exported: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str] = "index",
    index: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    force: bool = False,
) -> Compacted:
    """Builds an index of a model's items as they are, and exports the newest version of the model with it.

    Updates may be written meanwhile: those that come after it has begun follow the new version. Servers take it up as
    any new version. Updates of versions that are gone are removed.

    Example:
      >>> nann.delete("models/nann", "deltas", np.load("embeddings/item_ids.npy")[:2].tolist()).sequence
      1
      >>> nann.compact("models/nann", "deltas", "index_2", "index").model.name
      '2'

    Args:
      exported: the folder of a model's versions.
      folder: the folder of deltas.
      target: the new index's folder.
      index: the index that the newest version was exported with; only needed where its scorer is folded.
      threads: threads for building the graph; None for all cores.
      force: replace whatever `target` holds.

    Raises:
      NannError: `exported` has no versions, an embedding is known to no index, or something cannot be written.
    """
    base = Path(exported)
    if not versions_of(base):
        raise NannError(f"{base} must be the folder of a model's versions, such as models/nann with models/nann/1")
    with Updates(base, folder) as updates:
        old, sequence, items = updates.model, updates.deltas.sequence, updates.items()
        changed, item_ids = list(updates.deltas.changed), updates.ids_of(items)
    _add_embeddings(items, index, old)
    facts = read_manifest(old)
    vectors, manifest = vectors_of(facts, items.embeddings, old), facts["index"]
    hnsw = Hnsw(
        m=manifest.get("M", Hnsw.m),
        ef_construction=manifest.get("efConstruction", Hnsw.ef_construction),
        threads=threads,
        seed=manifest.get("seed", Hnsw.seed),
        graph=manifest.get("graph", Hnsw.graph),
        neighbors=manifest["knn"]["K"] if manifest.get("graph") == "knn" else None,
    )
    arguments = (hnsw, manifest["dtype"], force, items.attributes)
    if vectors is items.embeddings:
        made = build_index(item_ids, vectors, target, *arguments)
    else:
        made = _built_on_others(item_ids, vectors, items.embeddings, Path(target), arguments)
    model = base / str(int(versions_of(base)[-1].name) + 1)
    hidden = base / f".{model.name}.compacted"  # A server must not see it before the updates that follow it.
    try:
        reuse(old, made.folder, hidden, force=True, changed=changed)
        carried = _carry(old, folder, sequence, hidden, model)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return Compacted(model, made.folder, len(items.item_ids), sequence, carried, _remove_old(base, Path(folder)))


def _built_on_others(item_ids: Any, vectors: np.ndarray, rows: np.ndarray, target: Path, arguments: Any) -> Index:
    """Builds an index whose graph is on other vectors than the rows that it holds."""
    force = arguments[2]
    check_replaceable(target, INDEX, force)
    with tempfile.TemporaryDirectory(prefix="nann_index_") as work:
        index = build_index(item_ids, vectors, Path(work) / "vectors", *arguments)
        (Path(work) / "rows").mkdir()
        write_table(index, rows, Path(work) / "rows")
        with atomic_folder(target, INDEX, force) as new:
            shutil.copytree(Path(work) / "rows", new, dirs_exist_ok=True)
    return Index.open(target)


def _add_embeddings(items: Items, index: str | os.PathLike[str] | None, model: Path) -> None:
    """Fills in the embeddings that only the index has from which the export was made."""
    missing = np.flatnonzero(np.isnan(items.embeddings).any(axis=1))
    if not len(missing):
        return
    if cut_of(read_manifest(model)) is not None:
        raise NannError(
            f"{model} holds rows of a folded scorer, from which no new ones can be computed: export the ranker again "
            "with the table of its items as they are now (nann export RANKER --items ITEMS)"
        )
    if index is None:
        raise NannError(
            f"{model} holds rows of a folded scorer instead of {len(missing)} items' embeddings: name the index that "
            "it was exported with"
        )
    opened = Index.open(index)
    order = np.argsort(opened.item_ids, kind="stable")
    wanted = items.item_ids[missing]
    places = np.searchsorted(opened.item_ids, wanted, sorter=order)
    found = order[np.minimum(places, len(order) - 1)] if len(order) else np.zeros(len(wanted), np.int64)
    unknown = np.flatnonzero(opened.item_ids[found] != wanted) if len(order) else np.arange(len(wanted))
    if len(unknown):
        raise NannError(f"{index} has no item {wanted[unknown[0]]}: {model} was exported with another index")
    if opened.dim != items.embeddings.shape[1]:
        raise NannError(f"{index} has embeddings of width {opened.dim}, {model} takes {items.embeddings.shape[1]}")
    items.embeddings[missing] = opened.embeddings(found)


@contextlib.contextmanager
def _writing(deltas: Deltas) -> Iterator[None]:
    """Waits for another writer, who holds the lock for the time of one update."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(deltas.writing())
            except NannError:
                if time.monotonic() > until:
                    raise
            else:
                yield
                return
        time.sleep(0.05)


def _carry(old: Path, folder: str | os.PathLike[str], sequence: int, hidden: Path, model: Path) -> int:
    """Writes the updates after `sequence` for the version in `hidden` as well, and renames that to `model`."""
    with (
        exported_index(old, read_manifest(old)) as before,
        exported_index(hidden, read_manifest(hidden)) as after,
    ):
        ours, theirs = Deltas(folder, before), Deltas(folder, after)
        with _writing(ours), theirs.writing():
            (theirs.folder / _AFTER).write_text(f"{ours.key:016x}\n")
            paths = segment_paths(ours.folder)[sequence:]
            for path in paths:
                segment = read_segment(path, ours.key, before)
                theirs.append(_for(after, segment.rows), segment.deleted)
            hidden.rename(model)
            return len(paths)


def _for(index: Index, rows: Rows) -> Rows:
    """Returns rows without the texts that an index has itself, because an update that was folded in brought them."""
    if rows.keys is None or index.item_keys is None:
        return rows
    known = set(np.asarray(index.item_ids).tolist()) | set(index.item_keys.others.tolist())
    ids = rows.item_ids.tolist()
    keys = [b"" if item_id in known else key for item_id, key in zip(ids, rows.keys, strict=True)]
    return dataclasses.replace(rows, keys=keys)


def _remove_old(base: Path, folder: Path) -> int:
    """Removes the updates of versions of a model that are gone; returns of how many."""
    keys = set()
    for version in versions_of(base):
        with exported_index(version, read_manifest(version)) as index:
            keys.add(f"{index_key(index):016x}")
    gone = {old for key in keys for old in _before(folder, key) if old not in keys and (folder / old).is_dir()}
    for old in gone:
        shutil.rmtree(folder / old)
    return len(gone)


def _before(folder: Path, key: str) -> list[str]:
    """Returns the keys of the versions from which that of `key` was made."""
    found: list[str] = []
    while (folder / key / _AFTER).exists():
        key = (folder / key / _AFTER).read_text().strip()
        if key in found or not re.fullmatch("[0-9a-f]{16}", key):
            break
        found.append(key)
    return found
