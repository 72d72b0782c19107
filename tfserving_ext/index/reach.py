"""Finds the items of a graph that no walk reaches, and links them.

A search enters at the entry points, walks a layer, and starts the next layer from the items that it reached. HNSW
prunes the links of an item that has too many, so that in any corpus nothing links to a few of the items. No search
finds these, whatever their score, unless it is seeded with them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import faiss
import numpy as np

from tfserving_ext.index.format import Index
from tfserving_ext.index.graph import ROWS_AT_ONCE, Layer, places, with_links

# An item that has no reached neighbours is linked from the nearest of this many candidates, drawn evenly.
MAX_CANDIDATES = 1 << 17
MAX_LOST_AT_ONCE = 1 << 12


def walk(layer: Layer, start: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """Walks one layer from `start`, breadth first, and returns what it reaches; follows each link once.

    Args:
      layer: the links among n items.
      start: int [m], dense indices.
      seen: bool [n], items that were reached before and are not expanded again; changed in place. None for no items.

    Returns:
      `seen`, or a new array, which is also true for the items that this walk reaches.
    """
    n = len(layer.row_splits) - 1
    seen = np.zeros(n, bool) if seen is None else seen
    neighbors, slots = np.asarray(layer.neighbors), np.empty(n, np.int32)
    front = np.unique(start)
    seen[front] = True
    while len(front):
        met = []
        for begin in range(0, len(front), ROWS_AT_ONCE):
            fresh = neighbors[places(layer, front[begin : begin + ROWS_AT_ONCE])[0]]
            fresh = fresh[~seen[fresh]]
            order = np.arange(len(fresh), dtype=np.int32)
            slots[fresh] = order
            fresh = fresh[slots[fresh] == order]  # Removes duplicates without sorting.
            seen[fresh] = True
            met.append(fresh)
        front = np.concatenate(met)
    return seen


def members(layer: Layer, entry_points: np.ndarray) -> np.ndarray:
    """Returns the items of an upper layer, int64 [m]: those with links from or to them, and the entry points."""
    inside = np.diff(layer.row_splits) > 0
    inside[layer.neighbors] = True
    inside[entry_points] = True
    return np.flatnonzero(inside)


def unreachable(entry_points: np.ndarray, layers: Sequence[Layer]) -> list[np.ndarray]:
    """Finds the items of each layer that no walk from the entry points down through the layers reaches.

    Returns:
      For each layer, ground layer first, int64 [m] dense indices, ascending.
    """
    found, start = [], np.asarray(entry_points)
    for number in reversed(range(len(layers))):
        seen = walk(layers[number], start)
        here = members(layers[number], entry_points) if number else np.arange(len(seen))
        found.append(here[~seen[here]])
        start = np.flatnonzero(seen)
    return found[::-1]


def unreachable_items(index: Index) -> np.ndarray:
    """Returns the items of an index that no walk from its entry points reaches: int64 [m], dense indices, ascending.

    A search that is seeded with the user's history may reach them nevertheless.
    """
    return unreachable(index.entry_points, index.layers)[0]


def graph_facts(manifest: Mapping[str, Any]) -> list[str]:
    """Returns lines of text on copies, islands and unreachable items in an index's manifest; none if it has none."""
    lines, counts = [], manifest.get("unreachable") or {}
    (ground, *upper), left = counts.get("before") or [0], (counts.get("after") or [0])[0]
    if manifest.get("copies"):
        lines.append(
            f"{manifest['copies']:,} items have the embedding of another item and stand beside it in the graph"
        )
    if (knn := manifest.get("knn")) and knn["islands"] > 1:
        lines.append(
            f"nearest neighbours alone form {knn['islands']:,} islands; {knn['bridges']:,} links of HNSW's lead from "
            "one to another"
        )
    if left:
        lines.append(
            f"{left:,} of {manifest['num_items']:,} items cannot be reached from the entry points: a search finds them "
            "only if it is seeded with them; `nann index` builds a graph without such items"
        )
    elif ground or any(upper):
        lines.append(
            f"{ground:,} items of the ground layer and {sum(upper):,} of upper layers could not be reached from the "
            "entry points; their nearest neighbours link to them now"
        )
    return lines


def link_unreachable(
    entry_points: np.ndarray,
    layers: Sequence[Layer],
    embeddings: Callable[[np.ndarray], np.ndarray],
    most: Sequence[int],
) -> tuple[list[Layer], list[int]]:
    """Links every item that no walk reaches from its nearest neighbour, by L2, that a walk reaches.

    Args:
      entry_points: int [e].
      layers: ground layer first.
      embeddings: the function from dense indices, int [m], to embeddings, float32 [m, dim].
      most: for each layer, the most links that an item may have afterwards; at least one more than any item has now.

    Returns:
      The layers, in which every item is reached, and for each layer, how many items were not reached before.
    """
    linked, lost, start = list(layers), [0] * len(layers), np.asarray(entry_points)
    for number in reversed(range(len(layers))):
        layer = layers[number]
        seen = walk(layer, start)
        here = members(layer, entry_points) if number else np.arange(len(seen))
        unmet = here[~seen[here]]
        lost[number] = len(unmet)
        start = np.flatnonzero(seen)
        if len(unmet):
            linked[number] = with_links(layer, *_links(layer, here, seen, embeddings, most[number]))
    return linked, lost


def _links(
    layer: Layer, here: np.ndarray, seen: np.ndarray, embeddings: Callable[[np.ndarray], np.ndarray], most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns sources and targets of links by which a walk reaches all of `here`; updates `seen` accordingly."""
    degrees = np.diff(layer.row_splits)
    sources, targets = [], []
    while len(unmet := here[~seen[here]]):
        # HNSW pruned the item from its neighbours' lists, but its own list still has these neighbours.
        found = _nearest_of_own(layer, unmet, seen & (degrees < most), embeddings)
        if not (found[0] >= 0).any():
            unmet = unmet[:MAX_LOST_AT_ONCE]
            found = _nearest_of_all(unmet, here[(seen & (degrees < most))[here]], embeddings)
        source, target = _within_room(*found, unmet, most - degrees)
        np.add.at(degrees, source, 1)
        sources.append(source)
        targets.append(target)
        walk(layer, target, seen)  # The linked items may lead to further ones.
    return np.concatenate(sources), np.concatenate(targets)


def _nearest_of_own(
    layer: Layer, items: np.ndarray, allowed: np.ndarray, embeddings: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest of each item's own neighbours that is `allowed`, or -1, and its squared distance."""
    nearest, distances = np.full(len(items), -1, np.int64), np.full(len(items), np.inf)
    for begin in range(0, len(items), ROWS_AT_ONCE // 16):
        piece = items[begin : begin + ROWS_AT_ONCE // 16]
        at, degrees = places(layer, piece)
        neighbors, rows = np.asarray(layer.neighbors)[at], np.repeat(np.arange(len(piece)), degrees)
        neighbors, rows = neighbors[allowed[neighbors]], rows[allowed[neighbors]]
        if not len(rows):
            continue
        squared = np.square(embeddings(neighbors) - embeddings(piece)[rows]).sum(axis=1, dtype=np.float64)
        order = np.lexsort((neighbors, squared, rows))
        first = order[np.unique(rows[order], return_index=True)[1]]
        nearest[begin + rows[first]], distances[begin + rows[first]] = neighbors[first], squared[first]
    return nearest, distances


def _nearest_of_all(
    items: np.ndarray, candidates: np.ndarray, embeddings: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns each item's nearest of at most `MAX_CANDIDATES` drawn from `candidates`, and its squared distance."""
    candidates = candidates[:: -(-len(candidates) // MAX_CANDIDATES)]
    squared, nearest = faiss.knn(embeddings(items), embeddings(candidates), 1)
    return candidates[np.maximum(nearest[:, 0], 0)], squared[:, 0]


def _within_room(
    sources: np.ndarray, distances: np.ndarray, targets: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the links that their sources have room for, the nearest ones first; drops those whose source is -1."""
    order = np.lexsort((targets, distances, sources))
    order = order[sources[order] >= 0]
    source = sources[order]
    first = np.searchsorted(source, source)  # The place where the links of the same source begin.
    kept = np.arange(len(source)) - first < room[source]
    return source[kept], targets[order][kept]
