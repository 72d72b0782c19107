"""What all passes have in common, on one pattern of each."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, PATTERNS, USER, Middle, one_score
from tests.passes.scorers import Score, again, check, nodes_of, numbers, ops_of, rewrite_and_check, rewrites, run
from tfserving_ext.ops import RewrittenScorer, rewrite_scorer, trace_scorer

MESSAGE = "the model met what it cannot stand"
LIMIT = 50.0

each_pass = pytest.mark.parametrize("name", PATTERNS)


def counted(rewritten: RewrittenScorer, wanted: dict[str, int]) -> dict[str, int]:
    return {op: ops_of(rewritten)[op] for op in wanted}


def traced(score: Score, wanted: dict[str, int]) -> dict[str, int]:
    ops = Counter(node.type for node in trace_scorer(score, USER, DIM).plain.graph.get_operations())
    return {op: ops[op] for op in wanted}


@each_pass
def test_a_pattern_is_rewritten(name):
    pattern = PATTERNS[name]
    assert traced(pattern.score(), pattern.before) == pattern.before
    rewritten = rewrite_and_check(pattern.score(), USER, DIM, [name])
    assert rewrites(rewritten, name) == pattern.rewrites
    assert counted(rewritten, pattern.after) == pattern.after


@each_pass
def test_only_the_wanted_pass_runs(name):
    rewritten = rewrite_and_check(PATTERNS[name].score(), USER, DIM, [name])
    assert {row.name for row in rewritten.report if row.rewrites} == {name}
    assert rewritten.fold is None
    assert rewritten.scorer.prepare is None


@each_pass
def test_two_patterns_are_rewritten_both(name):
    pattern = PATTERNS[name]

    def score(u: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        first = one_score(pattern.build(u, items, lambda x: x))
        return first - 2.0 * one_score(pattern.build(u * 3.0, tf.reverse(items, [2]), lambda x: x))

    rewritten = rewrite_and_check(score, USER, DIM, [name])
    assert rewrites(rewritten, name) == 2 * pattern.rewrites


@each_pass
def test_a_second_run_finds_nothing(name):
    rewritten = rewrite_and_check(PATTERNS[name].score(), USER, DIM, [name])
    second = again(rewritten, USER, [name])
    assert rewrites(second, name) == 0
    check(second, PATTERNS[name].score(), USER, DIM)


@each_pass
def test_new_nodes_are_where_the_old_ones_were(name):
    def score(u: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            return PATTERNS[name].score()(u, items)

    rewritten = rewrite_and_check(score, USER, DIM, [name])
    added = [node for node in rewritten.graphs["score"].node if node.name.split("/")[-1].startswith("nann_")]
    added = [node for node in added if node.op not in ("_Arg", "_Retval")]
    assert added or name == "broadcast_elimination"  # Which only takes nodes away, and copies them.
    assert {node.device for node in added} <= {"/device:CPU:0"}


def asserted_before(x: tf.Tensor) -> tf.Tensor:
    """What follows waits for the assertion."""
    with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(tf.abs(x)), LIMIT, MESSAGE)]):
        return tf.identity(x)


def asserted_beside(x: tf.Tensor) -> tf.Tensor:
    """Nothing but the function's end waits for the assertion."""
    tf.debugging.assert_less(tf.reduce_max(tf.abs(x)), LIMIT, MESSAGE)
    return x


def checked(x: tf.Tensor) -> tf.Tensor:
    return tf.debugging.check_numerics(tf.where(tf.abs(x) < LIMIT, x, np.nan), MESSAGE)


def doubled_after_assertion(x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(tf.abs(x)), LIMIT, MESSAGE)]):
        return x * 2.0


@pytest.mark.slow
@each_pass
@pytest.mark.parametrize("middle", [asserted_before, asserted_beside, checked, doubled_after_assertion])
@pytest.mark.parametrize("passes", ["one", "all"])
def test_an_assertion_in_the_middle_still_fires(name: str, middle: Middle, passes: str):
    score: Callable = PATTERNS[name].score(middle)
    rewritten = rewrite_and_check(score, USER, DIM, [name] if passes == "one" else [])
    asserts = [node for op in ("If", "Assert", "CheckNumerics") for node in nodes_of(rewritten, op)]
    assert len(asserts) == 1
    user, items = [USER[0] * 1e4], numbers(1, 7, DIM) * 1e4
    for function in (lambda: score(*user, items), lambda: run(rewritten, user, items)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=MESSAGE):
            function()
    check(rewritten, score, USER, DIM)


@each_pass
def test_the_pattern_under_a_control_dependency_keeps_it(name):
    """Every node of the pattern waits: none may be replaced by one that does not."""

    def score(u: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_sum(u), LIMIT, MESSAGE)]):
            return PATTERNS[name].score()(u, items)

    rewritten = rewrite_and_check(score, USER, DIM, [name])
    assert len(nodes_of(rewritten, "If")) == 1
    with pytest.raises(tf.errors.InvalidArgumentError, match=MESSAGE):
        run(rewritten, [USER[0] * 0 + LIMIT], numbers(1, 3, DIM))


@pytest.mark.parametrize("wanted", [["user_hoists"], ["prelu_fusion", ""], ["nann"]])
def test_an_unknown_pass_is_refused_with_the_names_of_all(wanted):
    scorer = trace_scorer(PATTERNS["prelu_fusion"].score(), USER, DIM)
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        rewrite_scorer(scorer, USER, DIM, passes=wanted)
    assert f"no pass is called {wanted[-1]}" in str(error.value)
    for name in [*PATTERNS, "item_fold", "user_hoist"]:
        assert name in str(error.value)
