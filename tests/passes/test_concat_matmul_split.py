"""concat_matmul_split: a matrix product of things side by side is a sum of products."""

import numpy as np
import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, USER, one_score, rows_of, tiled
from tests.passes.scorers import nodes_of, numbers, ops_of, rewrite_and_check, rewrites, weights

PASS = ["concat_matmul_split"]
W, BESIDE, THREE = weights(4, 5), weights(8, 5), weights(12, 5)
HISTORY = numbers(1, 3, 4, seed=8)


def report(rewritten):
    return next(row for row in rewritten.report if row.name == PASS[0])


def test_the_user_s_part_is_multiplied_once():
    rewritten = rewrite_and_check(
        lambda u, i: one_score(tf.matmul(tf.concat([tiled(u, i), rows_of(i)], 1), BESIDE)), USER, DIM, PASS
    )
    assert (report(rewritten).multiply_adds_before, report(rewritten).multiply_adds_after) == (40, 20)
    slices = [node.input[0] for node in nodes_of(rewritten, "Slice")]
    assert len(slices) == 2


def test_neighbours_of_one_kind_stay_side_by_side():
    """Of user, user, items: two products."""

    def score(u, items):
        x = tf.concat([tiled(u, items), tiled(u * 2, items), rows_of(items)], -1)
        return one_score(tf.matmul(x, THREE))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert (ops_of(rewritten)["MatMul"], ops_of(rewritten)["ConcatV2"]) == (2, 1)


@pytest.mark.parametrize("operation", ["add", "subtract", "concat"])
def test_items_with_behaviours_are_multiplied_apart(operation):
    """[1, n, 1, 4] with [1, 1, 3, 4]: n and 3 products of rows, not 3 n."""

    def score(history, items):
        n = tf.shape(items)[1]
        item, behaviour = items[:, :, None], history[:, None]
        if operation == "concat":
            x = tf.concat([tf.tile(item, [1, 1, 3, 1]), tf.tile(behaviour, [1, n, 1, 1])], -1)
        else:
            x = item + behaviour if operation == "add" else behaviour - item
        x = tf.nn.relu(tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), BESIDE if operation == "concat" else W))
        return one_score(tf.reshape(x, [1, n, 15]))

    rewritten = rewrite_and_check(score, [HISTORY], DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1
    before = 120 if operation == "concat" else 60
    assert (report(rewritten).multiply_adds_before, report(rewritten).multiply_adds_after) == (before, 20)


def test_tensors_that_are_repeated_along_different_axes_are_not_joined():
    """Two of the user's with as many rows each: [1, 1, 3, 1, 4] and [1, 1, 1, 3, 4]."""

    def score(history, other, items):
        shape = [1, tf.shape(items)[1], 3, 3, 4]
        parts = history[:, None, :, None], other[:, None, None], items[:, :, None, None]
        x = tf.concat([tf.broadcast_to(part, shape) for part in parts], -1)
        x = tf.nn.relu(tf.matmul(tf.reshape(x, [-1, 12]), THREE))
        return one_score(tf.reshape(x, [1, -1, 45]))

    rewritten = rewrite_and_check(score, [HISTORY, numbers(1, 3, 4, seed=9)], DIM, PASS)
    assert ops_of(rewritten)["MatMul"] == 3


def test_weights_of_the_user_are_cut_as_well():
    def score(u, items):
        weights = tf.reshape(tf.tile(u, [1, 4]), [8, 2])
        return one_score(tf.matmul(tf.concat([rows_of(items), tiled(u, items)], 1), weights))

    assert rewrites(rewrite_and_check(score, USER, DIM, PASS), PASS[0]) == 1


def test_a_concat_that_is_needed_elsewhere_is_kept():
    def score(u, items):
        x = tf.concat([rows_of(items), tiled(u, items)], 1)
        return one_score(tf.matmul(x, BESIDE)) + one_score(tf.tanh(x))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert (rewrites(rewritten, PASS[0]), ops_of(rewritten)["ConcatV2"]) == (1, 1)


def test_one_concat_before_two_products_is_split_for_both():
    def score(u, items):
        x = tf.concat([rows_of(items), tiled(u, items)], 1)
        return one_score(tf.matmul(x, BESIDE)) * one_score(tf.matmul(x, weights_of_two))

    weights_of_two = weights(8, 2)
    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert (rewrites(rewritten, PASS[0]), ops_of(rewritten)["ConcatV2"], ops_of(rewritten)["MatMul"]) == (2, 0, 4)


def test_whole_numbers_are_split_too():
    def score(u, items):
        parts = [tf.cast(part * 100.0, tf.int32) for part in (rows_of(items), tiled(u, items))]
        product = tf.matmul(tf.concat(parts, 1), tf.constant(np.arange(16).reshape(8, 2), tf.int32))
        return one_score(tf.cast(product, tf.float32))

    rewrite_and_check(score, USER, DIM, PASS)


def _both(u, items):
    return rows_of(items) * u


UNTOUCHED = {
    "weights that depend on the items": lambda u, i: tf.matmul(
        tf.concat([rows_of(i), tiled(u, i)], 1), tf.tile(tf.reduce_mean(i, [0, 1])[:, None], [2, 3])
    ),
    "another axis": lambda u, i: tf.reshape(tf.matmul(tf.concat([rows_of(i), tiled(u, i)], 0), W), [2, -1, 5])[0],
    "parts of one kind": lambda u, i: tf.matmul(tf.concat([rows_of(i), tf.tanh(rows_of(i))], 1), BESIDE),
    "parts that depend on both": lambda u, i: tf.matmul(tf.concat([_both(u, i), tf.tanh(_both(u, i))], 1), BESIDE),
    "the left transposed": lambda u, i: tf.matmul(
        tf.concat([tf.transpose(rows_of(i)), tf.transpose(tiled(u, i))], 0), BESIDE, transpose_a=True
    ),
    "the right transposed": lambda u, i: tf.matmul(
        tf.concat([rows_of(i), tiled(u, i)], 1), tf.transpose(BESIDE), transpose_b=True
    ),
    "a reshape that moves what is side by side": lambda u, i: tf.reshape(
        tf.matmul(tf.reshape(tf.concat([rows_of(i), tiled(u, i)], 1), [-1, 4]), W), [-1, 10]
    ),
    "a sum of as many rows": lambda u, i: tf.matmul(rows_of(i) + tf.tanh(rows_of(i)) * u, W),
    "a sum with a row": lambda u, i: tf.matmul(rows_of(i) + u, W),
    "a column that is repeated": lambda u, i: tf.matmul(
        tf.reshape(tf.reshape(i, [1, -1, 1, 4]) + tf.ones([1, 1, 3, 1]), [-1, 12]), THREE
    ),
    "no items": lambda u, i: tf.matmul(tf.concat([u, u * 2], 1), BESIDE) + rows_of(i)[:, :1],
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_near_misses_stay(name):
    rewritten = rewrite_and_check(lambda u, i: one_score(UNTOUCHED[name](u, i)), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0
