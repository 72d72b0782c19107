"""factor_absorption: what a user's rows multiply an item by is taken into the weights."""

import numpy as np
import pytest
import tensorflow as tf

from tests.passes.patterns import one_score
from tests.passes.scorers import nodes_of, numbers, ops_of, rewrite_and_check, rewrites, run, weights
from tfserving_ext.ops import rewrite_scorer, trace_scorer

PASS = ["factor_absorption"]
DIM, ROWS, WIDTH = 4, 3, 5
HISTORY = numbers(1, ROWS, DIM, seed=8)
ROW = numbers(DIM, seed=9)
FOUR = weights(4 * DIM, WIDTH)
BIAS = weights(WIDTH, seed=1)


def product_of(rows: tf.Tensor, kernel: tf.Tensor = FOUR) -> tf.Tensor:
    """[1, n, 3, c] by the first c rows of a kernel, [n * 3, 5]."""
    wide = rows.shape[-1]
    return tf.matmul(tf.reshape(rows, [-1, wide]), kernel[:wide])


def score_of(build, finish=lambda x: x):
    """A scorer of `build(x, y, n)`: x [1, n, 1, 4] of the items, y [1, 1, 3, 4] of the user."""

    def score(history, items):
        rows = product_of(build(items[:, :, None], history[:, None], tf.shape(items)[1]))
        return one_score(tf.reshape(tf.nn.relu(finish(rows)), [1, -1, ROWS * WIDTH]))

    return score


def side_by_side(x, y, n):
    """As DIN has them, repeated."""
    x, y = tf.tile(x, [1, 1, ROWS, 1]), tf.tile(y, [1, n, 1, 1])
    return tf.concat([x, y, x - y, x * y], -1)


FORMS = {
    "a product": lambda x, y, n: x * y,
    "a product with y on the left": lambda x, y, n: y * x,
    "a product of what is repeated": lambda x, y, n: tf.tile(x, [1, 1, ROWS, 1]) * tf.tile(y, [1, n, 1, 1]),
    "four parts": lambda x, y, n: tf.concat([tf.tile(x, [1, 1, ROWS, 1]), tf.tile(y, [1, n, 1, 1]), x - y, x * y], -1),
    "a difference first": lambda x, y, n: tf.concat([y - x, y * x, tf.tile(y, [1, n, 1, 1])], -1),
    "a sum of products": lambda x, y, n: x * y - (y - x * tf.exp(y)),
    "a product and a row": lambda x, y, n: tf.concat([x * y + ROW, x * ROW - y], -1),
    "nothing but what is taken away": lambda x, y, n: y - x * y,
    "two reshapes of the items": lambda x, y, n: x * y + tf.reshape(tf.reshape(x, [-1, DIM]), [1, -1, 1, DIM]),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_is_linear_in_the_item_is_one_product(name):
    rewritten = rewrite_and_check(score_of(FORMS[name]), [HISTORY], DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1
    report = next(row for row in rewritten.report if row.name == PASS[0])
    assert report.multiply_adds_after == DIM * ROWS * WIDTH


def test_the_activation_unit_of_din_leaves_one_product_to_a_batch():
    """By all passes: the weights are made once per user, and nothing is repeated for the items."""
    rewritten = rewrite_and_check(score_of(side_by_side, lambda x: x + BIAS), [HISTORY], DIM)
    ops = ops_of(rewritten)
    assert (ops["MatMul"], ops["AddV2"]) == (1, 1)
    assert not {"Tile", "ConcatV2", "Mul", "Sub", "Transpose", "BiasAdd", "BroadcastTo"} & set(ops)
    assert ops_of(rewritten, "prepare")["Transpose"] == 1


UNTOUCHED = {
    "only a sum": lambda x, y, n: x + y,
    "only side by side": lambda x, y, n: tf.concat([tf.tile(x, [1, 1, ROWS, 1]), tf.tile(y, [1, n, 1, 1])], -1),
    "one row for all": lambda x, y, n: tf.tile(x * ROW, [1, 1, ROWS, 1]) + y,
    "a square": lambda x, y, n: x * (x * y),
    "a rectifier in between": lambda x, y, n: tf.nn.relu(x * y),
    "a column for all": lambda x, y, n: x * y[..., :1],
    "two of the items'": lambda x, y, n: tf.concat([x * y, tf.tanh(x) - y], -1),
    "a factor of the items": lambda x, y, n: x * (y + tf.reduce_mean(x)),
    "a number": lambda x, y, n: x * y + 1.0,
    "an item's neighbour": lambda x, y, n: tf.concat([x * y, tf.reverse(x, [1]) - y], -1),
    "another axis": lambda x, y, n: tf.concat([x * y, x * y], 1)[:, :n] * 2.0,
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_near_misses_stay(name):
    rewritten = rewrite_and_check(score_of(UNTOUCHED[name]), [HISTORY], DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0


def test_weights_of_the_items_stay():
    def score(history, items):
        rows = product_of(items[:, :, None] * history[:, None], FOUR * tf.reduce_mean(items))
        return one_score(tf.reshape(rows, [1, -1, ROWS * WIDTH]))

    assert rewrites(rewrite_and_check(score, [HISTORY], DIM, PASS), PASS[0]) == 0


def test_weights_of_the_user_are_absorbed_too():
    def score(history, items):
        rows = product_of(items[:, :, None] * history[:, None], FOUR * tf.reduce_sum(history))
        return one_score(tf.reshape(tf.nn.relu(rows), [1, -1, ROWS * WIDTH]))

    assert rewrites(rewrite_and_check(score, [HISTORY], DIM, PASS), PASS[0]) == 1


@pytest.mark.parametrize("bias", [lambda x: tf.nn.bias_add(x, BIAS), lambda x: BIAS + x, lambda x: x + BIAS[None]])
def test_a_bias_joins_the_row_that_is_added_to_all_items(bias):
    rewritten = rewrite_and_check(score_of(lambda x, y, n: x * y - y, bias), [HISTORY], DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 2
    big = [node for node in nodes_of(rewritten, "AddV2") if "nann_factor_absorption" in node.name]
    assert len(big) == 2  # Of the row and the bias, and of the product and both.
    assert not ops_of(rewritten)["BiasAdd"]


def test_what_else_takes_the_rows_still_has_them_without_the_bias():
    rewritten = rewrite_and_check(score_of(lambda x, y, n: x * y - y, lambda x: (x + BIAS) * x), [HISTORY], DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1


def test_a_bias_for_each_item_stays():
    def finish(rows):
        return rows + tf.reduce_sum(rows, axis=1, keepdims=True)

    rewritten = rewrite_and_check(score_of(lambda x, y, n: x * y - y, finish), [HISTORY], DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1


@pytest.mark.parametrize(
    ("dim", "rows", "width", "wanted"),
    [(64, 256, 64, 1), (64, 257, 64, 0), (128, 2, 128, 1), (128, 2, 129, 0)],
)
def test_weights_that_are_larger_than_what_they_save_stay_as_they_are(dim, rows, width, wanted):
    """At most 2^20 numbers, and for each of the rows no more than 64 items have before."""
    kernel = tf.Variable(numbers(dim, width) / dim)

    def score(history, items):
        x = tf.matmul(tf.reshape(items[:, :, None] * history[:, None], [-1, dim]), kernel)
        return tf.reduce_mean(tf.reshape(x, [1, -1, rows * width]), -1)

    rewritten = rewrite_and_check(score, [numbers(1, rows, dim)], dim, PASS)
    assert rewrites(rewritten, PASS[0]) == wanted


def test_a_history_of_any_length_stays():
    def score(history, items):
        rows = tf.nn.relu(product_of(items[:, :, None] * history[:, None]))
        return tf.reduce_sum(tf.reshape(rows, [1, tf.shape(items)[1], -1]), -1)

    specs = [tf.TensorSpec([1, None, DIM])]
    rewritten = rewrite_scorer(trace_scorer(score, specs, DIM), specs, DIM, passes=PASS)
    assert rewrites(rewritten, PASS[0]) == 0
    items = numbers(1, 7, DIM)
    np.testing.assert_allclose(run(rewritten, [HISTORY], items), score(HISTORY, items), rtol=1e-5)
