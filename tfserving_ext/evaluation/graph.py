"""What a graph is like by itself, without any model."""

import numpy as np

from tfserving_ext.index.format import Index


def unreachable_items(index: Index) -> np.ndarray:
    """The items that no walk of any length from the entry points meets at the ground layer.

    A search that is seeded with the history may yet meet them. Breadth first, each edge looked at once; n bytes and
    what one step of the walk holds.

    Returns:
      int64 [m], dense indices, in order.
    """
    layer = index.layers[0]
    splits, neighbors = np.asarray(layer.row_splits), np.asarray(layer.neighbors)
    seen = np.zeros(len(index.item_ids), bool)
    front = np.unique(index.entry_points)
    seen[front] = True
    while len(front):
        degrees = splits[front + 1] - splits[front]
        # All edges of the front, end to end: where each item's begin, less how many came before them.
        shifts = np.repeat(splits[front] - (np.cumsum(degrees) - degrees), degrees)
        met = neighbors[shifts + np.arange(len(shifts))]
        front = np.unique(met[~seen[met]])
        seen[front] = True
    return np.flatnonzero(~seen)
