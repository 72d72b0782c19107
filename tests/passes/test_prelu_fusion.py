"""prelu_fusion: the parametric rectifier in fewer steps."""

import numpy as np
import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, USER, one_score, rows_of
from tests.passes.scorers import nodes_of, ops_of, rewrite_and_check, rewrites, run, weights

PASS = ["prelu_fusion"]
SLOPE = weights(4, seed=1)
relu = tf.nn.relu


RECTIFIERS = {
    "a difference": lambda u, x: relu(x) - SLOPE * relu(-x),
    "the slope on the right": lambda u, x: relu(x) - relu(-x) * SLOPE,
    "a sum with a slope that is negated": lambda u, x: relu(x) + -SLOPE * relu(-x),
    "a sum": lambda u, x: relu(x) + SLOPE * relu(-x),
    "a sum, the other way round": lambda u, x: SLOPE * relu(-x) + relu(x),
    "one slope": lambda u, x: relu(x) - 0.25 * relu(-x),
    "a slope that is wider": lambda u, x: (lambda y: relu(y) - SLOPE * relu(-y))(x[:, :1]),
    "a slope of the user": lambda u, x: relu(x) - u * relu(-x),
    "a slope of the item": lambda u, x: relu(x) - tf.tanh(x) * relu(-x),
}


@pytest.mark.parametrize("name", RECTIFIERS)
def test_a_rectifier_is_fused(name):
    rewritten = rewrite_and_check(lambda u, i: one_score(RECTIFIERS[name](u, rows_of(i))), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1
    assert (ops_of(rewritten)["Relu"], ops_of(rewritten)["Minimum"]) == (1, 1)


def test_keras_prelu_is_fused():
    layer = tf.keras.layers.PReLU(alpha_initializer="random_normal", shared_axes=[1])
    layer.build([None, None, DIM])
    rewritten = rewrite_and_check(lambda u, i: one_score(layer(i) * u), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1


def test_three_axes_and_behaviours():
    def score(u, items):
        x = items[:, :, None] - tf.reshape(u, [1, 1, 2, 2])[..., :1]
        return one_score(tf.reduce_sum(relu(x) - SLOPE * relu(-x), 2))

    assert rewrites(rewrite_and_check(score, USER, DIM, PASS), PASS[0]) == 1


UNTOUCHED = {
    "of something else": lambda u, x: relu(x) - SLOPE * relu(-x * 2.0),
    "not negated": lambda u, x: relu(x) - SLOPE * relu(x),
    "the other way round, less": lambda u, x: SLOPE * relu(-x) - relu(x),
    "no slope": lambda u, x: relu(x) - relu(-x),
    "another rectifier": lambda u, x: relu(x) - SLOPE * tf.nn.relu6(-x),
    "a choice": lambda u, x: tf.where(x > 0, x, SLOPE * x),
    "whole numbers": lambda u, x: tf.cast(
        relu(tf.cast(x * 9.0, tf.int32)) - 3 * relu(-tf.cast(x * 9.0, tf.int32)), tf.float32
    ),
    "twice as precise": lambda u, x: tf.cast(
        relu(tf.cast(x, tf.float64)) - 3.0 * relu(-tf.cast(x, tf.float64)), tf.float32
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_near_misses_stay(name):
    rewritten = rewrite_and_check(lambda u, i: one_score(UNTOUCHED[name](u, rows_of(i))), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0
    assert ops_of(rewritten)["Minimum"] == 0


def test_parts_that_are_needed_elsewhere_are_kept():
    def score(u, items):
        x = rows_of(items)
        positive, negative = relu(x), relu(-x)
        return one_score(positive - SLOPE * negative) + one_score(tf.tanh(positive) + tf.exp(-negative))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert (rewrites(rewritten, PASS[0]), len(nodes_of(rewritten, "Relu"))) == (1, 2)


def test_zeros_and_nan_come_out_as_they_did():
    def score(u, items):
        x = items[..., 0]
        return relu(x) - 0.25 * relu(-x)

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    items = np.zeros([1, 5, DIM], np.float32)
    items[0, :, 0] = [0.0, -0.0, np.nan, np.inf, -np.inf]
    np.testing.assert_array_equal(run(rewritten, USER, tf.constant(items)), score(*USER, items))
