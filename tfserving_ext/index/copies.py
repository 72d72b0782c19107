"""Items that share one embedding: one of them stands in the graph that Faiss builds, the others are added to it.

HNSW keeps an item's nearest neighbours. Where more items share an embedding than an item has links, all of these go
to the copies at distance 0, and the graph falls apart: of 10,000 items of which 1,000 were never trained, 8,326 others
were met by no walk. Under any model the copies have one score: nothing is lost by building without them (adr/0019).
"""

import dataclasses

import numpy as np

from tfserving_ext.index.graph import ROWS_AT_ONCE, Layer, places, with_links

# Copies that one copy links to: a million are seven links deep, and a walk that meets one scores no more than these.
FAN_OUT = 8


@dataclasses.dataclass(frozen=True)
class Copies:
    """Which of n items stand in the graph, and which are copies of those.

    Attributes:
      kept: int64 [u], the first item of each embedding, in order.
      place: int64 [n], where in `kept` each item's embedding is.
    """

    kept: np.ndarray
    place: np.ndarray

    @property
    def number(self) -> int:
        """How many items are copies of another."""
        return len(self.place) - len(self.kept)


def find_copies(embeddings: np.ndarray) -> Copies:
    """Groups the rows of float32 [n, dim] by value (0 and -0 are one). Reads them in pieces; holds 40 bytes a row."""
    n, hashes = len(embeddings), _hashes(embeddings)
    _, first, place = np.unique(hashes, return_index=True, return_inverse=True)
    original = first[place]
    for begin in range(0, n, ROWS_AT_ONCE):
        items = begin + np.flatnonzero(
            original[begin : begin + ROWS_AT_ONCE] != np.arange(begin, min(begin + ROWS_AT_ONCE, n))
        )
        differs = (embeddings[items] != embeddings[original[items]]).any(axis=1)
        original[items[differs]] = items[differs]  # Two embeddings with one hash.
    kept = np.flatnonzero(original == np.arange(n))
    return Copies(kept, np.searchsorted(kept, original))


def _hashes(embeddings: np.ndarray) -> np.ndarray:
    """uint64 [n], the same for rows of the same numbers."""
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
    """The graph over all items, from that over `copies.kept`.

    At the ground a copy has the links of the item that it is a copy of. The copies of an item hang below it in a tree
    of `FAN_OUT` children each, linked both ways, lower items nearer to the root. Upper layers have no copies.
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
    """The items that are copies of another, in order."""
    other = np.ones(len(copies.place), bool)
    other[copies.kept] = False
    return np.flatnonzero(other)


def _trees(copies: Copies) -> tuple[np.ndarray, np.ndarray]:
    """Parent and child of every link of the trees of copies, as dense indices."""
    order = np.argsort(copies.place, kind="stable")  # Item by item of `kept`, its copies behind it.
    group = copies.place[order]
    first = np.searchsorted(group, group)
    position = np.arange(len(order)) - first
    child = np.flatnonzero(position)
    return order[first[child] + (position[child] - 1) // FAN_OUT], order[child]
