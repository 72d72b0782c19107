import numpy as np
import pytest

from benchmarks.search.filters import best_passing, make_columns, make_filters, summarise


@pytest.fixture
def scores():
    return np.random.default_rng(3).normal(size=[2, 4000]).astype(np.float32)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.0001])
@pytest.mark.parametrize("kind", ["", "_taste", "_anti"])
def test_filters_pass_their_share_and_go_with_or_against_the_scores(scores, kind, share):
    columns = make_columns(scores)
    filters = make_filters(columns, kind, share)
    assert (filters.passing.sum(axis=1) == max(1, share * 4000)).all()
    assert len(filters.texts) == 2
    if share == 0.5:
        better = [row[passes].mean() - row[~passes].mean() for row, passes in zip(scores, filters.passing, strict=True)]
        low, high = {"": (-0.15, 0.15), "_taste": (0.5, 1.5), "_anti": (-1.5, -0.5)}[kind]
        assert all(low < gap < high for gap in better)


def test_a_filter_says_in_text_which_items_pass(scores):
    columns = make_columns(scores)
    filters = make_filters(columns, "_anti", 0.1)
    name, comparison, bound = filters.texts[1].split()
    assert (name, comparison) == ("taste_1", "<=")
    np.testing.assert_array_equal(columns["taste_1"] <= float(bound), filters.passing[1])


def test_best_passing_is_brute_force(scores):
    filters = make_filters(make_columns(scores), "", 0.001)
    item_ids = np.arange(4000) + 7
    answers = best_passing(scores, filters, item_ids, 5)
    for row, passing, answer in zip(scores, filters.passing, answers, strict=True):
        order = sorted(np.flatnonzero(passing), key=lambda item: -row[item])
        assert list(answer) == [item + 7 for item in order] + [-1] * (5 - len(order))


def test_the_summary_has_a_key_for_every_filter():
    search = {"coverage": 0.99, "items_scored": 5.0, "failing_answers": 0, "short_answers": 1}
    one = {"surrogate": search, "best_first": search, "ms_per_query": 2.0, "post_filter": {"ms_per_query": 20.0}}
    summary = summarise({"ms_unfiltered": 1.0, "filters": {"01_anti": one}}, "_1m")
    assert summary == {
        "failing_answers_1m": 0,
        "short_answers_1m": 2,
        "coverage_01_anti_1m": 0.99,
        "scored_01_anti_1m": 5.0,
        "time_vs_unfiltered_01_anti_1m": 2.0,
        "vs_postfilter_01_anti_1m": 10.0,
    }
