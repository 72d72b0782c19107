"""Evaluations that a search needs for a coverage, read from the figures of its settings."""

import numpy as np
import pytest

from benchmarks.search.evaluations import count_evaluations, scored_at, scored_versus


def points(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"items_scored": scored, "coverage": coverage} for scored, coverage in pairs]


def test_items_scored_are_interpolated_between_settings():
    measured = points((1000, 0.97), (2000, 0.99), (4000, 0.998))
    for wanted in (0.975, 0.98, 0.99, 0.995):
        expected = np.interp(wanted, [0.97, 0.99, 0.998], [1000, 2000, 4000])
        assert scored_at(measured, wanted) == pytest.approx(expected)
        assert scored_at(measured[::-1], wanted) == pytest.approx(expected)
    assert scored_at(measured, 0.96) == 1000
    assert scored_at(measured, 0.999) is None


def test_a_setting_that_scores_more_and_covers_less_is_left_out():
    assert scored_at(points((1000, 0.97), (1500, 0.96), (2000, 0.99)), 0.98) == pytest.approx(1750)


def test_two_searches_are_compared_at_a_coverage_that_both_reach():
    measured = {"one": points((100, 0.97), (200, 0.99)), "other": points((1000, 0.9), (3000, 0.98))}
    assert scored_versus(measured, "one", "other", 0.97) == pytest.approx(100 / 2750)
    assert scored_versus(measured, "one", "other", 0.99) == pytest.approx(150 / 3000)


def test_each_setting_is_counted_on_the_same_cases(workload):
    class Known:
        settings = (5, 20)

        def counted(self, first, last, setting):
            found = workload.exact[first:last].copy()
            found[:, setting:] = 99
            return found, np.arange(first, last) * setting

    assert count_evaluations(Known(), workload, 3) == [
        {"setting": 5, "coverage": pytest.approx(0.25), "items_scored": 5},
        {"setting": 20, "coverage": 1, "items_scored": 20},
    ]
