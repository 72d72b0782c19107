"""projection_absorption: a chain of products whose right factors are the same for all items is one product."""

import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, USER, one_score, rows_of, tiled
from tests.passes.scorers import numbers, rewrite_and_check, rewrites, weights

PASS = ["projection_absorption"]
W, WT, K, KT = weights(4, 9), weights(9, 4), weights(9, 2), weights(2, 9)
BIAS, ROW = weights(9, seed=1), weights(1, 9, seed=2)
HISTORY = numbers(1, 2, 4, seed=8)


def costs(rewritten):
    row = next(row for row in rewritten.report if row.name == PASS[0])
    return row.multiply_adds_before, row.multiply_adds_after


CHAINS = {
    "two products": lambda u, i: tf.matmul(tf.matmul(rows_of(i), W), K),
    "a bias": lambda u, i: tf.matmul(tf.nn.bias_add(tf.matmul(rows_of(i), W), BIAS), K),
    "a row on the left": lambda u, i: tf.matmul(ROW + tf.matmul(rows_of(i), W), K),
    "the first transposed": lambda u, i: tf.matmul(tf.matmul(rows_of(i), WT, transpose_b=True) + BIAS, K),
    "the second transposed": lambda u, i: tf.matmul(tf.matmul(rows_of(i), W) + BIAS, KT, transpose_b=True),
    "both transposed": lambda u, i: tf.matmul(tf.matmul(rows_of(i), WT, transpose_b=True) + ROW, KT, transpose_b=True),
    "factors of the user": lambda u, i: tf.matmul(
        tf.matmul(rows_of(i), W * u[0, 0]) + BIAS * u[0, 1], K + tf.reduce_sum(u)
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_one_product(name):
    rewritten = rewrite_and_check(lambda u, i: one_score(CHAINS[name](u, i)), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1
    assert costs(rewritten) == (4 * 9 + 9 * 2, 4 * 2)


def test_a_chain_of_three_is_one_product():
    last = weights(2, 1)

    def score(u, items):
        return one_score(tf.matmul(tf.matmul(tf.matmul(rows_of(items), W) + BIAS, K), last))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert costs(rewritten) == (4 * 9 + 9 * 2 + 2, 4)


def test_the_query_disappears_into_the_keys():
    def score(history, items):
        query = tf.matmul(rows_of(items), W) + BIAS
        keys = tf.matmul(history[0], W) + BIAS
        return one_score(tf.nn.softmax(tf.matmul(query, keys, transpose_b=True)) * [[1.0, 2.0]])

    rewritten = rewrite_and_check(score, [HISTORY], DIM, PASS)
    assert costs(rewritten) == (4 * 9 + 9 * 2, 4 * 2)


UNTOUCHED = {
    "a shift of one number": lambda u, i: tf.matmul(tf.matmul(rows_of(i), W) + 0.3, K),
    "a shift [1]": lambda u, i: tf.matmul(BIAS[:1] + tf.matmul(rows_of(i), W), K),
    "a rectifier between them": lambda u, i: tf.matmul(tf.nn.relu(tf.matmul(rows_of(i), W)), K),
    "a narrow middle, which costs less": lambda u, i: tf.matmul(tf.matmul(rows_of(i), W[:, :1]), KT[:1]),
    "first factor of the items": lambda u, i: tf.matmul(tf.matmul(rows_of(i), tf.reduce_mean(i) * W), K),
    "second factor of the items": lambda u, i: tf.matmul(tf.matmul(rows_of(i), W), tf.reduce_mean(i) * K),
    "a row of the items": lambda u, i: tf.matmul(tf.matmul(rows_of(i), W) + tf.reduce_mean(i) * ROW, K),
    "another row for each": lambda u, i: tf.matmul(tf.matmul(rows_of(i), W) + tf.tile(tiled(u, i), [1, 3])[:, :9], K),
    "the first's left transposed": lambda u, i: tf.matmul(tf.matmul(tf.transpose(rows_of(i)), W, transpose_a=True), K),
    "the second's left transposed": lambda u, i: tf.matmul(
        tf.matmul(WT[:, :4], tf.reshape(i, [4, -1]), transpose_a=False), K, transpose_a=True
    ),
    "a difference": lambda u, i: tf.matmul(ROW - tf.matmul(rows_of(i), W), K),
    "a column that the sum makes as wide as the row": lambda u, i: tf.matmul(
        tf.matmul(rows_of(i), W[:, :1]) + BIAS, K[:, :1]
    ),
    "a reshape that tears rows apart": lambda u, i: tf.reshape(
        tf.matmul(tf.reshape(tf.matmul(rows_of(i), W[:, :8]), [-1, 4]), W[:, :2]), [-1, 4]
    ),
    "no items": lambda u, i: tf.matmul(tf.matmul(u, W), K) + rows_of(i)[:, :1],
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_near_misses_stay(name):
    rewritten = rewrite_and_check(lambda u, i: one_score(UNTOUCHED[name](u, i)), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0


@pytest.mark.parametrize(("width", "wanted"), [(8, 0), (7, 1), (1, 1)])
def test_a_product_that_is_needed_elsewhere_is_not_absorbed_where_that_costs_more(width, wanted):
    """Of 9 inputs by way of 4: 9 * width instead of 9 * 4 + 4 * width, but the 9 * 4 are computed all the same."""
    first, second = weights(9, 4), weights(4, width)

    def score(u, items):
        x = tf.matmul(tf.concat([items, items, items[..., :1]], -1)[0], first)
        return one_score(tf.matmul(x, second)) + one_score(tf.tanh(x))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0

    def alone(u, items):
        x = tf.matmul(tf.concat([items, items, items[..., :1]], -1)[0], first)
        return one_score(tf.matmul(x, second))

    assert rewrites(rewrite_and_check(alone, USER, DIM, PASS), PASS[0]) == wanted


def test_two_products_of_one_projection_both_take_it_in():
    """Each is cheaper from the narrow input than from the wide projection, which nothing needs afterwards."""

    def score(u, items):
        x = tf.matmul(rows_of(items), W) + BIAS
        return one_score(tf.matmul(x, K)) * one_score(tf.matmul(x, KT, transpose_b=True))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 2
    assert costs(rewritten) == (4 * 9 + 2 * 9 * 2, 2 * 4 * 2)


def test_whole_numbers_are_absorbed_exactly():
    def score(u, items):
        x, w, k = (tf.cast(part * 10.0, tf.int32) for part in (rows_of(items), W, K))
        return one_score(tf.cast(tf.matmul(tf.matmul(x, w), k), tf.float32))

    rewrite_and_check(score, USER, DIM, PASS)
