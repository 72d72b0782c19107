"""Computes metrics from outcomes: means, intervals, distributions over users, and groups of cases. Uses NumPy alone."""

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
class MetricsContext:
    """What the metrics of all searches of one evaluation share.

    Attributes:
      bootstrap: the bootstrap over the users of the cases.
      cutoffs: the k of recall@k and coverage@k, ascending; the last one is the length of the answers.
      exact_ranks: int32 [N], the target's place in brute force's answer, from 0; -1 if it is not there.
      items: number of items in the index.
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
    """Returns the recall of each case at a cutoff: float64 [N], 0 or 1."""
    return ((ranks >= 0) & (ranks < cutoff)).astype(np.float64)


def recall_figures(context: MetricsContext, ranks: np.ndarray) -> dict[str, Any]:
    """Returns recall and its interval, by cutoff."""
    figures = {}
    for cutoff in context.cutoffs:
        values = hits(ranks, cutoff)
        figures[str(cutoff)] = {"recall": float(values.mean()), "interval": context.bootstrap.interval(values)}
    return figures


def baseline_figures(context: MetricsContext, ranks: np.ndarray) -> dict[str, Any]:
    """Returns a baseline's recall, and the model's gain over it, paired over the same users, by cutoff."""
    figures = recall_figures(context, ranks)
    for cutoff in context.cutoffs:
        difference, interval = context.bootstrap.difference(hits(context.exact_ranks, cutoff), hits(ranks, cutoff))
        figures[str(cutoff)] |= {"model_minus_baseline": difference, "difference_interval": interval}
    return figures


def histogram_edges(context: MetricsContext, outcomes: Iterable[Outcome]) -> np.ndarray:
    """Returns the edges of `BINS` bins for the coverage of every user in every search: float64 [BINS + 1].

    The bins are equally wide and end at 1. The first begins at the multiple of 1/20 below the lowest coverage, because
    a histogram from 0 on would be a single bar if the coverage of all users is high.
    """
    least = min((context.bootstrap.by_user(outcome.coverage[:, -1]).min() for outcome in outcomes), default=0.0)
    return np.linspace(min(np.floor(20 * least), 19) / 20, 1, BINS + 1)


def search_figures(context: MetricsContext, outcome: Outcome, setting: Setting, edges: np.ndarray) -> dict[str, Any]:
    """Returns all metrics of one search: at the top level those at k, and in `at` those at every cutoff.

    Args:
      context: what the searches share.
      outcome: what the search answered.
      setting: its parameters.
      edges: the edges of the histogram, from `histogram_edges`.
    """
    at = {str(cutoff): _at(context, outcome, place) for place, cutoff in enumerate(context.cutoffs)}
    last = at[str(context.k)]
    names = ("recall_retrieval", "recall_delta", "coverage", "coverage_5th_percentile")
    scored = float(outcome.items_scored.mean())
    per_user = context.bootstrap.by_user(outcome.coverage[:, -1])
    counts, _ = np.histogram(per_user, bins=edges)
    return {
        **{name: last[name] for name in names},
        "items_scored": scored,
        "scored_fraction": scored / context.items,
        "ms_per_case": 1000 * outcome.seconds / len(outcome.ranks),
        **dataclasses.asdict(setting.parameters),
        "seeded": setting.seeded,
        "intervals": {**last["intervals"], "items_scored": context.bootstrap.interval(outcome.items_scored)},
        "at": at,
        "coverage_histogram": {"edges": edges.round(6).tolist(), "users": counts.tolist()},
        "latency_ms": {f"p{p}": float(np.percentile(outcome.search_us, p)) / 1000 for p in LATENCIES},
        "rounds_walked": float(outcome.rounds.mean()),
        "nan_scores": outcome.nan_scores,
    }


def _at(context: MetricsContext, outcome: Outcome, place: int) -> dict[str, Any]:
    bootstrap, cutoff = context.bootstrap, context.cutoffs[place]
    covered = outcome.coverage[:, place]
    exact, found = hits(context.exact_ranks, cutoff), hits(outcome.ranks, cutoff)
    means_exact, means_found = bootstrap.means(exact), bootstrap.means(found)
    # As in `recall_delta`, nothing is lost if recall was 0.
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
    context: MetricsContext, outcomes: Mapping[str, Outcome], user_ids: np.ndarray, values: np.ndarray
) -> list[dict[str, Any]]:
    """Returns recall and coverage at k for groups of about equally many cases.

    Args:
      context: what the searches share.
      outcomes: the searches' outcomes, by name.
      user_ids: int64 [N], the user of each case.
      values: integers [N], by whose ranges the cases are grouped, such as the length of the history.
    """
    groups = []
    for low, high in equal_groups(values):
        chosen = (values >= low) & (values <= high)
        bootstrap = Bootstrap(user_ids[chosen])

        def mean(per_case: np.ndarray, bootstrap: Bootstrap = bootstrap) -> tuple[float, Interval]:
            return float(per_case.mean()), bootstrap.interval(per_case)

        recall_all, recall_interval = mean(hits(context.exact_ranks[chosen], context.k))
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
            found, found_interval = mean(hits(outcome.ranks[chosen], context.k))
            covered, covered_interval = mean(outcome.coverage[chosen, -1])
            group["searches"][name] = {
                "recall_retrieval": found,
                "recall_retrieval_interval": found_interval,
                "coverage": covered,
                "coverage_interval": covered_interval,
            }
        groups.append(group)
    return groups
