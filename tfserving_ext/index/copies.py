"""Items that share an embedding: Faiss builds the graph with one of them, and the others are added afterwards.

HNSW keeps an item's nearest neighbours. If more items share an embedding than an item has links, all of its links lead
to copies at distance 0, and the graph falls apart: in a corpus of 10,000 items of which 1,000 were never trained, no
walk reached 8,326 of the others. A model gives all copies the same score, so that nothing is lost by building without
them (adr/0019).
"""

import dataclasses

import numpy as np

from tfserving_ext.index.graph import ROWS_AT_ONCE, Layer, places, with_links

# The children of a copy in its tree: a million copies are seven links deep, and expanding one scores at most this many.
FAN_OUT = 8


@dataclasses.dataclass(frozen=True)
class Copies:
    """Which of n items are in the graph that Faiss builds, and which are copies of those.

    Attributes:
      kept: int64 [u], the first item of each distinct embedding, ascending.
      place: int64 [n], the place in `kept` of the item that has each item's embedding.
    """

    kept: np.ndarray
    place: np.ndarray

    @property
    def number(self) -> int:
        """The number of items that are copies of another."""
        return len(self.place) - len(self.kept)


def find_copies(embeddings: np.ndarray) -> Copies:
    """Groups the rows of float32 [n, dim] by value (0 equals -0). Reads them in pieces and needs 40 bytes per row."""
    n, hashes = len(embeddings), _hashes(embeddings)
    _, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    original = first[place]
    for begin in range(0, n, ROWS_AT_ONCE):
        items = begin + np.flatnonzero(
            original[begin : begin + ROWS_AT_ONCE] != np.arange(begin, min(begin + ROWS_AT_ONCE, n))
        )
        differs = (embeddings[items] != embeddings[original[items]]).any(axis=1)
        original[items[differs]] = items[differs]  # Different embeddings with the same hash.
    kept = np.flatnonzero(original == np.arange(n))
    return Copies(kept, np.searchsorted(kept, original))


def _hashes(embeddings: np.ndarray) -> np.ndarray:
    """Returns a hash of each row, uint64 [n]; equal rows have equal hashes."""
    n, dim = embeddings.shape
    rng = np.random.default_rng(0)
    mixer, factors = (rng.integers(2**63, size=count, dtype=np.uint64) * 2 + 1 for count in (1, dim))
    hashes = np.empty(n, np.uint64)
    for begin in range(0, n, ROWS_AT_ONCE):
        mixed = (embeddings[begin : begin + ROWS_AT_ONCE] + np.float32(0)).view(np.uint32) * mixer
        mixed ^= mixed >> np.uint64(32)  # The low bits of floats are often all zero.
        hashes[begin : begin + ROWS_AT_ONCE] = (mixed * factors).sum(axis=1, dtype=np.uint64)
    return hashes


def add_copies(entry_points: np.ndarray, layers: list[Layer], copies: Copies) -> tuple[np.ndarray, list[Layer]]:
    """Turns the graph over `copies.kept` into the graph over all items.

    In the ground layer a copy has the links of the item that it is a copy of. The copies of an item form a tree below
    it with `FAN_OUT` children each, linked in both directions, items with lower indices nearer to the root. Upper
    layers have no copies.
    """
    if not copies.number:
        return entry_points, layers
    n, kept = len(copies.place), copies.kept
    made = []
    for number, layer in enumerate(layers):
        rows = np.diff(layer.row_splits)
        degrees = rows[copies.place]
        if number:
            degrees[_others(copies)] = 0
        row_splits = np.concatenate([[0], np.cumsum(degrees)])
        neighbors = np.empty(row_splits[-1], np.int32)
        for begin in range(0, n, ROWS_AT_ONCE):
            items = np.arange(begin, min(begin + ROWS_AT_ONCE, n))
            items = items[degrees[items] > 0]
            at = places(layer, copies.place[items])[0]
            neighbors[row_splits[begin] : row_splits[begin] + len(at)] = kept[layer.neighbors[at]]
        made.append(Layer(row_splits, neighbors))
    parents, children = _trees(copies)
    made[0] = with_links(made[0], np.concatenate([parents, children]), np.concatenate([children, parents]))
    return kept[entry_points].astype(np.int32), made


def _others(copies: Copies) -> np.ndarray:
    """Returns the items that are copies of another, ascending."""
    other = np.ones(len(copies.place), bool)
    other[copies.kept] = False
    return np.flatnonzero(other)


def _trees(copies: Copies) -> tuple[np.ndarray, np.ndarray]:
    """Returns parent and child of every link in the trees of copies, as dense indices."""
    order = np.argsort(copies.place, kind="stable")  # Each item of `kept`, followed by its copies.
    group = copies.place[order]
    first = np.searchsorted(group, group)
    position = np.arange(len(order)) - first
    child = np.flatnonzero(position)
    return order[first[child] + (position[child] - 1) // FAN_OUT], order[child]
