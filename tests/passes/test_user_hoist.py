"""user_hoist: what does not depend on the items is prepared, once per user."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.conftest import Searcher
from tests.ops.reference import Graph
from tests.ops.searching import any_search
from tests.passes.patterns import DIM, USER, one_score, rows_of, tiled
from tests.passes.scorers import check, numbers, ops_of, rewrite_and_check, rewrites, run, specs, weights
from tfserving_ext import ops
from tfserving_ext.ops import rewrite_scorer, trace_scorer

PASS = ["user_hoist"]
W, KEYS, LAST = weights(4, 4), weights(4, 4, seed=1), weights(4, 1)
LINE = Graph(np.arange(6) * 10, [0], [[[1], [2], [3], [4], [5], []]])
EMBEDDINGS = numbers(6, DIM, seed=5).numpy()
ALL = {"k": 6, "ef": [6, 6], "rounds": [1, 9]}


@pytest.fixture
def line(tmp_path: Path) -> tf.Tensor:
    return Searcher(tmp_path, dim=DIM).open(LINE, EMBEDDINGS).index


def searched(found: ops.SearchResult, row: int) -> np.ndarray:
    """Scores in the order of the items."""
    return found.scores.numpy()[row][np.argsort(found.item_ids.numpy()[row])]


def depends_on_items(rewritten: ops.RewrittenScorer) -> set[str]:
    """Names of the nodes of `score` that the items reach."""
    found: set[str] = set()
    nodes = {node.name: node for node in rewritten.graphs["score"].node}
    count = len(nodes)
    items = len(rewritten.scorer.prepare.outputs if rewritten.scorer.prepare else []) + len(USER)
    for _ in range(count):
        for node in nodes.values():
            inputs = {name.lstrip("^").split(":")[0] for name in node.input}
            if (node.op == "_Arg" and node.attr["index"].i == items) or inputs & found:
                found.add(node.name)
    return found


def user_tower(u):
    return tf.nn.relu(tf.matmul(u, W))


@pytest.mark.parametrize("passes", [PASS, []], ids=["alone", "all"])
def test_the_user_s_side_is_prepared_and_nothing_else(passes):
    def score(u, items):
        return one_score(tf.tanh(tf.matmul(rows_of(items), W) + user_tower(u)))

    rewritten = rewrite_and_check(score, USER, DIM, passes)
    assert rewrites(rewritten, "user_hoist") >= 1
    assert ops_of(rewritten, "prepare")["Relu"] == 1
    assert ops_of(rewritten, "prepare")["Tanh"] == 0
    assert (ops_of(rewritten)["Relu"], ops_of(rewritten)["Tanh"]) == (0, 1)
    reached = depends_on_items(rewritten)
    left = [node for node in rewritten.graphs["score"].node if node.name not in reached]
    assert {node.op for node in left} <= {"_Arg", "Const"}


def test_what_is_prepared_takes_no_items():
    """Its arguments are the user's tensors and what was captured."""

    def score(u, items):
        return one_score(tf.tanh(tf.matmul(rows_of(items), W) + user_tower(u)))

    rewritten = rewrite_and_check(score, USER, DIM)
    arguments = [node for node in rewritten.graphs["prepare"].node if node.op == "_Arg"]
    assert len(arguments) == len(USER) + len(rewritten.scorer.captured)


def test_nothing_is_prepared_where_everything_depends_on_the_items():
    rewritten = rewrite_and_check(lambda u, i: one_score(tf.tanh(i)), USER, DIM)
    assert rewrites(rewritten, "user_hoist") == 0
    assert rewritten.scorer.prepare is None
    assert len(rewritten.graphs["prepare"].node) == 0


def test_a_search_without_anything_to_prepare(line):
    found = any_search(line, USER, lambda u, i: one_score(tf.tanh(i)), DIM, **ALL)
    np.testing.assert_allclose(searched(found, 0), np.tanh(EMBEDDINGS).sum(1), rtol=1e-5, atol=1e-6)


def test_the_user_s_own_tensors_are_not_prepared_again():
    rewritten = rewrite_and_check(lambda u, i: one_score(tf.tanh(i * u)), USER, DIM)
    assert rewritten.scorer.prepare is None


def test_scores_that_do_not_depend_on_the_items_but_for_their_number():
    rewritten = rewrite_and_check(
        lambda u, i: tf.tile(tf.reduce_sum(user_tower(u), 1, keepdims=True), [1, tf.shape(i)[1]]), USER, DIM
    )
    assert ops_of(rewritten, "prepare")["Relu"] == 1


def test_a_tensor_with_several_outputs_is_prepared_part_by_part():
    def score(u, items):
        first, second, third = tf.split(tf.matmul(u, tf.tile(W, [1, 3])), 3, axis=1)
        _, top = tf.unstack(tf.stack([first, second]))
        return one_score(tf.tanh(rows_of(items) * third + top))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert ops_of(rewritten)["Split"] == 0
    assert ops_of(rewritten, "prepare")["Split"] == 1


def test_strings_and_whole_numbers_are_prepared():
    def score(words, numbers_, items):
        known = tf.cast(tf.strings.length(words) * numbers_, tf.float32)
        text = tf.strings.join([words, tf.as_string(numbers_)])
        return one_score(items * known) + tf.cast(text == "ab7", tf.float32)

    user = [tf.constant(["ab"]), tf.constant([7], tf.int64)]

    def cast(words, numbers_, items):
        return score(words, tf.cast(numbers_, tf.int32), items)

    rewritten = rewrite_and_check(cast, user, DIM, PASS)
    assert ops_of(rewritten)["StringLength"] == 0


RANDOM = {
    "uniform": lambda u: tf.random.uniform([1, 4]),
    "normal": lambda u: tf.random.normal(tf.shape(u)),
    "of the user": lambda u: tf.nn.dropout(user_tower(u), 0.5),
    "shuffled": lambda u: tf.random.shuffle(tf.range(4.0))[None],
}


@pytest.mark.parametrize("passes", [PASS, []], ids=["alone", "all"])
@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_drawn_for_every_batch(name, passes):
    def score(u, items):
        return one_score(tf.tanh(items * RANDOM[name](u)))

    rewritten = rewrite_scorer(trace_scorer(score, specs(USER), DIM), specs(USER), DIM, passes=passes)
    random = {op for op in ops_of(rewritten) if op.startswith("Random")}
    assert len(random) == 1
    assert not [op for op in ops_of(rewritten, "prepare") if op.startswith("Random")]


def test_random_numbers_that_are_stateless_are_the_same_and_prepared():
    def score(u, items):
        return one_score(tf.tanh(items * tf.random.stateless_uniform([1, 4], [1, 2]) * u))

    rewrite_and_check(score, USER, DIM)


@pytest.mark.parametrize("beside", [False, True])
def test_assertions_on_the_user_run_with_every_batch(line, beside):
    def score(u, items):
        limit = tf.debugging.assert_less(tf.reduce_sum(u), 50.0, "the user is too large")
        with tf.control_dependencies([] if beside else [limit]):
            return one_score(tf.tanh(items * user_tower(u)))

    rewritten = rewrite_and_check(score, USER, DIM)
    assert ops_of(rewritten)["If"] + ops_of(rewritten)["Assert"] == 1
    assert ops_of(rewritten, "prepare")["If"] + ops_of(rewritten, "prepare")["Assert"] == 0
    large = tf.ones([1, 4]) * 100.0
    for function in (
        lambda: run(rewritten, [large], numbers(1, 3, DIM)),
        lambda: any_search(line, [large], score, DIM, **ALL),
        lambda: any_search(line, [large], rewritten.scorer, DIM, **ALL),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="the user is too large"):
            function()
    np.testing.assert_allclose(
        searched(any_search(line, USER, score, DIM, **ALL), 0),
        score(*USER, EMBEDDINGS[None]).numpy()[0],
        rtol=1e-4,
        atol=1e-5,
    )


def test_variables_are_read_for_every_user():
    weight = tf.Variable(1.0)
    rewritten = rewrite_and_check(lambda u, i: one_score(tf.tanh(i * tf.exp(weight * u))), USER, DIM)
    weight.assign(-0.5)
    check(rewritten, lambda u, i: one_score(tf.tanh(i * tf.exp(weight * u))), USER, DIM)


def attention(u, history, items):
    """Over as many behaviours as there are; how many is asked for in several ways."""
    length = tf.shape(history)[1]
    keys = tf.matmul(history, KEYS)
    logits = tf.matmul(tf.matmul(items, W), keys, transpose_b=True) / tf.sqrt(tf.cast(length, tf.float32))
    mask = tf.sequence_mask(tf.maximum(length - 1, 1), length)
    read = tf.matmul(tf.nn.softmax(tf.where(mask, logits, -1e9)), history)
    pairs = tf.tile(items[:, :, None], [1, 1, length, 1]) * tf.tile(history[:, None], [1, tf.shape(items)[1], 1, 1])
    rows = tf.reduce_mean(tf.nn.relu(tf.matmul(pairs, W)), axis=2)
    x = tf.concat([read, rows, tf.reshape(tiled(u, items), [1, -1, 4])], -1)
    return one_score(tf.nn.relu(x))


UNKNOWN = [tf.TensorSpec([None, 4]), tf.TensorSpec([None, None, 4])]


@pytest.mark.parametrize("rewrite", [True, False])
def test_extents_that_change_from_call_to_call(line, rewrite):
    @tf.function(input_signature=UNKNOWN)
    def search(u, history):
        return any_search(line, [u, history], attention, DIM, **ALL, rewrite=rewrite)

    for length in (3, 1, 7, 2, 3):
        users, history = numbers(2, 4, seed=length), numbers(2, length, 4, seed=length + 1)
        found = search(users, history)
        for row in range(2):
            one = slice(row, row + 1)
            wanted = attention(users[one], history[one], tf.constant(EMBEDDINGS[None])).numpy()[0]
            np.testing.assert_allclose(searched(found, row), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fold_items", [False, True])
def test_extents_that_change_after_the_passes(fold_items):
    rewritten = rewrite_scorer(trace_scorer(attention, UNKNOWN, DIM), UNKNOWN, DIM, fold_items)
    assert ops_of(rewritten, "prepare")["BatchMatMulV2"] == 1  # The keys.
    for length in (1, 5, 2):
        check(rewritten, attention, [*USER, numbers(1, length, 4, seed=length)], DIM)
