"""broadcast_elimination: a tensor of the user that is repeated for every item need not be."""

import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, USER, one_score, rows_of, tiled
from tests.passes.scorers import numbers, ops_of, rewrite_and_check, rewrites, weights

PASS = ["broadcast_elimination"]
W, BIAS = weights(4, 5), weights(5)


def count(items):
    return tf.shape(items)[1]


REPEATED = {
    "Tile": lambda u, i: tf.tile(u, [count(i), 1]),
    "BroadcastTo": lambda u, i: tf.broadcast_to(u, [count(i), 4]),
    "BroadcastTo of a lower rank": lambda u, i: tf.broadcast_to(u[0], [count(i), 4]),
    "product with ones": lambda u, i: u * tf.ones([count(i), 1]),
    "ones times it": lambda u, i: tf.ones_like(rows_of(i)[:, :1]) * u,
    "gather from a single row": lambda u, i: tf.gather(u, tf.zeros([count(i)], tf.int32)),
    "repeated twice": lambda u, i: tf.tile(tf.tile(u, [count(i), 1]), [1, 1]),
}


@pytest.mark.parametrize("name", REPEATED)
def test_what_is_repeated_is_multiplied_once(name):
    """The product and the rectifier are of one row; the sum with the items' rows repeats it."""

    def score(u, items):
        x = tf.nn.relu(tf.matmul(REPEATED[name](u, items), W)) + BIAS
        return one_score(x + tf.matmul(rows_of(items), W))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert not {"Tile", "BroadcastTo", "GatherV2", "OnesLike"} & set(ops_of(rewritten))
    assert rewrites(rewritten, PASS[0]) >= 4
    product = next(row for row in rewritten.report if row.name == PASS[0])
    assert (product.multiply_adds_before, product.multiply_adds_after) == (40, 20)


def test_a_batched_product_takes_the_one_matrix():
    def score(u, items):
        several = tf.tile(tf.reshape(u, [1, 4, 1]), [count(items), 1, 1])
        return tf.reshape(tf.matmul(tf.reshape(items, [-1, 1, 4]), several), [1, -1])

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert ops_of(rewritten)["Tile"] == 0
    assert ops_of(rewritten)["BatchMatMulV2"] == 1


@pytest.mark.parametrize("transposed", [False, True])
def test_a_batched_product_on_the_left_too(transposed):
    def score(u, items):
        several = tf.tile(tf.reshape(u, [1, 4, 1] if transposed else [1, 1, 4]), [count(items), 1, 1])
        return tf.reshape(tf.matmul(several, tf.reshape(items, [-1, 4, 1]), transpose_a=transposed), [1, -1])

    assert ops_of(rewrite_and_check(score, USER, DIM, PASS))["Tile"] == 0


REPEATS = {
    "rows": lambda u, i: tf.repeat(u, count(i), axis=0),
    "three dimensions": lambda u, i: rows_of(tf.repeat(u[:, None], count(i), axis=1)),
}


@pytest.mark.parametrize("name", REPEATS)
def test_tf_repeat_repeats_no_more(name):
    """Its shapes are plain once flatten_rows was there."""

    def score(u, items):
        return one_score(tf.nn.relu(tf.matmul(REPEATS[name](u, items), W)) + tf.matmul(rows_of(items), W))

    rewritten = rewrite_and_check(score, USER, DIM, ["flatten_rows", *PASS])
    assert ops_of(rewritten)["Tile"] == 0
    assert rewritten.report[-2].multiply_adds_after == 20


def test_a_result_that_nothing_else_repeats_is_repeated_at_the_end():
    def score(u, items):
        return one_score(tf.nn.softmax(tf.nn.relu(tiled(u, items)) * u)) + 0.0 * items[..., 0]

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert ops_of(rewritten)["Tile"] == 0
    assert ops_of(rewritten)["BroadcastTo"] == 1


def test_masks_and_whole_numbers_are_repeated_no_more():
    def score(u, items):
        big = tf.tile(tf.cast(u * 100.0, tf.int32), [count(items), 1]) + 3
        mask = tf.cast(tf.greater(big, 10), tf.float32)
        return one_score(mask * rows_of(items))

    assert ops_of(rewrite_and_check(score, USER, DIM, PASS))["Tile"] == 0


def test_a_tile_of_nothing_is_taken_away():
    rewritten = rewrite_and_check(lambda u, i: one_score(tf.tile(i, [1, 1, 1]) * u), USER, DIM, PASS)
    assert (rewrites(rewritten, PASS[0]), ops_of(rewritten)["Tile"]) == (1, 0)


def _tiled_along_the_last(u, items):
    return tf.tile(u[:, :1], [count(items), 4])


UNTOUCHED = {
    "repeats rows of several": lambda u, i: tf.tanh(tf.tile(tf.concat([u, 2 * u], 0), [count(i), 1]))[::2] * rows_of(i),
    "depends on the items' values": lambda u, i: (
        tf.gather(tf.concat([u, -u], 0), tf.cast(rows_of(i)[:, 0] > 0, tf.int32)) * rows_of(i)
    ),
    "nearly ones": lambda u, i: (u * tf.fill([count(i), 1], 1.5)) * rows_of(i),
    "what it repeats is waited for": lambda u, i: tf.debugging.check_numerics(tiled(u, i), "no number") * rows_of(i),
    "a product transposed": lambda u, i: (
        tf.matmul(tf.tile(u[:, :1], [3, count(i)]), numbers(3, 5), transpose_a=True) + rows_of(i)[:, :1]
    ),
    "a product of the last axis repeated": lambda u, i: tf.matmul(_tiled_along_the_last(u, i), W) + rows_of(i)[:, :1],
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_what_is_no_repetition_stays(name):
    rewritten = rewrite_and_check(lambda u, i: one_score(UNTOUCHED[name](u, i)), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0


def test_a_softmax_along_what_is_repeated_is_of_all():
    """The softmax of equal numbers is not that of one."""

    def score(u, items):
        return one_score(tf.nn.softmax(_tiled_along_the_last(u, items)) * rows_of(items))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    softmax = next(node for node in rewritten.graphs["score"].node if node.op == "Softmax")
    assert softmax.input[0] in {node.name for node in rewritten.graphs["score"].node if node.op == "Tile"}


def test_who_else_takes_the_repeated_tensor_still_has_it():
    """The sum over the items is of all of them."""

    def score(u, items):
        repeated = tiled(u, items)
        return one_score(tf.tanh(repeated) * rows_of(items)) + tf.reduce_mean(repeated)

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert ops_of(rewritten)["Tile"] == 1
    assert ops_of(rewritten)["BroadcastTo"] == 0
