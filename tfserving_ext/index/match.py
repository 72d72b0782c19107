"""Whether an index holds the embeddings that a model gives the same items.

An index of another training, or whose ids are in another order than its embeddings, loads and answers; only its
answers are bad, so that nothing else would tell. New items, which the model does not know, are no fault: the search
scores them by what the index holds.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index

SAMPLE = 256
# Of an embedding's length: what another machine, or half precision, computes otherwise.
TOLERANCE = 0.02
# Of the sample's median length: what an embedding of almost nothing may differ by.
FLOOR = 1e-3
# So many ids that are not in the index are asked for too: models may have several embeddings for what they do not know.
_PROBES = 64
# So many rows are looked through for an embedding that is not where it should be.
_LOOKED_THROUGH, _AT_ONCE = 1 << 20, 1 << 16


class ItemSample(NamedTuple):
    """What a model says of items of an index.

    Attributes:
      ids: int64 [m].
      vectors: their embeddings, float32 [m, d].
    """

    ids: np.ndarray
    vectors: np.ndarray


def check_embeddings(
    index: Index, item: Callable[[np.ndarray], np.ndarray], known: np.ndarray | None = None, name: str = ""
) -> ItemSample:
    """Compares a sample of the index with what the model gives; returns those that the model knows.

    Args:
      index: an open index.
      item: embeddings float32 [m, d] of ids, int64 [m].
      known: the ids that the model knows, ascending. Where None, those count as unknown that `item` gives the very
        embedding of another, or of an id that is not in the index: models have one for all that they do not know.
      name: what errors call the index; by default its folder.

    Raises:
      NannError: the model knows none of the items, or gives one another embedding.
    """
    name = name or str(index.folder)
    rows = np.arange(len(index.item_ids)) if known is None else np.flatnonzero(_among(index.item_ids, known))
    if len(rows):
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64))]
    ids = np.asarray(index.item_ids)[rows]
    vectors = np.asarray(item(ids), np.float32) if len(ids) else np.zeros([0, index.dim], np.float32)
    wrong = differing(index, rows, vectors, name)
    if known is None and wrong.any():
        new = wrong & _repeated(np.concatenate([vectors, _of_others(index, item)]))[: len(vectors)]
        rows, ids, vectors, wrong = (each[~new] for each in (rows, ids, vectors, wrong))
    if not len(ids):
        raise NannError(
            f"{name} holds no item that the model knows, of {len(index.item_ids)}; is it of another corpus, or are its "
            "ids row numbers in place of the data's own?"
        )
    refuse(index, rows, vectors, wrong, name, "this model's")
    return ItemSample(ids, vectors)


def differing(
    index: Index, rows: np.ndarray, vectors: np.ndarray, name: str, rounding: float = 0.0, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Which of `rows` of an index hold something else than `vectors`, bool [m].

    Args:
      index: an open index.
      rows: int64 [m].
      vectors: float32 [m, d].
      name: what errors call the index.
      rounding: by how much a coordinate of `vectors` may be rounded.
      tolerance: of the length.

    Raises:
      NannError: they are of another width.
    """
    if vectors.ndim != 2 or vectors.shape[1:] != (index.dim,):
        raise NannError(
            f"the width of {name} is {index.dim}, the model gives items embeddings of shape {list(vectors.shape)}"
        )
    held = index.embeddings(rows)
    lengths = np.maximum(np.linalg.norm(held, axis=1), np.linalg.norm(vectors, axis=1))
    # int8 rounds a coordinate by up to half a scale.
    scales = 0.0 if index.item_scales is None else np.asarray(index.item_scales[rows]) / 2
    allowed = tolerance * lengths + FLOOR * np.median(lengths if len(lengths) else 0.0)
    allowed = allowed + (scales + rounding) * index.dim**0.5
    return ~(np.linalg.norm(held - vectors, axis=1) <= allowed)


def refuse(index: Index, rows: np.ndarray, vectors: np.ndarray, wrong: np.ndarray, name: str, whose: str) -> None:
    """Raises NannError for the item that differs most, if any does; `whose` says whose embeddings were wanted."""
    if not wrong.any():
        return
    distances = np.where(wrong, np.linalg.norm(index.embeddings(rows) - vectors, axis=1), -1)
    place = int(np.nanargmax(distances)) if not np.isnan(distances).all() else 0
    item = index.item_ids[rows[place]]
    length = float(np.linalg.norm(vectors[place]))
    elsewhere = _holder(index, vectors[place])
    cause = (
        f"it holds that embedding for item {elsewhere}: item_ids.npy and item_embs.npy are in different orders"
        if elsewhere is not None
        else "it is of another training, its ids are in another order than its embeddings, or these were changed on "
        "the way, such as normalised; make item_ids.npy and item_embs.npy of this model and build the index again"
    )
    raise NannError(
        f"{name} was not built from {whose} embeddings: item {item} has another, {distances[place]:.3g} away from its "
        f"own, which is {length:.3g} long; {int(wrong.sum())} of {len(rows)} sampled items differ. Perhaps {cause}"
    )


def _among(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    return known[places] == ids if len(known) else np.zeros(len(ids), bool)


def _of_others(index: Index, item: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Embeddings of ids that are not in the index, float32 [m, d]; none where `item` fails for these.

    The sample may hold a single new item, whose embedding no other of it has.
    """
    last = min(int(np.max(index.item_ids)), np.iinfo(np.int64).max - _PROBES)
    try:
        return np.asarray(item(np.arange(last + 1, last + 1 + _PROBES)), np.float32).reshape(-1, index.dim)
    except Exception:  # The model's own code, asked for what it need not know.
        return np.zeros([0, index.dim], np.float32)


def _repeated(vectors: np.ndarray) -> np.ndarray:
    """Which vectors stand there more than once."""
    _, places, counts = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    return counts[np.reshape(places, -1)] > 1


def _holder(index: Index, vector: np.ndarray) -> int | None:
    """The id of an item with this embedding."""
    count = min(len(index.item_ids), _LOOKED_THROUGH)
    for start in range(0, count, _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, count))
        same = ~differing(index, rows, np.broadcast_to(vector, [len(rows), len(vector)]), "")
        if same.any():
            return int(index.item_ids[rows[same.argmax()]])
    return None
