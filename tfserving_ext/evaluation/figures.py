"""The figures of outcomes: means, intervals, distributions over users, and groups of cases. NumPy alone."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tfserving_ext.evaluation.cases import equal_groups
from tfserving_ext.evaluation.intervals import Bootstrap, Interval
from tfserving_ext.evaluation.subject import Outcome, Setting
from tfserving_ext.retrieval.metrics import recall_delta

BINS = 20
LOW_PERCENTILE = 5
LATENCIES = (50, 95, 99)


@dataclasses.dataclass(frozen=True)
class Judge:
    """What the figures of all searches of one evaluation share.

    Attributes:
      bootstrap: over the users of the cases.
      cutoffs: where recall and coverage are told, k last.
      exact_ranks: int32 [N], the target's place in brute force's answer, -1 where it is not there.
      items: items of the index.
    """

    bootstrap: Bootstrap
    cutoffs: tuple[int, ...]
    exact_ranks: np.ndarray
    items: int

    @property
    def k(self) -> int:
        """Length of the answers."""
        return self.cutoffs[-1]


def hits(ranks: np.ndarray, cutoff: int) -> np.ndarray:
    """Recall of each case at a cutoff: float64 [N] of 0 and 1."""
    return ((ranks >= 0) & (ranks < cutoff)).astype(np.float64)


def recall_figures(judge: Judge, ranks: np.ndarray) -> dict[str, Any]:
    """Recall at every cutoff with its interval, by cutoff."""
    figures = {}
    for cutoff in judge.cutoffs:
        values = hits(ranks, cutoff)
        figures[str(cutoff)] = {"recall": float(values.mean()), "interval": judge.bootstrap.interval(values)}
    return figures


def baseline_figures(judge: Judge, ranks: np.ndarray) -> dict[str, Any]:
    """A baseline's recall, and by how much the model's is higher, paired over the same users."""
    figures = recall_figures(judge, ranks)
    for cutoff in judge.cutoffs:
        difference, interval = judge.bootstrap.difference(hits(judge.exact_ranks, cutoff), hits(ranks, cutoff))
        figures[str(cutoff)] |= {"model_minus_baseline": difference, "difference_interval": interval}
    return figures


def histogram_edges(judge: Judge, outcomes: Iterable[Outcome]) -> np.ndarray:
    """The edges of `BINS` bins that hold the coverage of every user in every search: float64 [BINS + 1].

    Equally wide, the last ends at 1 and the first begins at a twentieth below the least: where all users are served
    well, a histogram from 0 on would be a single bar.
    """
    least = min((judge.bootstrap.by_user(outcome.coverage[:, -1]).min() for outcome in outcomes), default=0.0)
    return np.linspace(min(np.floor(20 * least), 19) / 20, 1, BINS + 1)


def search_figures(judge: Judge, outcome: Outcome, setting: Setting, edges: np.ndarray) -> dict[str, Any]:
    """All figures of one search; the top level is at k, `at` has every cutoff. `edges` are the histogram's."""
    at = {str(cutoff): _at(judge, outcome, place) for place, cutoff in enumerate(judge.cutoffs)}
    last = at[str(judge.k)]
    names = ("recall_retrieval", "recall_delta", "coverage", "coverage_5th_percentile")
    scored = float(outcome.items_scored.mean())
    per_user = judge.bootstrap.by_user(outcome.coverage[:, -1])
    counts, _ = np.histogram(per_user, bins=edges)
    return {
        **{name: last[name] for name in names},
        "items_scored": scored,
        "scored_fraction": scored / judge.items,
        "ms_per_case": 1000 * outcome.seconds / len(outcome.ranks),
        **dataclasses.asdict(setting.parameters),
        "seeded": setting.seeded,
        "intervals": {**last["intervals"], "items_scored": judge.bootstrap.interval(outcome.items_scored)},
        "at": at,
        "coverage_histogram": {"edges": edges.round(6).tolist(), "users": counts.tolist()},
        "latency_ms": {f"p{p}": float(np.percentile(outcome.search_us, p)) / 1000 for p in LATENCIES},
        "rounds_walked": float(outcome.rounds.mean()),
        "nan_scores": outcome.nan_scores,
    }


def _at(judge: Judge, outcome: Outcome, place: int) -> dict[str, Any]:
    bootstrap, cutoff = judge.bootstrap, judge.cutoffs[place]
    covered = outcome.coverage[:, place]
    exact, found = hits(judge.exact_ranks, cutoff), hits(outcome.ranks, cutoff)
    means_exact, means_found = bootstrap.means(exact), bootstrap.means(found)
    # As `recall_delta` has it: nothing is lost where nothing was there.
    deltas = (means_exact - means_found) / np.where(means_exact > 0, means_exact, 1.0)
    return {
        "recall_retrieval": float(found.mean()),
        "recall_delta": recall_delta(float(exact.mean()), float(found.mean())),
        "coverage": float(covered.mean()),
        "coverage_5th_percentile": float(np.percentile(bootstrap.by_user(covered), LOW_PERCENTILE)),
        "intervals": {
            "recall_retrieval": bootstrap.limits(means_found),
            "recall_delta": bootstrap.limits(deltas),
            "coverage": bootstrap.interval(covered),
            "coverage_5th_percentile": bootstrap.limits(bootstrap.user_percentiles(covered, LOW_PERCENTILE)),
        },
    }


def group_figures(
    judge: Judge, outcomes: Mapping[str, Outcome], user_ids: np.ndarray, values: np.ndarray
) -> list[dict[str, Any]]:
    """Recall and coverage at k of cases by a whole number that each has, in ranges of about equally many cases.

    Args:
      judge: see `Judge`.
      outcomes: the searches, by name.
      user_ids: int64 [N].
      values: integers [N], such as the length of the history.
    """
    groups = []
    for low, high in equal_groups(values):
        chosen = (values >= low) & (values <= high)
        bootstrap = Bootstrap(user_ids[chosen])

        def told(per_case: np.ndarray, bootstrap: Bootstrap = bootstrap) -> tuple[float, Interval]:
            return float(per_case.mean()), bootstrap.interval(per_case)

        recall_all, recall_interval = told(hits(judge.exact_ranks[chosen], judge.k))
        group: dict[str, Any] = {
            "low": low,
            "high": high,
            "cases": int(chosen.sum()),
            "users": bootstrap.users,
            "recall_all": recall_all,
            "recall_all_interval": recall_interval,
            "searches": {},
        }
        for name, outcome in outcomes.items():
            found, found_interval = told(hits(outcome.ranks[chosen], judge.k))
            covered, covered_interval = told(outcome.coverage[chosen, -1])
            group["searches"][name] = {
                "recall_retrieval": found,
                "recall_retrieval_interval": found_interval,
                "coverage": covered,
                "coverage_interval": covered_interval,
            }
        groups.append(group)
    return groups
