"""Fits the rule by which the surrogate search is asked for a coverage, on the cases of an evaluation."""

import numpy as np

from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.subject import Setting, Subject
from tfserving_ext.index.coverage_rule import CoverageRule
from tfserving_ext.retrieval.parameters import Surrogate

# The shares of the best k that the search may expect to miss, which are far more than it misses.
MISSED = tuple(float(f"{share:.3g}") for share in np.geomspace(8, 0.01, 20))
# No number of users shows that more is found of everybody's items.
HIGHEST = 0.9999


def fit_rule(subject: Subject, batch: int = Surrogate.batch) -> CoverageRule | None:
    """Fits the rule to the index of `subject`, which must have features.

    The search runs once for each of a number of expected coverages. The coverage that counts for one is the lower end
    of its mean's interval over users, so that other users get at least what is asked for; of two that contradict each
    other, the lower counts for both.

    Returns:
      The rule, or None if nothing is found.
    """
    pool = subject.k
    expected = 1 - np.array(MISSED)
    settings = {
        str(number): Setting(Surrogate(pool=pool, batch=batch, expected_coverage=float(share)), True)
        for number, share in enumerate(expected)
    }
    outcomes = subject.measure(settings, title=f"coverage, {len(settings)} settings")
    bootstrap = Bootstrap(subject.cases.user_ids)
    found = np.array([bootstrap.interval(outcome.coverage[:, -1])[0] for outcome in outcomes.values()])
    return rule_of(found, expected, subject.k, pool, batch)


def rule_of(found: np.ndarray, expected: np.ndarray, k: int, pool: int, batch: int) -> CoverageRule | None:
    """Makes a rule of coverages, [n], and the expected coverages that found them, [n], rising."""
    monotone = np.minimum.accumulate(np.minimum(found, HIGHEST)[::-1])[::-1]
    coverage, first = np.unique(monotone, return_index=True)  # Of equal coverages, the cheapest one.
    kept = coverage > 0
    if not kept.any():
        return None
    return CoverageRule(tuple(coverage[kept].tolist()), tuple(expected[first[kept]].tolist()), k, pool, batch)
