"""Makes a small corpus large, to measure speed and memory at scale; it must not be used to claim accuracy."""

import numpy as np

from tfserving_ext.errors import NannError

# How far a made item lies from the segment on which it is drawn, relative to the segment's length.
JITTER = 0.1


def widen(
    item_embeddings: np.ndarray, row_splits: np.ndarray, neighbors: np.ndarray, items: int, seed: int = 0
) -> np.ndarray:
    """Adds items between the real items and their neighbours, so that they have about the same distribution.

    A made item is a random point on the segment between a real item and one of its neighbours in the graph, plus a
    little noise. It therefore lies where the model has items, and a model trained on the small corpus can score it.

    Args:
      item_embeddings: the real items, float32 [n, dim].
      row_splits: row splits of the ground layer, int64 [n + 1].
      neighbors: neighbours in the ground layer, int32 [row_splits[n]].
      items: how many items to return, at least n.
      seed: seed of the draws.

    Returns:
      float32 [items, dim]; the first n are the real ones.

    Raises:
      NannError: `items` is below n, or no item has a neighbour.
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
