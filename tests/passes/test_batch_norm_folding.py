"""batch_norm_folding: what scales and shifts a product's columns alike belongs to its weights."""

import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, USER, one_score, rows_of, tiled
from tests.passes.scorers import nodes_of, numbers, ops_of, rewrite_and_check, rewrites, run, weights

PASS = ["batch_norm_folding"]
W, WT, SCALE, SHIFT, BIAS = weights(4, 5), weights(5, 4), weights(5, seed=1), weights(1, 5, seed=2), weights(5, seed=3)


def fewer_operations(rewritten):
    """How many operations on all items there are less."""
    runs = [row for row in rewritten.report if row.name == PASS[0]]
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
    "the user's scale": lambda u, i: product(i * u[:, None]) * tf.tanh(tf.concat([u, u[:, :1]], 1)),
    "the user's factor": lambda u, i: product(i * u[:, None], True) * u[:, :1],
    "a scale behind a shift of one number": lambda u, i: (product(i) + 0.3) * SCALE,
    "a factor behind a shift [1]": lambda u, i: (SHIFT[0, :1] + product(i, True)) * 0.5,
}


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_joins_the_weights(name):
    rewritten = rewrite_and_check(lambda u, i: one_score(SCALED[name](u, i)), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1
    assert fewer_operations(rewritten) == 1


def test_a_users_scale_stays_behind_a_product_of_the_item_alone():
    """item_fold takes the product away whole."""
    for scaled in (lambda u, i: product(i) * tf.concat([u, u[:, :1]], 1), lambda u, i: product(i, True) * u[:, :1]):
        rewritten = rewrite_and_check(lambda u, i, scaled=scaled: one_score(scaled(u, i)), USER, DIM, PASS)
        assert rewrites(rewritten, PASS[0]) == 0


INPUTS = {
    "a scale": lambda u, x: x * SCALE[:4],
    "a factor": lambda u, x: 0.5 * x,
    "the user's scale": lambda u, x: x * u,
    "a shift": lambda u, x: x + SHIFT[:, :4],
    "the user's shift": lambda u, x: u + x,
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_what_scales_and_shifts_an_input_moves_behind_it(name, transposed):
    square = weights(4, 4)

    def score(u, items):
        x = tf.tanh(rows_of(items) * u)
        return one_score(tf.matmul(INPUTS[name](u, x), square, transpose_b=transposed))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1
    assert fewer_operations(rewritten) == ("scale" in name or "factor" in name)


WIDE, SQUARE = weights(4, 6), weights(4, 4)
STAYING_INPUTS = {
    "a shift of one number": lambda u, x: tf.matmul(x + 0.3, SQUARE),
    "a shift [1]": lambda u, x: tf.matmul(SHIFT[0, :1] + x, SQUARE),
    "a shift [1, 1] of the user": lambda u, x: tf.matmul(x + u[:, :1], SQUARE, transpose_b=True),
    "a shift that would be wider": lambda u, x: tf.matmul(x + u, WIDE),
    "a scale of each item": lambda u, x: tf.matmul(x * x, SQUARE),
    "a scaled input that is needed elsewhere": lambda u, x: (lambda y: tf.matmul(y, SQUARE) + y)(x * u),
    "weights of the items": lambda u, x: tf.matmul(x * u, SQUARE * tf.reduce_mean(x)),
}


@pytest.mark.parametrize("name", STAYING_INPUTS)
def test_inputs_that_stay(name):
    def score(u, items):
        return one_score(STAYING_INPUTS[name](u, tf.tanh(rows_of(items) - u)))

    assert rewrites(rewrite_and_check(score, USER, DIM, PASS), PASS[0]) == 0


def test_the_left_transposed():
    def score(u, items):
        return one_score(tf.matmul(tf.transpose(rows_of(items)), W, transpose_a=True) * SCALE)

    assert rewrites(rewrite_and_check(score, USER, DIM, PASS), PASS[0]) == 1


def test_batch_norm_is_one_sum():
    """Product, bias, mean, scale, shift: a product and a sum are left."""

    def score(u, items):
        x = tf.nn.bias_add(product(items), BIAS) + SHIFT
        return one_score(x * tf.math.rsqrt(tf.square(SCALE) + 1.0) + BIAS)

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert fewer_operations(rewritten) == 3
    (_,) = nodes_of(rewritten, "MatMul")


def test_keras_batch_norm_is_folded():
    layer = tf.keras.layers.BatchNormalization(axis=-1)
    layer.build([None, 5])
    for number, variable in enumerate(layer.weights):
        variable.assign(tf.abs(numbers(5, seed=number)) + 0.5)

    rewritten = rewrite_and_check(lambda u, i: one_score(layer(product(i)) * u[:, :1]), USER, DIM)
    assert rewrites(rewritten, PASS[0]) >= 1
    layer.gamma.assign(layer.gamma * 2.0)  # The variables are read when it runs.
    items = numbers(1, 3, DIM)
    assert run(rewritten, USER, items) == pytest.approx(
        one_score(layer(product(items)) * USER[0][:, :1]).numpy(), rel=1e-4
    )


def test_shifts_are_added_once():
    rewritten = rewrite_and_check(lambda u, i: one_score(rows_of(i) + u + u * 2.0 + 3.0), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 2
    assert fewer_operations(rewritten) == 2


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
    rewritten = rewrite_and_check(lambda u, i: one_score(UNTOUCHED[name](u, i)), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0


def test_a_product_that_is_needed_elsewhere_stays():
    def score(u, items):
        x = product(items)
        return one_score(tf.tanh(x * SCALE)) + one_score(x)

    assert rewrites(rewrite_and_check(score, USER, DIM, PASS), PASS[0]) == 0


def test_a_sum_that_is_needed_elsewhere_stays():
    def score(u, items):
        x = product(items) + BIAS
        return one_score(tf.tanh(x + SHIFT)) + one_score(x * SCALE)

    assert rewrites(rewrite_and_check(score, USER, DIM, PASS), PASS[0]) == 0


def test_whole_numbers_are_folded_exactly():
    def score(u, items):
        x = tf.matmul(tf.cast(rows_of(items) * 10.0, tf.int32), tf.cast(W * 10.0, tf.int32)) * 3 + 4 + 5
        return one_score(tf.cast(x, tf.float32))

    assert rewrites(rewrite_and_check(score, USER, DIM, PASS), PASS[0]) > 0


def test_strings_are_put_one_behind_another_in_their_order():
    """They are added by Add, which no other sum is to be made of."""

    def score(word, items):
        number = tf.as_string(tf.cast(tf.reshape(items[..., 0], [-1, 1]) > 0, tf.int32))
        text = tf.reshape("x" + number + word, [1, -1])
        return tf.cast(tf.strings.length(tf.strings.regex_replace(text, "1.*$", "")), tf.float32)

    rewritten = rewrite_and_check(score, [tf.constant(["ab"])], DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0
    assert ops_of(rewritten)["Add"] == 2
