"""Compares the model's embeddings of items with the index, at export and, from a saved sample, in `nann verify`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.sources import Source
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.index.match import TOLERANCE, ItemSample, check_embeddings, differing, refuse
from tfserving_ext.index.resource import rows_of
from tfserving_ext.progress import outcome

# A sample is saved, not `item` itself, which may need more state than everything else that is served.
FILES = tuple(Path("assets.extra") / f"sample_{name}.npy" for name in ("item_ids", "item_embs"))
# Relative tolerance by the index's dtype: rows of a folded scorer are computed from embeddings that int8 has rounded.
_ROUNDED = {"int8": 0.08}


def check_index(source: Source, index: Index, name: str) -> ItemSample | None:
    """Compares a sample of an index with what the model's `item` returns.

    Args:
      source: the model.
      index: the open index.
      name: what errors call the index.

    Returns:
      The sample; None if the model has no `item` or it fails.

    Raises:
      NannError: the index was not built from this model.
    """
    if source.item is None:
        return None
    try:
        item, dtype = _traced(source.item, index)
        as_text = dtype == tf.string
        found = check_embeddings(index, lambda ids: item(tf.constant(ids)).numpy(), source.item_ids, name, as_text)
    except NannError:
        raise
    except Exception as error:  # The model's own code may raise anything.
        reason = (str(error).strip().splitlines() or [""])[-1]
        outcome("export", f"the index is not compared with `item`, which fails: {type(error).__name__}: {reason}")
        return None
    if source.item_ids is not None:
        note_new(len(np.setdiff1d(index.item_ids, source.item_ids)), len(index.item_ids))
    return found


def _traced(item: Callable[[Any], Any], index: Index) -> tuple[Any, tf.DType]:
    """Traces `item`; returns it and the type of ids that it takes, if possible that of requests."""
    for dtype in (tf.string, tf.int64) if index.item_keys is not None else (tf.int64,):
        traced = tf.function(item, input_signature=[tf.TensorSpec([None], dtype)], autograph=False)
        try:
            return traced.get_concrete_function(), dtype
        except (TypeError, ValueError):
            if dtype == tf.int64:
                raise
    raise AssertionError("int64 comes last, and returns or raises")


def note_new(new: int, items: int, known_to: str = "the model") -> None:
    """Logs how many items of the index are new to the model or, if `known_to` says so, to the exported index."""
    if new:
        outcome(
            "export",
            f"{new} of {items} items are new to {known_to}: they are found and scored by the embeddings in the index; "
            "in a history, items that the model does not know count as missing",
        )


def write_sample(folder: Path, sample: ItemSample) -> None:
    """Writes a sample into the SavedModel `folder`."""
    for path, values in zip(FILES, sample, strict=True):
        # Ids that are strings are objects, which a plain .npy file does not hold.
        np.save(folder / path, values.astype(str) if values.dtype == object else values)


def drop_from_sample(exported: Path, folder: Path, item_ids: np.ndarray) -> None:
    """Writes the sample of the export `exported` into `folder`, where its files are linked, without some items."""
    if not all((exported / path).exists() for path in FILES):
        return
    ids, vectors = (np.load(exported / path, allow_pickle=False) for path in FILES)
    kept = ~np.isin(ids, item_ids.astype(str) if ids.dtype.kind == "U" else item_ids)
    for path, values in zip(FILES, (ids[kept], vectors[kept]), strict=True):
        (folder / path).unlink()  # What is linked must not change.
        np.save(folder / path, values)


def check_sample(folder: Path, index: Index, fold: Callable[[Any], Any] | None) -> int:
    """Compares the sample saved with an export with its index; returns how many items were compared.

    Args:
      folder: the SavedModel's folder.
      index: the index in it.
      fold: the function that computes rows from embeddings, if the index holds rows; else None.

    Raises:
      NannError: the embedding of an item differs from the one that the model gave.
    """
    if not all((folder / path).exists() for path in FILES):
        return 0
    ids, vectors = (np.load(folder / path, allow_pickle=False) for path in FILES)
    rows = rows_of(index, ids)
    rows, places = rows[rows >= 0], np.flatnonzero(rows >= 0)
    if not len(rows):
        return 0
    vectors = vectors[places]
    tolerance = TOLERANCE
    if fold is not None:
        vectors, tolerance = np.asarray(fold(tf.constant(vectors[None])))[0], _ROUNDED.get(index.dtype, TOLERANCE)
    name = f"the index of {folder}"
    refuse(index, rows, vectors, differing(index, rows, vectors, name, tolerance=tolerance), name, "its model's")
    return len(rows)
