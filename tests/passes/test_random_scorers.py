"""Scorers composed at random keep their scores through all passes, in any order."""

from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from tests.passes.random_scorers import DIM, SPECS, RandomScorer, given, random_scorers
from tests.passes.scorers import again, check, numbers
from tfserving_ext.ops import RewrittenScorer, rewrite_scorer, trace_scorer

# With other numbers of behaviours than any other extent here.
USERS = [given(seed, length) for seed, length in enumerate((5, 1, 2))]


def rewritten_whole(score: RandomScorer, fold_items: bool, passes: Sequence[str] = ()) -> RewrittenScorer:
    score(*USERS[0], numbers(1, 1, DIM))  # Makes its variables.
    rewritten = rewrite_scorer(trace_scorer(score, SPECS, DIM), SPECS, DIM, fold_items, passes)
    assert [row for row in rewritten.report if row.name != "item_fold" and row.reason] == []
    return rewritten


def check_all(rewritten: RewrittenScorer, score: RandomScorer, users: int = len(USERS)) -> None:
    for user in USERS[:users]:
        check(rewritten, score, user, DIM, tolerance=1e-3)


@pytest.mark.medium
@settings(deadline=None, max_examples=40)
@hypothesis.given(score=random_scorers(), fold_items=st.booleans())
def test_all_passes_keep_the_scores(score, fold_items):
    rewritten = rewritten_whole(score, fold_items)
    check_all(rewritten, score)


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@hypothesis.given(score=random_scorers(), random=st.randoms(use_true_random=False))
def test_passes_in_any_order_keep_the_scores(score, random):
    """Each pass by itself, on what the one before it made."""
    names = list(dict.fromkeys(row.name for row in rewritten_whole(score, False).report if row.name != "user_hoist"))
    random.shuffle(names)
    rewritten = rewritten_whole(score, False, names[:1])
    for name in [*names[1:], *names[:2]]:
        rewritten = again(rewritten, SPECS, [name])
        assert [row.reason for row in rewritten.report if row.reason] == []
        check_all(rewritten, score, users=1)
    check_all(again(rewritten, SPECS, [], fold_items=True), score)
