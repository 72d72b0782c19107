"""What a model says of its items, held against the index: at export, and by `nann verify` from what export wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.sources import Source
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.index.match import TOLERANCE, ItemSample, check_embeddings, differing, refuse
from tfserving_ext.progress import outcome

# A sample, not `item` itself: that may need more state than all else that is served.
FILES = tuple(Path("assets.extra") / f"sample_{name}.npy" for name in ("item_ids", "item_embs"))
# Rows of a folded scorer are computed of embeddings that int8 has rounded.
_ROUNDED = {"int8": 0.08}


def check_index(source: Source, index: Index, name: str) -> ItemSample | None:
    """Holds a sample of an index against the model's `item`; None where it has none that can be asked.

    Raises:
      NannError: the index is not of this model.
    """
    if source.item is None:
        return None
    signature = [tf.TensorSpec([None], tf.int64)]
    try:
        item = tf.function(source.item, input_signature=signature, autograph=False).get_concrete_function()
        found = check_embeddings(index, lambda ids: item(tf.constant(ids)).numpy(), source.item_ids, name)
    except NannError:
        raise
    except Exception as error:  # Whatever the model's own code raises.
        reason = (str(error).strip().splitlines() or [""])[-1]
        outcome("export", f"the index is not held against `item`, which fails: {type(error).__name__}: {reason}")
        return None
    if source.item_ids is not None:
        note_new(len(np.setdiff1d(index.item_ids, source.item_ids)), len(index.item_ids))
    return found


def note_new(new: int, items: int, known_to: str = "the model") -> None:
    """Says how many items the model does not know, or, where that cannot be asked, the exported index."""
    if new:
        outcome(
            "export",
            f"{new} of {items} items are new to {known_to}: they are found and scored by the index's embeddings; those "
            "that the model does not know count as missing in a history",
        )


def write_sample(folder: Path, sample: ItemSample) -> None:
    """Writes a sample into the SavedModel `folder`."""
    for path, values in zip(FILES, sample, strict=True):
        np.save(folder / path, values)


def check_sample(folder: Path, index: Index, fold: Callable[[Any], Any] | None) -> int:
    """Holds the sample of an export against its index; returns how many items were compared.

    Args:
      folder: of the SavedModel.
      index: the one in it.
      fold: what makes rows of embeddings, where the index holds these.

    Raises:
      NannError: an item has another embedding than the model gave it.
    """
    if not all((folder / path).exists() for path in FILES):
        return 0
    ids, vectors = (np.load(folder / path, allow_pickle=False) for path in FILES)
    _, rows, places = np.intersect1d(index.item_ids, ids, return_indices=True)
    if not len(rows):
        return 0
    vectors = vectors[places]
    tolerance = TOLERANCE
    if fold is not None:
        vectors, tolerance = np.asarray(fold(tf.constant(vectors[None])))[0], _ROUNDED.get(index.dtype, TOLERANCE)
    name = f"the index of {folder}"
    refuse(index, rows, vectors, differing(index, rows, vectors, name, tolerance=tolerance), name, "its model's")
    return len(rows)
