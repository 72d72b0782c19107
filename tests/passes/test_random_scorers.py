"""Scorers composed at random keep their scores through all passes, in any order."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.random_scorers import DIM, USER_SHAPES, RandomScorer, random_scorers
from tests.passes.scorers import again, check, numbers, specs
from tfserving_ext.ops import CompiledScorer, compile_scorer, trace_scorer

USER = [numbers(*shape, seed=number) for number, shape in enumerate(USER_SHAPES)]


def compiled_whole(score: RandomScorer, fold_items: bool, passes: Sequence[str] = ()) -> CompiledScorer:
    score(*USER, numbers(1, 1, DIM))  # Makes its variables.
    compiled = compile_scorer(trace_scorer(score, specs(USER), DIM), specs(USER), DIM, fold_items, passes)
    assert [row for row in compiled.report if row.name != "item_fold" and row.reason] == []
    return compiled


@settings(deadline=None, max_examples=40)
@given(score=random_scorers(), fold_items=st.booleans())
def test_all_passes_keep_the_scores(score, fold_items):
    compiled = compiled_whole(score, fold_items)
    check(compiled, score, USER, DIM, tolerance=1e-3)


@settings(deadline=None, max_examples=15)
@given(score=random_scorers(), random=st.randoms(use_true_random=False))
def test_passes_in_any_order_keep_the_scores(score, random):
    """Each pass by itself, on what the one before it made."""
    names = list(dict.fromkeys(row.name for row in compiled_whole(score, False).report if row.name != "user_hoist"))
    random.shuffle(names)
    compiled = compiled_whole(score, False, names[:1])
    for name in [*names[1:], *names[:2]]:
        compiled = again(compiled, USER, [name])
        assert [row.reason for row in compiled.report if row.reason] == []
        check(compiled, score, USER, DIM, tolerance=1e-3)
    check(again(compiled, USER, [], fold_items=True), score, USER, DIM, tolerance=1e-3)
