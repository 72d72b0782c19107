"""How many evaluations of the model a search needs for a coverage: counts, which no other program can disturb."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from benchmarks.search.peers.peer import Workload
from tfserving_ext.retrieval.metrics import coverage


class Counting(Protocol):
    """A peer that knows how many evaluations it makes.

    Attributes:
      settings: see `Peer`.
    """

    settings: Sequence[Any]

    def counted(self, first: int, last: int, setting: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the answers to the cases first to last - 1, as `Peer` does, and each one's evaluations [B]."""


def count_evaluations(search: Counting, workload: Workload, cases: int) -> list[dict[str, Any]]:
    """Returns for every setting of a search its mean coverage and the mean evaluations, `items_scored`."""
    points = []
    for setting in search.settings:
        found, scored = search.counted(0, min(cases, len(workload.targets)), setting)
        covered = coverage(found, workload.exact[: len(found)])
        points.append({"setting": setting, "coverage": float(covered.mean()), "items_scored": float(scored.mean())})
    return points


def scored_at(points: Sequence[Mapping[str, Any]], coverage: float) -> float | None:
    """Returns what a search scores for a mean coverage, interpolated between its settings; None if none reaches it.

    Args:
      points: each with `coverage` and `items_scored`.
      coverage: the coverage wanted.
    """
    ordered = sorted(points, key=lambda point: point["items_scored"])
    scored = [point["items_scored"] for point in ordered]
    # A setting that scores more and covers less is of no use.
    best = np.maximum.accumulate([point["coverage"] for point in ordered])
    if best[-1] < coverage:
        return None
    after = int(np.searchsorted(best, coverage))
    if after == 0:
        return float(scored[0])
    part = (coverage - best[after - 1]) / (best[after] - best[after - 1])
    return float(scored[after - 1] + part * (scored[after] - scored[after - 1]))


def scored_versus(points: Mapping[str, Sequence[Mapping[str, Any]]], one: str, other: str, coverage: float) -> float:
    """Returns the evaluations of one search over another's, for a coverage or the highest that both reach if lower.

    Args:
      points: by search, see `scored_at`.
      one: the name of the first search.
      other: the name of the second.
      coverage: the coverage wanted.
    """
    reached = (max(point["coverage"] for point in points[name]) for name in (one, other))
    level = min(coverage, *reached)
    ours, theirs = scored_at(points[one], level), scored_at(points[other], level)
    assert ours is not None and theirs is not None
    return ours / theirs
