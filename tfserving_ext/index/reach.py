"""What a walk can reach in a graph, and links to what none reaches.

A search enters at the entry points, walks a layer, and starts the next layer below from what it met. HNSW prunes the
links of an item that has too many, so that a few items of any corpus are linked from nowhere. No search finds these,
whatever their score, unless it is seeded with them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import faiss
import numpy as np

from tfserving_ext.index.format import Index
from tfserving_ext.index.graph import ROWS_AT_ONCE, Layer, places, with_links

# Candidates that an item without any reached neighbour of its own is held against, drawn evenly.
MAX_CANDIDATES = 1 << 17
MAX_LOST_AT_ONCE = 1 << 12


def walk(layer: Layer, start: np.ndarray, seen: np.ndarray | None = None) -> np.ndarray:
    """What a walk of any length from `start` meets in one layer. Breadth first; each link is looked at once.

    Args:
      layer: the links among n items.
      start: int [m], dense indices.
      seen: bool [n], what was met before and is not walked again; changed in place.

    Returns:
      `seen`, with what was met now.
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
            fresh = fresh[slots[fresh] == order]  # Each once, without sorting.
            seen[fresh] = True
            met.append(fresh)
        front = np.concatenate(met)
    return seen


def members(layer: Layer, entry_points: np.ndarray) -> np.ndarray:
    """The items of an upper layer, int64 [m]: those that have links there or are linked to, and the entry points."""
    inside = np.diff(layer.row_splits) > 0
    inside[layer.neighbors] = True
    inside[entry_points] = True
    return np.flatnonzero(inside)


def unreachable(entry_points: np.ndarray, layers: Sequence[Layer]) -> list[np.ndarray]:
    """The items of each layer, ground layer first, that no walk meets which descends from the entry points.

    Returns:
      Per layer int64 [m], dense indices, in order.
    """
    found, start = [], np.asarray(entry_points)
    for number in reversed(range(len(layers))):
        seen = walk(layers[number], start)
        here = members(layers[number], entry_points) if number else np.arange(len(seen))
        found.append(here[~seen[here]])
        start = np.flatnonzero(seen)
    return found[::-1]


def unreachable_items(index: Index) -> np.ndarray:
    """The items of an index that no walk from its entry points meets, int64 [m], dense indices, in order.

    A search that is seeded with the history may yet meet them.
    """
    return unreachable(index.entry_points, index.layers)[0]


def graph_facts(manifest: Mapping[str, Any]) -> list[str]:
    """What an index's manifest says of copies and of what no walk meets, in words; nothing where there is neither."""
    lines, counts = [], manifest.get("unreachable") or {}
    (ground, *upper), left = counts.get("before") or [0], (counts.get("after") or [0])[0]
    if manifest.get("copies"):
        lines.append(
            f"{manifest['copies']:,} items have the embedding of another item and stand beside it in the graph"
        )
    if left:
        lines.append(
            f"{left:,} of {manifest['num_items']:,} items are met by no walk from the entry points: a search finds "
            "them only if it is seeded with them; `nann index` builds a graph without such items"
        )
    elif ground or any(upper):
        lines.append(
            f"{ground:,} items at the ground and {sum(upper):,} above were met by no walk from the entry points; their "
            "nearest neighbours link to them now"
        )
    return lines


def link_unreachable(
    entry_points: np.ndarray,
    layers: Sequence[Layer],
    embeddings: Callable[[np.ndarray], np.ndarray],
    most: Sequence[int],
) -> tuple[list[Layer], list[int]]:
    """Links every item that no walk meets from its nearest neighbour, by L2, that a walk meets.

    Args:
      entry_points: int [e].
      layers: ground layer first.
      embeddings: float32 [m, dim] of dense indices.
      most: per layer the most links that an item may have afterwards; at least one more than any has now.

    Returns:
      The layers, in which every item is met, and per layer how many were not.
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
    """Sources and targets of links by which all of `here` is met; `seen` says so afterwards."""
    degrees = np.diff(layer.row_splits)
    sources, targets = [], []
    while len(unmet := here[~seen[here]]):
        # An item was pruned from the lists of its neighbours, but has kept them in its own.
        found = _nearest_of_own(layer, unmet, seen & (degrees < most), embeddings)
        if not (found[0] >= 0).any():
            unmet = unmet[:MAX_LOST_AT_ONCE]
            found = _nearest_of_all(unmet, here[(seen & (degrees < most))[here]], embeddings)
        source, target = _within_room(*found, unmet, most - degrees)
        np.add.at(degrees, source, 1)
        sources.append(source)
        targets.append(target)
        walk(layer, target, seen)  # And with them, what they alone lead to.
    return np.concatenate(sources), np.concatenate(targets)


def _nearest_of_own(
    layer: Layer, items: np.ndarray, allowed: np.ndarray, embeddings: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each item's neighbours that are `allowed` the nearest, or -1, and its squared distance."""
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
    """Of each item the nearest of `candidates`, or of as many as are drawn of them, and its squared distance."""
    candidates = candidates[:: -(-len(candidates) // MAX_CANDIDATES)]
    squared, nearest = faiss.knn(embeddings(items), embeddings(candidates), 1)
    return candidates[np.maximum(nearest[:, 0], 0)], squared[:, 0]


def _within_room(
    sources: np.ndarray, distances: np.ndarray, targets: np.ndarray, room: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of links to `targets` those, nearest first, that each source has room for; none where a source is -1."""
    order = np.lexsort((targets, distances, sources))
    order = order[sources[order] >= 0]
    source = sources[order]
    first = np.searchsorted(source, source)  # Where the links of the same source begin.
    kept = np.arange(len(source)) - first < room[source]
    return source[kept], targets[order][kept]
