"""Slow reference searches, written from the paper and the op's documentation with sets and NumPy only.

A graph here is plain Python: `layers[l][item]` is the list of the neighbours of `item`; layer 0 is the ground layer.
"""

import dataclasses
import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

NEGATIVE_INFINITY = np.float32(-np.inf)


@dataclasses.dataclass(frozen=True)
class Graph:
    """A corpus: `ids` int64 [n], dense indices `entry_points`, and `layers` of adjacency lists, ground layer first."""

    ids: np.ndarray
    entry_points: list[int]
    layers: list[list[list[int]]]

    def __len__(self) -> int:
        return len(self.ids)

    def write(self, folder: Path, embeddings: np.ndarray) -> list[str]:
        """Writes the files of docs/format.md byte by byte; returns the paths in the order of `Nann>IndexOpen`."""
        arrays = {
            "item_ids": self.ids.astype("<i8"),
            "item_embeddings": embeddings.astype("<f4"),
            "entry_points": np.array(self.entry_points, "<i4"),
        }
        for number, rows in enumerate(self.layers):
            ends = [0]
            for row in rows:
                ends.append(ends[-1] + len(row))
            arrays[f"row_splits_{number}"] = np.array(ends, "<i8")
            arrays[f"neighbors_{number}"] = np.array([item for row in rows for item in row], "<i4")
        paths = []
        for name, array in arrays.items():
            path = folder / f"{name}.bin"
            path.unlink(missing_ok=True)  # A process that has mapped the old file keeps it intact.
            path.write_bytes(array.tobytes())
            paths.append(str(path))
        return paths


@dataclasses.dataclass(frozen=True)
class Answer:
    """One user's answer."""

    ids: list[int]
    scores: list[float]
    items_scored: int
    rounds: int
    nan_scores: int
    stopped: int = 0


class Scores:
    """One user's scores; counts the items scored, and the rounds in which there was something to score.

    Items in `excluded` are never answered, and take no room among the best.
    """

    def __init__(self, scores: np.ndarray, excluded: set[int]) -> None:
        self.excluded = excluded
        self.is_nan = np.isnan(scores)
        self.values = np.where(self.is_nan, NEGATIVE_INFINITY, scores)
        self.evaluated: dict[int, None] = {}  # In the order of evaluation.
        self.rounds = 0

    def round(self, items: Iterable[int]) -> None:
        """Scores the items of a round; those that were scored before do not count again."""
        items = dict.fromkeys(items)
        self.evaluated |= items
        self.rounds += bool(items)

    def top(self, count: int, items: set[int]) -> set[int]:
        """Returns the best `count` that are not excluded, and the excluded ones better than the last of these."""
        kept: set[int] = set()
        for item in self.ranked(items):
            if len(kept - self.excluded) == count:
                break
            kept.add(item)
        return kept

    def ranked(self, items: set[int]) -> list[int]:
        """Sorts best first, with NaN after every number, even minus infinity."""
        return sorted(items, key=lambda item: (self.is_nan[item], -self.values[item], item))


def rounds_search(
    graph: Graph,
    scores: np.ndarray,
    k: int,
    ef: list[int],
    rounds: list[int],
    exclude: list[int],
    seeds: set[int] = frozenset(),
) -> Answer:
    """Searches by Algorithms 1 and 2 of the paper: `rounds[l]` times in layer l, with its N, W and C.

    Seeds join W and C when the ground layer is entered.
    """
    user = user_scores(graph, scores, exclude)
    best = set(graph.entry_points)
    user.round(best)
    best = user.top(ef[0], best)
    numbers = reversed(range(len(graph.layers)))
    for number, width, times in zip(numbers, ef[1:], rounds[1:], strict=True):
        layer = graph.layers[number]
        if number == 0:
            user.round(seeds - best)
            best = best | seeds
        visited, candidates = set(best), set(best)
        for _ in range(times):
            met = {neighbor for item in candidates for neighbor in layer[item]} - visited
            visited |= met
            user.round(met)
            best = user.top(width, best | met)
            candidates = best & met
    return answer(graph, user, best, k)


def deployed_search(
    graph: Graph, scores: np.ndarray, k: int, widths: list[int], exclude: list[int], seeds: set[int] = frozenset()
) -> Answer:
    """Searches as alibaba/nann's deployed graph does; `widths` is its level_topn without the last entry, which is k."""
    user = user_scores(graph, scores, exclude)
    best = set(graph.entry_points)
    user.round(best)
    best = user.top(widths[0], best)
    uppers = len(graph.layers) - 1
    for layer, width in zip(reversed(graph.layers[1:]), widths[1 : 1 + uppers], strict=True):
        met = {neighbor for item in best for neighbor in layer[item]} - best
        user.round(met)
        best = user.top(width, best | met)
    user.round(seeds - best)
    best = best | seeds
    pool, visited, candidates = set(best), set(best), set(best)
    for width in widths[1 + uppers :]:
        met = {neighbor for item in candidates for neighbor in graph.layers[0][item]} - visited
        visited |= met
        user.round(met)
        candidates = user.top(width, met)
        pool |= candidates
    return answer(graph, user, pool, k)


def best_first_search(
    graph: Graph,
    scores: np.ndarray,
    k: int,
    frontier: int,
    pool: int,
    max_steps: int,
    exclude: list[int],
    seeds: set[int] = frozenset(),
) -> Answer:
    """Keeps a pool of the best items, and expands the best `frontier` of those not yet expanded until none is left.

    The search starts at the seeds in the ground layer or, without any, at the entry points, and then passes through all
    layers. `stopped` is 3 if `max_steps` ends it earlier.
    """
    user = user_scores(graph, scores, exclude)
    entries, cut = enter_ground(graph, user, seeds, frontier, max_steps)
    best, cut_here = walk_ground(graph, user, entries, bool(seeds), frontier, max(pool, k), max_steps)
    return dataclasses.replace(answer(graph, user, best, k), stopped=3 if cut or cut_here else 0)


def enter_ground(graph: Graph, user: Scores, seeds: set[int], frontier: int, max_steps: int) -> tuple[set[int], bool]:
    """Scores the seeds or, without any, walks best-first from the entry points through the layers above the ground.

    Returns the items to enter the ground layer from, and whether `max_steps` cut a layer short.
    """
    if seeds:
        user.round(sorted(seeds))
        return set(seeds), False
    best, cut = set(graph.entry_points), False
    user.round(graph.entry_points)
    for layer in reversed(graph.layers[1:]):
        best = user.top(frontier, best)
        best, cut_here = best_first_layer(layer, user, best, best, frontier, frontier, max_steps)
        cut |= cut_here
    return best, cut


def walk_ground(
    graph: Graph, user: Scores, entries: set[int], seeded: bool, frontier: int, width: int, max_steps: int
) -> tuple[set[int], bool]:
    """Walks the ground layer best-first; returns the best `width`, and whether `max_steps` cut it short."""
    best = user.top(width, entries)
    visited = entries if seeded else best  # All seeds, including those for which the pool has no room.
    return best_first_layer(graph.layers[0], user, best, visited, frontier, width, max_steps)


def best_first_layer(
    layer: list[list[int]],
    user: Scores,
    best: set[int],
    visited: set[int],
    frontier: int,
    width: int,
    max_steps: int,
) -> tuple[set[int], bool]:
    """Expands the best of `best` until all are expanded; returns the best `width` and whether `max_steps` cut it."""
    visited, expanded = set(visited), set()
    for step in itertools.count(1):
        candidates = user.ranked(best - expanded)[:frontier]
        if not candidates:
            return best, False
        if step > max_steps > 0:
            return best, True
        expanded |= set(candidates)
        met = [neighbor for item in candidates for neighbor in layer[item] if neighbor not in visited]
        visited |= set(met)
        user.round(met)
        best = user.top(width, best | set(met))
    raise AssertionError  # Not reached.


def user_scores(graph: Graph, scores: np.ndarray, exclude: list[int]) -> Scores:
    return Scores(scores, set(np.flatnonzero(np.isin(graph.ids, exclude)).tolist()))


def answer(graph: Graph, user: Scores, items: set[int], k: int) -> Answer:
    kept = [item for item in user.ranked(items) if item not in user.excluded][:k]
    missing = k - len(kept)
    return Answer(
        [int(graph.ids[item]) for item in kept] + [-1] * missing,
        [float(user.values[item]) for item in kept] + [-np.inf] * missing,
        len(user.evaluated),
        user.rounds,
        int(user.is_nan[sorted(user.evaluated)].sum()),
    )
