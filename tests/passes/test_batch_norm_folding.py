"""batch_norm_folding: what scales and shifts a product's columns alike belongs to its weights."""

import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, USER, one_score, rows_of, tiled
from tests.passes.scorers import compile_and_check, nodes_of, numbers, ops_of, rewrites, run, weights

PASS = ["batch_norm_folding"]
W, WT, SCALE, SHIFT, BIAS = weights(4, 5), weights(5, 4), weights(5, seed=1), weights(1, 5, seed=2), weights(5, seed=3)


def fewer_operations(compiled):
    """How many operations on all items there are less."""
    runs = [row for row in compiled.report if row.name == PASS[0]]
    return runs[0].nodes_before - runs[-1].nodes_after


def product(items, transposed=False):
    return tf.matmul(rows_of(items), WT if transposed else W, transpose_b=transposed)


SCALED = {
    "a scale": lambda u, i: product(i) * SCALE,
    "a scale on the left": lambda u, i: SCALE * product(i),
    "weights transposed": lambda u, i: product(i, True) * SCALE,
    "weights transposed and one factor": lambda u, i: product(i, True) * 0.5,
    "a factor": lambda u, i: product(i) * 0.5,
    "a row [1, m]": lambda u, i: product(i) * SHIFT,
    "a factor [1]": lambda u, i: product(i) * SHIFT[0, :1],
    "the user's scale": lambda u, i: product(i) * tf.tanh(tf.concat([u, u[:, :1]], 1)),
    "the user's factor": lambda u, i: product(i, True) * u[:, :1],
}


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_joins_the_weights(name):
    compiled = compile_and_check(lambda u, i: one_score(SCALED[name](u, i)), USER, DIM, PASS)
    assert rewrites(compiled, PASS[0]) == 1
    assert fewer_operations(compiled) == 1


def test_the_left_transposed():
    def score(u, items):
        return one_score(tf.matmul(tf.transpose(rows_of(items)), W, transpose_a=True) * SCALE)

    assert rewrites(compile_and_check(score, USER, DIM, PASS), PASS[0]) == 1


def test_batch_norm_is_one_sum():
    """Product, bias, mean, scale, shift: a product and a sum are left."""

    def score(u, items):
        x = tf.nn.bias_add(product(items), BIAS) + SHIFT
        return one_score(x * tf.math.rsqrt(tf.square(SCALE) + 1.0) + BIAS)

    compiled = compile_and_check(score, USER, DIM, PASS)
    assert fewer_operations(compiled) == 3
    (_,) = nodes_of(compiled, "MatMul")


def test_keras_batch_norm_is_folded():
    layer = tf.keras.layers.BatchNormalization(axis=-1)
    layer.build([None, 5])
    for number, variable in enumerate(layer.weights):
        variable.assign(tf.abs(numbers(5, seed=number)) + 0.5)

    compiled = compile_and_check(lambda u, i: one_score(layer(product(i)) * u[:, :1]), USER, DIM)
    assert rewrites(compiled, PASS[0]) >= 2
    layer.gamma.assign(layer.gamma * 2.0)  # The variables are read when it runs.
    items = numbers(1, 3, DIM)
    assert run(compiled, USER, items) == pytest.approx(
        one_score(layer(product(items)) * USER[0][:, :1]).numpy(), rel=1e-4
    )


def test_shifts_are_added_once():
    compiled = compile_and_check(lambda u, i: one_score(rows_of(i) + u + u * 2.0 + 3.0), USER, DIM, PASS)
    assert rewrites(compiled, PASS[0]) == 2
    assert fewer_operations(compiled) == 2


UNTOUCHED = {
    "a scale that depends on the item": lambda u, i: product(i) * tf.reduce_sum(rows_of(i), 1, keepdims=True),
    "a scale that depends on all items": lambda u, i: product(i) * tf.reduce_mean(i),
    "a scale for each row": lambda u, i: product(i) * tf.range(tf.cast(tf.shape(i)[1], tf.float32))[:, None],
    "the user's scale, repeated": lambda u, i: product(i) * tiled(u, i)[:, :1],
    "no product": lambda u, i: tf.nn.relu(product(i)) * SCALE,
    "weights that depend on the items": lambda u, i: (
        tf.matmul(rows_of(i), tf.reduce_mean(i, [0, 1])[:, None] * 1.0) * tf.reduce_sum(u)
    ),
    "a sum with another row of items": lambda u, i: (product(i) + product(i, True)) * SCALE,
    "a product that is one wide and a scale that is more": lambda u, i: tf.matmul(rows_of(i), W[:, :1]) * SCALE,
    "shifts on either side of a rectifier": lambda u, i: tf.nn.relu(product(i) + BIAS) + SHIFT,
    "a sum that makes it wider": lambda u, i: (tf.matmul(rows_of(i), W[:, :1]) + BIAS) * SCALE,
    "three axes": lambda u, i: tf.matmul(i, W) * SCALE,
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_near_misses_stay(name):
    compiled = compile_and_check(lambda u, i: one_score(UNTOUCHED[name](u, i)), USER, DIM, PASS)
    assert rewrites(compiled, PASS[0]) == 0


def test_a_product_that_is_needed_elsewhere_stays():
    def score(u, items):
        x = product(items)
        return one_score(tf.tanh(x * SCALE)) + one_score(x)

    assert rewrites(compile_and_check(score, USER, DIM, PASS), PASS[0]) == 0


def test_a_sum_that_is_needed_elsewhere_stays():
    def score(u, items):
        x = product(items) + BIAS
        return one_score(tf.tanh(x + SHIFT)) + one_score(x * SCALE)

    assert rewrites(compile_and_check(score, USER, DIM, PASS), PASS[0]) == 0


def test_whole_numbers_are_folded_exactly():
    def score(u, items):
        x = tf.matmul(tf.cast(rows_of(items) * 10.0, tf.int32), tf.cast(W * 10.0, tf.int32)) * 3 + 4 + 5
        return one_score(tf.cast(x, tf.float32))

    assert rewrites(compile_and_check(score, USER, DIM, PASS), PASS[0]) > 0


def test_strings_are_put_one_behind_another_in_their_order():
    """They are added by Add, which no other sum is to be made of."""

    def score(word, items):
        number = tf.as_string(tf.cast(tf.reshape(items[..., 0], [-1, 1]) > 0, tf.int32))
        text = tf.reshape("x" + number + word, [1, -1])
        return tf.cast(tf.strings.length(tf.strings.regex_replace(text, "1.*$", "")), tf.float32)

    compiled = compile_and_check(score, [tf.constant(["ab"])], DIM, PASS)
    assert rewrites(compiled, PASS[0]) == 0
    assert ops_of(compiled)["Add"] == 2
