"""Checks that an index holds the embeddings that a model gives to the same items.

An index from another training, or with ids in another order than its embeddings, loads and answers requests, but the
answers are bad; no other check would find this. New items, which the model does not know, are allowed: the search
scores them by their embeddings in the index.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index

SAMPLE = 256
# Allowed difference, as a share of an embedding's length; another machine, or half precision, computes other digits.
TOLERANCE = 0.02
# Allowed difference, as a share of the sample's median length; for embeddings near zero.
FLOOR = 1e-3
# The number of ids outside the index that the model is asked for: it may have several embeddings for unknown ids.
_PROBES = 64
# The number of rows that are searched for an embedding that is not in its place, and how many at once.
_SEARCHED_ROWS, _AT_ONCE = 1 << 20, 1 << 16


class ItemSample(NamedTuple):
    """A model's own embeddings of some items of an index.

    Attributes:
      ids: int64 [m], or str [m] if the index has keys.
      vectors: the model's embeddings of these items, float32 [m, d].
    """

    ids: np.ndarray
    vectors: np.ndarray


def check_embeddings(
    index: Index,
    item: Callable[[np.ndarray], np.ndarray],
    known: np.ndarray | None = None,
    name: str = "",
    as_text: bool = False,
) -> ItemSample:
    """Compares a sample of the index's embeddings with the model's.

    Args:
      index: an open index.
      item: the model's function from ids, int64 [m], to embeddings, float32 [m, d]; with `as_text`, from str [m].
      known: the ids that the model knows, ascending. None if the model does not say; then an item counts as unknown if
        its embedding differs from the index's, and equals that of another item or of an id outside the index, since
        models give many unknown ids the same embedding.
      name: the index's name in messages; by default its folder.
      as_text: whether `item` takes the keys of the index.

    Returns:
      The part of the sample that the model knows.

    Raises:
      NannError: the model knows none of the items, or gives one of them another embedding than the index.
    """
    name = name or str(index.folder)
    rows = np.arange(len(index.item_ids)) if known is None else np.flatnonzero(_among(index.item_ids, known))
    if len(rows):
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64))]
    ids = index.ids(rows) if as_text else np.asarray(index.item_ids)[rows]
    vectors = np.asarray(item(ids), np.float32) if len(ids) else np.zeros([0, index.dim], np.float32)
    wrong = differing(index, rows, vectors, name)
    if known is None and wrong.any():
        new = wrong & _repeated(np.concatenate([vectors, _of_others(index, item, as_text)]))[: len(vectors)]
        rows, ids, vectors, wrong = (each[~new] for each in (rows, ids, vectors, wrong))
    if not len(ids):
        raise NannError(
            f"{name} holds no item that the model knows, of {len(index.item_ids)}; does it belong to another corpus, "
            "or are its ids row numbers in place of the data's own ids?"
        )
    refuse(index, rows, vectors, wrong, name, "this model's")
    return ItemSample(index.ids(rows), vectors)


def differing(
    index: Index, rows: np.ndarray, vectors: np.ndarray, name: str, rounding: float = 0.0, tolerance: float = TOLERANCE
) -> np.ndarray:
    """Returns True where the embedding in a row of an index differs from the given one, bool [m].

    Args:
      index: an open index.
      rows: int64 [m].
      vectors: the embeddings expected in these rows, float32 [m, d].
      name: the index's name in messages.
      rounding: the largest rounding error of a coordinate of `vectors`.
      tolerance: the allowed difference, as a share of the embedding's length.

    Raises:
      NannError: `vectors` has another width than the index.
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
    """Raises NannError for the item whose embedding differs most, if any differs.

    Args:
      index: an open index.
      rows: int64 [m], the rows compared.
      vectors: the embeddings expected in these rows, float32 [m, d].
      wrong: bool [m], as `differing` returns it.
      name: the index's name in the message.
      whose: whose embeddings were expected, for the message, such as "this model's".
    """
    if not wrong.any():
        return
    distances = np.where(wrong, np.linalg.norm(index.embeddings(rows) - vectors, axis=1), -1)
    place = int(np.nanargmax(distances)) if not np.isnan(distances).all() else 0
    item = index.ids(rows[[place]])[0]
    length = float(np.linalg.norm(vectors[place]))
    elsewhere = _holder(index, vectors[place])
    cause = (
        f"it holds that embedding for item {elsewhere}: item_ids.npy and item_embs.npy are in different orders"
        if elsewhere is not None
        else "it belongs to another training, its ids are in another order than its embeddings, or these were changed "
        "in between, such as normalised; make item_ids.npy and item_embs.npy from this model and build the index again"
    )
    raise NannError(
        f"{name} was not built from {whose} embeddings: item {item} has another, at distance {distances[place]:.3g} "
        f"from its own, which has length {length:.3g}; {int(wrong.sum())} of {len(rows)} sampled items differ. Perhaps "
        f"{cause}"
    )


def _among(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(known, ids), max(len(known) - 1, 0))
    return known[places] == ids if len(known) else np.zeros(len(ids), bool)


def _of_others(index: Index, item: Callable[[np.ndarray], np.ndarray], as_text: bool) -> np.ndarray:
    """Returns the model's embeddings of ids that are not in the index, float32 [m, d]; none if `item` fails for these.

    They are needed if the sample has a single new item, whose embedding no other item of the sample has.
    """
    last = min(int(np.max(index.item_ids)), np.iinfo(np.int64).max - _PROBES)
    try:
        others = np.arange(last + 1, last + 1 + _PROBES)
        given = np.array([f"no item {number}" for number in others], object) if as_text else others
        return np.asarray(item(given), np.float32).reshape(-1, index.dim)
    except Exception:  # The model's code may raise anything for ids that it need not know.
        return np.zeros([0, index.dim], np.float32)


def _repeated(vectors: np.ndarray) -> np.ndarray:
    """Returns True for the vectors that appear more than once."""
    _, places, counts = np.unique(vectors, axis=0, return_inverse=True, return_counts=True)
    return counts[np.reshape(places, -1)] > 1


def _holder(index: Index, vector: np.ndarray) -> int | str | None:
    """Returns the id of an item with this embedding, among the first `_SEARCHED_ROWS`; None if there is none."""
    count = min(len(index.item_ids), _SEARCHED_ROWS)
    for start in range(0, count, _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, count))
        same = ~differing(index, rows, np.broadcast_to(vector, [len(rows), len(vector)]), "")
        if same.any():
            return index.ids(rows[[same.argmax()]])[0]
    return None
