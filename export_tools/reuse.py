"""Exports a model with a new index: the files of the earlier export are linked, and nothing is traced again."""

import contextlib
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.items import FILES as SAMPLE
from export_tools.items import drop_from_sample, note_new
from export_tools.manifest import check_files, exported_index, read_figures, read_manifest, write_manifest
from export_tools.rows import write_rows
from export_tools.search_choice import check_rule
from export_tools.trial import try_out
from export_tools.warm_up import Examples, write_warm_up
from tfserving_ext.artifacts import atomic_folder, link_or_copy
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.index.match import differing, refuse
from tfserving_ext.index.resource import shared_rows
from tfserving_ext.outputs import EXPORT, check_replaceable

MATCH_SAMPLE = 1000


def reuse(
    exported: str | os.PathLike[str],
    index: str | os.PathLike[str],
    target: str | os.PathLike[str],
    evaluation: str | os.PathLike[str] | None = None,
    force: bool = False,
    changed: Collection[int] = (),
) -> Path:
    """Exports the model of `exported` with another index of the same model to `target`, whole or not at all.

    Files are shared where the file system allows it (reflinks, else hard links), else copied. Sharing is safe, because
    no file is ever written in place.

    Args:
      exported: a SavedModel that `nann export` wrote.
      index: a folder that `nann index` wrote from the same model's embeddings.
      target: the new SavedModel's folder.
      evaluation: a JSON file of metrics to keep in the manifest in place of the old ones.
      force: replace `target` whatever it holds; by default, only an earlier export is replaced.
      changed: ids of items whose embeddings were changed on purpose, so that they are not compared with the old ones.

    Returns:
      `target`.

    Raises:
      NannError: `exported` is damaged, the index differs from its index in model, width, type or number of layers, or
        `target` cannot be written; or the exported rule for coverage does not hold for the index.
    """
    exported = Path(exported)
    check_replaceable(target, EXPORT, force, [exported, index, evaluation])
    manifest = read_manifest(exported)
    check_files(exported, manifest)
    with contextlib.ExitStack() as work:
        opened = Index.open(index, checksums=True)
        scorer = manifest.get("scorer") or {}
        if scorer.get("folded"):
            rows = work.enter_context(tempfile.TemporaryDirectory(prefix="nann_rows_"))
            opened = _folded(exported, opened, scorer.get("row_dim"), Path(rows))
        with exported_index(exported, manifest) as old:
            _check_same_model(old, opened, index, np.array(sorted(changed), np.int64))
            _check_ids(old, opened, index, manifest.get("numbered", False))
            own = {path.name for path in old.files}
            dropped = _ids_of_numbers(old, changed)
        check_rule(manifest["defaults"], index)
        with atomic_folder(target, EXPORT, force) as new:
            _write(new, exported, opened, own)
            if len(dropped):
                drop_from_sample(exported, new, dropped)
            facts: dict[str, Any] = {key: value for key, value in manifest.items() if key not in ("files", "versions")}
            facts["index"] = opened.manifest
            examples = Examples.of_export(exported, manifest["seeds"])
            facts["warm_up_records"] = write_warm_up(new, examples, opened, manifest["signatures"])
            facts["evaluation"] = None if evaluation is None else read_figures(evaluation)
            facts["model_of"] = manifest["files"]["saved_model.pb"]["sha256"]
            write_manifest(new, facts)
            try_out(new)
    return Path(target)


def _ids_of_numbers(index: Index, numbers: Collection[int]) -> np.ndarray:
    """Returns the ids, as requests have them, of those of `numbers` that are items of the index."""
    return index.ids(np.flatnonzero(np.isin(index.item_ids, np.array(sorted(numbers), np.int64))))


def _folded(exported: Path, index: Index, row_dim: Any, folder: Path) -> Index:
    """Writes the index to `folder` with the rows that the exported model's scorer takes, and opens it.

    Raises:
      NannError: the exported model takes embeddings of another width.
    """
    loaded = tf.saved_model.load(str(exported))  # Kept in a local: its functions do not keep its variables alive.
    fold = loaded.fold
    (items,) = fold.concrete_functions[0].structured_input_signature[0]
    if items.shape[-1] != index.dim:
        raise NannError(
            f"the width of {index.folder} is {index.dim}, the exported model searches {items.shape[-1]}; export the "
            "model anew"
        )
    return write_rows(index, fold, row_dim, folder)


def _write(new: Path, exported: Path, opened: Index, own: set[str]) -> None:
    """Links the files of the old export into `new`, except those of its index, whose names are in `own`."""
    for path in sorted(exported.rglob("*")):
        name = path.relative_to(exported)
        if path.is_dir():
            (new / name).mkdir()
        elif (name.parts[0] != "assets.extra" or name in SAMPLE) and not (
            name.parts[0] == "assets" and name.name in own
        ):
            link_or_copy(path, new / name)
    for path in opened.files:
        link_or_copy(path, new / "assets" / path.name)


def _check_same_model(old: Index, new: Index, folder: str | os.PathLike[str], changed: np.ndarray) -> None:
    """Checks that a new index can replace the old one: same form for the graph that searches it, and same embeddings.

    Args:
      old: the index of the export.
      new: the index that is to replace it.
      folder: where the new one came from, for the errors.
      changed: int64 [c], ids whose embeddings are not compared.

    Raises:
      NannError: it cannot replace the old one.
    """
    for name, searched, given in (
        ("width", old.dim, new.dim),
        ("dtype", old.dtype, new.dtype),
        ("number of layers", len(old.layers), len(new.layers)),
    ):
        if searched != given:
            raise NannError(
                f"the {name} of {folder} is {given}, the exported model searches {searched}; export the model anew"
            )
    if old.has_features and not new.has_features:
        raise NannError(
            f"{folder} has no features for the surrogate search, which the exported model runs; build the index again "
            "with `nann index`, or export the model anew"
        )
    if old.attributes and not new.attributes:
        raise NannError(
            f"{folder} has no attributes, by which requests to the exported model filter; build the index again with "
            "`nann index --attributes`, or export the model anew"
        )
    if (old.item_keys is None) != (new.item_keys is None):
        kinds = {True: "integers", False: "strings"}
        raise NannError(
            f"the ids of {folder} are {kinds[new.item_keys is None]}, those of the exported index "
            f"{kinds[old.item_keys is None]}; requests and answers would have others: export the model anew"
        )
    before, now = shared_rows(old, new)
    if not len(now):
        raise NannError(f"{folder} has no item in common with the exported index: its model or corpus is another")
    note_new(len(new.item_ids) - len(now), len(new.item_ids), "the exported index")
    same = np.flatnonzero(~np.isin(new.item_ids[now], changed))
    if not len(same):
        return
    sample = same[np.unique(np.linspace(0, len(same) - 1, MATCH_SAMPLE).astype(np.int64))]
    rows, vectors = now[sample], old.embeddings(before[sample])
    rounding = 0.0 if old.item_scales is None else float(np.max(old.item_scales)) / 2
    refuse(
        new, rows, vectors, differing(new, rows, vectors, str(folder), rounding), str(folder), "the exported model's"
    )


def _check_ids(old: Index, new: Index, folder: str | os.PathLike[str], numbered: bool) -> None:
    """Checks that a model that takes the numbers of strings gets the same ones.

    Args:
      old: the index of the export.
      new: the index that is to replace it, with the same kind of ids.
      folder: where the new one came from, for the error.
      numbered: whether the exported graph maps the strings of a history to numbers for the model.

    Raises:
      NannError: a string stands for another number.
    """
    if not numbered:
        return
    before, now = shared_rows(old, new)
    other = np.flatnonzero(old.item_ids[before] != new.item_ids[now])
    if len(other):
        at = other[0]
        raise NannError(
            f"{old.ids(before[[at]])[0]!r} is item {new.item_ids[now[at]]} for the model by {folder}, and "
            f"{old.item_ids[before[at]]} by the exported index; build both with the same table, `nann index --keys`"
        )
