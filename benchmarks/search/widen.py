"""A small corpus made large, seeded: for speed and memory at scale, never for claims of accuracy."""

import numpy as np

from tfserving_ext.errors import NannError

# How far a made item lies off the segment that it is drawn from, relative to the segment's length.
JITTER = 0.1


def widen(
    item_embeddings: np.ndarray, row_splits: np.ndarray, neighbors: np.ndarray, items: int, seed: int = 0
) -> np.ndarray:
    """More items of the same distribution: between the real items and their neighbours.

    A made item is a random point of the segment between a real item and one of its neighbours in the graph, plus a
    little noise, so that it lies where the model has items: a large corpus that a model trained on a small one can
    score.

    Args:
      item_embeddings: the real items, float32 [n, dim].
      row_splits: int64 [n + 1], of the ground layer.
      neighbors: int32 [row_splits[n]], of the ground layer.
      items: how many items to return, at least n.
      seed: of the draws.

    Returns:
      float32 [items, dim]; the first n are the real ones.

    Raises:
      NannError: fewer items than there are.
    """
    n, dim = item_embeddings.shape
    if items < n:
        raise NannError(f"items is {items}, allowed are {n} (the real ones) and above")
    rng = np.random.default_rng(seed)
    made = np.empty([items, dim], np.float32)
    made[:n] = item_embeddings
    degrees = np.diff(row_splits)
    linked = np.flatnonzero(degrees)
    if items > n and not len(linked):
        raise NannError("no item has a neighbour to draw new items between")
    for start in range(n, items, 1 << 17):
        count = min(1 << 17, items - start)
        one = rng.choice(linked, count)
        other = neighbors[row_splits[one] + rng.integers(0, degrees[one])]
        apart = item_embeddings[other] - item_embeddings[one]
        length = np.linalg.norm(apart, axis=1, keepdims=True)
        noise = rng.normal(size=[count, dim]).astype(np.float32) * (JITTER * length / np.sqrt(dim))
        made[start : start + count] = item_embeddings[one] + rng.random([count, 1], np.float32) * apart + noise
    return made
