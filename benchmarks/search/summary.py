"""The summary of `python -m benchmarks.search.run`: a few figures out of the results of its parts."""

from typing import Any

import numpy as np

from benchmarks.search.asked import vs_fixed
from benchmarks.search.evaluations import scored_versus

FIFTH = "coverage_5th_percentile"
COUNTED_COVERAGE = 0.99  # The coverage at which evaluations are compared.


def summarise(figures: dict[str, Any]) -> dict[str, float]:
    """Summarises the results of all parts.

    Returns:
      What the functions below return of best-first, of the peers, of the surrogate search, of a coverage that is asked
      for and of the large corpus; and dot_*, results of the walk under the dot product at a recall@10 of 0.95, on one
      thread.
    """
    neural, metrics = figures["neural"], figures["metrics"]
    summary = {
        **_best_first(neural),
        **_against_peers(neural),
        **_surrogate(neural),
        **_asked(figures["asked"]["asked"]["0.98"]),
        **_large(figures["large"]),
        "dot_qps_vs_faiss": metrics["dot_qps_vs_faiss"],
        "dot_qps_vs_hnswlib": metrics["dot_qps_vs_hnswlib"],
    }
    return {name: round(float(value), 4) for name, value in summary.items()}


def _best_first(neural: dict[str, Any]) -> dict[str, Any]:
    """Summarises the default setting of best-first.

    Returns:
      coverage, coverage_lowest: its coverage at k 200, mean and lowest over graph builds.
      rounds_coverage, scored_vs_rounds: coverage of the paper's rounds; items that it scores, over
        those that the rounds score.
      recall_default, recall_rerank, recall_lead_vs_rerank: recall-retrieval of the default search; of the two-sided
        model's top n reranked, for the largest n that takes no longer; and the first minus the second.
      recall_brute_force, recall_two_sided: recall of the two models by themselves.
    """
    builds, default = neural["builds"], neural["settings"]["best_first"][0]
    rerank = _rerank_at(neural["settings"]["rerank"], default["ms_per_query"])
    return {
        "coverage": np.mean([build["best_first"]["coverage"] for build in builds]),
        "coverage_lowest": min(build["best_first"]["coverage"] for build in builds),
        "rounds_coverage": np.mean([build["rounds"]["coverage"] for build in builds]),
        "scored_vs_rounds": _scored_versus(builds, "best_first", "rounds"),
        "recall_default": default["recall"],
        "recall_rerank": rerank["recall"],
        "recall_lead_vs_rerank": default["recall"] - rerank["recall"],
        "recall_brute_force": neural["model"]["recall_all"],
        "recall_two_sided": neural["model"]["two_sided_recall_all"],
    }


def _against_peers(neural: dict[str, Any]) -> dict[str, Any]:
    """Compares the surrogate search with its peers.

    Returns:
      qps_vs_*: queries per second of the surrogate search over those of the peer, each at its fastest setting that
        covers at least 0.98, on one thread. USearch is measured with a metric written as its documentation shows, and
        with one tuned by hand; GUITAR's time is a lower bound (`peers/guitar.py`). qps_vs_guitar_high: the same at
        0.995.
      scored_vs_guitar, scored_vs_no_residuals: evaluations of the surrogate search over those of GUITAR, with two for
        each gradient, and over those of itself without the graph's residuals, at a coverage of 0.99.
    """
    race, high, evaluations = neural["race"], neural["race_high"], neural["evaluations"]
    ours = race["surrogate"]["ms_per_query"]
    return {
        "qps_vs_usearch": race["usearch"]["ms_per_query"] / ours,
        "qps_vs_usearch_tuned": race["usearch_tuned"]["ms_per_query"] / ours,
        "qps_vs_tf_ops": race["tensorflow_ops"]["ms_per_query"] / ours,
        "qps_vs_rounds": race["rounds"]["ms_per_query"] / ours,
        "qps_vs_brute_force": race["brute_force"]["ms_per_query"] / ours,
        "qps_vs_best_first": race["best_first"]["ms_per_query"] / ours,
        "qps_vs_guitar": race["guitar"]["ms_per_query"] / ours,
        "qps_vs_guitar_high": high["guitar"]["ms_per_query"] / high["surrogate"]["ms_per_query"],
        "scored_vs_guitar": scored_versus(evaluations, "surrogate", "guitar", COUNTED_COVERAGE),
        "scored_vs_no_residuals": scored_versus(evaluations, "surrogate", "no_residuals", COUNTED_COVERAGE),
    }


def _surrogate(neural: dict[str, Any]) -> dict[str, Any]:
    """Summarises the surrogate search.

    Returns:
      surrogate_coverage, surrogate_coverage_lowest, surrogate_5th_vs_best_first: its coverage at its default setting,
        mean and lowest over graph builds, and its 5th percentile over cases minus best-first's.
      surrogate_scored_vs_best_first: items that it scores over those that best-first scores, both by default.
      surrogate_time_vs_best_first: its time over best-first's, each at its fastest setting that covers at least 0.995.
      overhead_share: the part of its time outside the model.
    """
    builds, high = neural["builds"], neural["race_high"]
    return {
        "surrogate_coverage": np.mean([build["surrogate"]["coverage"] for build in builds]),
        "surrogate_coverage_lowest": min(build["surrogate"]["coverage"] for build in builds),
        "surrogate_5th_vs_best_first": np.mean(
            [build["surrogate"][FIFTH] - build["best_first"][FIFTH] for build in builds]
        ),
        "surrogate_scored_vs_best_first": _scored_versus(builds, "surrogate", "best_first"),
        "surrogate_time_vs_best_first": high["surrogate"]["ms_per_query"] / high["best_first"]["ms_per_query"],
        "overhead_share": neural["overhead_share"],
    }


def _asked(asked: dict[str, Any]) -> dict[str, Any]:
    """Summarises what it takes to reach a coverage that is asked for.

    Returns:
      coverage_asked_098: mean coverage, over cases and graph builds, where 0.98 is asked for, by a rule that was
        fitted on other users.
      evaluations_vs_fixed: evaluations for it, over those of the cheapest fixed setting of the same coverage: of
        best-first, or of the surrogate search after a number of evaluations or of steps;
        evaluations_vs_fixed_number: over those of the surrogate search after a number of evaluations.
    """
    return {
        "coverage_asked_098": asked["coverage"],
        "evaluations_vs_fixed": vs_fixed(asked),
        "evaluations_vs_fixed_number": vs_fixed(asked, ("a number of evaluations",)),
    }


def _large(large: dict[str, Any]) -> dict[str, Any]:
    """Summarises the surrogate search on the large corpus.

    Returns:
      surrogate_time_vs_best_first_1m: its time over best-first's, each at its fastest setting that covers at least
        0.99.
      qps_1m_two_cores, qps_1m_two_cores_high: its queries per second on two cores, as twice those on one thread, at a
        coverage of 0.98 and of 0.99.
      qps_vs_brute_force_1m: its queries per second over those of the fastest way to score every item.
      coverage_1m: its coverage.
      map_seconds, map_anonymous_mb: the cost of opening the index.
    """
    brute = min(part["ms_per_query"] for name, part in large.items() if name.startswith("brute_force"))
    ours, high = large["surrogate"]["ms_per_query"], large["surrogate_high"]["ms_per_query"]
    return {
        "surrogate_time_vs_best_first_1m": high / large["best_first_high"]["ms_per_query"],
        "qps_1m_two_cores": 2000 / ours,
        "qps_1m_two_cores_high": 2000 / high,
        "qps_vs_brute_force_1m": brute / ours,
        "coverage_1m": large["surrogate"]["coverage"],
        "map_seconds": large["map"]["seconds"],
        "map_anonymous_mb": large["map"]["anonymous_mb"],
    }


def _scored_versus(builds: list[dict[str, Any]], one: str, other: str) -> float:
    """Returns the items that one search scores over those that the other scores, both summed over graph builds."""
    return sum(build[one]["items_scored"] for build in builds) / sum(build[other]["items_scored"] for build in builds)


def _rerank_at(settings: list[dict[str, Any]], ms_per_query: float) -> dict[str, Any]:
    """Returns the most expensive setting that takes no longer, or the cheapest if all take longer."""
    in_time = [one for one in settings if one["ms_per_query"] <= ms_per_query]
    return max(in_time, key=lambda one: one["setting"]) if in_time else settings[0]
