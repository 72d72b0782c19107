"""The ground layer as a graph of nearest neighbours in both directions, in place of HNSW's (adr/0024).

HNSW keeps neighbours that lie in different directions, which suits the descent to one nearest item. A best-first search
looks for the best few hundred items, most of which lie close together, and profits from links to all that is near.

Nearest neighbours alone fall apart into islands wherever more items lie close together than an item has neighbours.
Where they do, HNSW's links from one island to another are kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from tfserving_ext.index.distinct import CHUNK, Distinct
from tfserving_ext.index.graph import Layer, with_links
from tfserving_ext.progress import progress

# Up to this many embeddings, each is compared with every other one, which takes no longer than to build HNSW's graph.
EXACT_ITEMS = 1 << 15
# The beam width of that search, or twice the neighbours if these are more.
EF_SEARCH = 128
ROWS_AT_ONCE = 1 << 16


def knn_layer(embeddings: Distinct, built: Any, hnsw_ground: Layer, k: int) -> tuple[Layer, dict[str, Any]]:
    """Builds the ground layer from nearest neighbours.

    An item is linked with its k nearest neighbours and with the items whose neighbour it is. It keeps the nearest 2 k
    of these links, so that an item which is near to thousands of others is not linked with all of them, but always
    those to its own neighbours. Where the layer has islands, HNSW's links between them are added.

    Args:
      embeddings: n distinct embeddings.
      built: Faiss' HNSW index of the embeddings.
      hnsw_ground: the ground layer of that index.
      k: neighbours of an item; with at most k other items, all of these.

    Returns:
      The layer, and its facts for the manifest: `K`; `most_links`, 2 k; `exact`, whether the neighbours are truly the
      nearest, or those that a search of HNSW's graph found; `islands`, the number of islands of the neighbours alone;
      `bridges`, the number of links between them.
    """
    n, most = len(embeddings), 2 * k
    exact = n <= EXACT_ITEMS
    built.hnsw.efSearch = max(EF_SEARCH, 2 * k)
    neighbors, squared = nearest(embeddings, min(k, n - 1), built.storage if exact else built)
    layer, label = symmetric(neighbors, squared, most), islands(neighbors)
    sources, targets = _between(hnsw_ground, label)
    facts = {"K": k, "most_links": most, "exact": exact, "islands": len(np.unique(label)), "bridges": len(sources)}
    return with_links(layer, sources, targets) if len(sources) else layer, facts


def nearest(embeddings: Distinct, k: int, searched: Any) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest neighbours of each distinct embedding by L2, itself excluded.

    Args:
      embeddings: n distinct embeddings.
      k: how many neighbours to find, at most n - 1.
      searched: the Faiss index of the embeddings to search.

    Returns:
      int32 [n, k], nearest first, -1 where the search found fewer; and float32 [n, k], the squared distances.
    """
    n = len(embeddings)
    found, squared = np.empty([n, k], np.int32), np.empty([n, k], np.float32)
    with progress("index: searching neighbours", n) as advance, _by_differences():
        for start in range(0, n, CHUNK):
            rows = embeddings.between(start, start + CHUNK)
            distances, items = searched.search(rows, k + 1)
            own = items == np.arange(start, start + len(rows))[:, None]
            # An item that was not found itself, as k + 1 others are equally near, loses the last one instead.
            own[~own.any(axis=1), -1] = True
            found[start : start + len(rows)] = items[~own].reshape(len(rows), k)
            squared[start : start + len(rows)] = distances[~own].reshape(len(rows), k)
            advance(len(rows))
    return found, squared


@contextmanager
def _by_differences() -> Iterator[None]:
    """Makes Faiss compare vectors by their difference.

    By default it computes |a|^2 + |b|^2 - 2 ab from a matrix product. That takes half the time, but its rounding errors
    depend on the number of threads, and exceed the distances where embeddings lie far from the origin.
    """
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 2**31 - 1
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def symmetric(neighbors: np.ndarray, squared: np.ndarray, most: int) -> Layer:
    """Links each item with its neighbours in both directions, up to a number of links.

    Args:
      neighbors: int32 [n, k], each item's neighbours; -1 for none.
      squared: float32 [n, k], their squared distances.
      most: how many links an item keeps: the nearest ones, and of equally near ones those to lower items. At least k.

    Returns:
      The layer. The links of an item are ordered from near to far.
    """
    n, k = neighbors.shape
    degrees, kept = np.zeros(n + 1, np.int64), [np.empty(0, np.int32)]
    with progress("index: linking neighbours", n) as advance:
        for begin in range(0, n, ROWS_AT_ONCE):
            end = min(begin + ROWS_AT_ONCE, n)
            from_rows, places = np.nonzero((neighbors >= begin) & (neighbors < end))  # The links into these rows.
            rows = np.concatenate([np.arange(begin, end).repeat(k), neighbors[from_rows, places]])
            items = np.concatenate([neighbors[begin:end].ravel(), from_rows])
            distances = np.concatenate([squared[begin:end].ravel(), squared[from_rows, places]])
            pairs, first = np.unique(np.where(items < 0, -1, rows * n + items), return_index=True)
            first = first[pairs >= 0]
            order = first[np.lexsort((items[first], distances[first], rows[first]))]
            rows, items = rows[order], items[order]
            inside = np.arange(len(rows)) - np.searchsorted(rows, rows) < most
            degrees[begin + 1 : end + 1] = np.bincount(rows[inside] - begin, minlength=end - begin)
            kept.append(items[inside].astype(np.int32))
            advance(end - begin)
    return Layer(np.cumsum(degrees), np.concatenate(kept))


def islands(neighbors: np.ndarray) -> np.ndarray:
    """Finds the parts of a graph that no link connects, whatever its direction.

    Args:
      neighbors: int32 [n, k], each item's neighbours; -1 for none.

    Returns:
      int64 [n], the lowest item of each item's island.
    """
    n, k = neighbors.shape
    label = np.arange(n)
    while True:
        before = label.copy()
        for begin in range(0, n, ROWS_AT_ONCE):
            there = neighbors[begin : begin + ROWS_AT_ONCE]
            here = np.arange(begin, begin + len(there))
            there = np.where(there < 0, here[:, None], there)
            lowest = np.minimum(label[here], label[there].min(axis=1, initial=n))
            # A label is an item of the island: where it gets a lower label itself, all that share it follow below.
            np.minimum.at(label, label[here], lowest)
            np.minimum.at(label, there.ravel(), lowest.repeat(k))
        label = label[label]
        if np.array_equal(label, before):
            return label


def _between(layer: Layer, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns sources and targets of the links between items with different labels."""
    sources, targets = np.arange(len(label)).repeat(np.diff(layer.row_splits)), np.asarray(layer.neighbors)
    apart = label[sources] != label[targets]
    return sources[apart], targets[apart]
