"""packed_gemm: many small products are one."""

import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, USER, rows_of
from tests.passes.scorers import ops_of, rewrite_and_check, rewrites, weights

PASS = ["packed_gemm"]
A, B, AT, BT = weights(2, 3), weights(2, 3, seed=1), weights(3, 2), weights(3, 2, seed=1)
ROW = weights(3, seed=5)


def halves(items):
    """Two views of each item, [n, 2] each."""
    return tf.unstack(tf.transpose(tf.reshape(items, [-1, 2, 2]), [1, 0, 2]))


def over_parts(parts):
    """One score of [2, n, c]."""
    return tf.reduce_sum(parts, [0, 2])[None]


PACKED = {
    "products": lambda u, i: [tf.matmul(x, w) for x, w in zip(halves(i), (A, B), strict=True)],
    "weights transposed": lambda u, i: [
        tf.matmul(x, w, transpose_b=True) for x, w in zip(halves(i), (AT, BT), strict=True)
    ],
    "of the user": lambda u, i: [tf.matmul(x, w * u[0, 0]) for x, w in zip(halves(i), (A, B), strict=True)],
    "rectified": lambda u, i: [tf.nn.relu(tf.matmul(x, w)) for x, w in zip(halves(i), (A, B), strict=True)],
    "transposed": lambda u, i: [
        tf.matmul(tf.transpose(tf.transpose(x)), w) for x, w in zip(halves(i), (A, B), strict=True)
    ],
}


@pytest.mark.parametrize("name", PACKED)
def test_products_of_parts_are_one_batched_product(name):
    rewritten = rewrite_and_check(lambda u, i: over_parts(tf.stack(PACKED[name](u, i))), USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1
    ops = ops_of(rewritten)
    assert (ops["BatchMatMulV2"], ops["MatMul"], ops["Unpack"]) == (1, 0, 0)


def _products(parts, factors=(A, B)):
    return [tf.matmul(x, w) for x, w in zip(parts, factors, strict=True)]


# Of the halves x, which are one tensor's parts in order, and the items.
UNTOUCHED = {
    "packed along another axis": lambda x, i: tf.reduce_sum(tf.stack(_products(x), 1) * [[[1.0], [3.0]]], [1, 2])[None],
    "packed along the last axis": lambda x, i: tf.reduce_sum(tf.stack(_products(x), -1) * [1.0, 3.0], [1, 2])[None],
    "unpacked along another axis": lambda x, i: over_parts(
        tf.stack(_products(tf.unstack(tf.reshape(i, [-1, 2, 2]), axis=1)))
    ),
    "in another order": lambda x, i: over_parts(tf.stack(_products(x[::-1])) * [[[1.0]], [[3.0]]]),
    "one of them twice": lambda x, i: over_parts(tf.stack(_products([x[0], x[0]]))),
    "not all of them": lambda x, i: over_parts(tf.stack(_products(tf.unstack(tf.stack([*x, x[0] * 2.0]))[:2]))),
    "different operations": lambda x, i: over_parts(tf.stack([tf.nn.relu(_products(x)[0]), tf.tanh(_products(x)[1])])),
    "one transposed": lambda x, i: over_parts(tf.stack([tf.matmul(x[0], A), tf.matmul(x[1], BT, transpose_b=True)])),
    "a row that would be broadcast along the new axis": lambda x, i: over_parts(
        tf.stack([product + ROW for product in _products(x)])
    ),
    "no product": lambda x, i: over_parts(tf.stack([tf.nn.relu(part) for part in x])),
    "needed elsewhere": lambda x, i: (lambda parts: over_parts(tf.stack(parts)) + tf.reduce_sum(parts[0], 1)[None])(
        _products(x)
    ),
    "weights of another shape": lambda x, i: over_parts(
        tf.stack([tf.matmul(x[0], A), tf.matmul(tf.concat([x[1], x[1]], 1), tf.concat([B, B], 0))])
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_near_misses_stay(name):
    """First contact, line 27: what a pass must not take for its pattern."""
    rewritten = rewrite_and_check(lambda u, i: UNTOUCHED[name](halves(i), i) * u[:, :1], USER, DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0


DEEP = 32
NARROW = [weights(DEEP, 4, seed=seed) for seed in range(3)]
NARROW_T = weights(4, DEEP)


def columns(*products):
    return tf.reduce_sum(tf.concat(products, 1) * tf.range(1.0, sum(x.shape[1] for x in products) + 1.0), 1)[None]


def test_narrow_products_of_one_input_are_one():
    widths = [NARROW[0], NARROW[1][:, :1], NARROW[2]]
    rewritten = rewrite_and_check(
        lambda u, i: (lambda x: columns(*(tf.matmul(x, w) for w in widths)))(rows_of(i)), USER, DEEP, PASS
    )
    assert rewrites(rewritten, PASS[0]) == 1
    assert ops_of(rewritten)["MatMul"] == 1


APART = {
    "a single one": lambda x: columns(x @ NARROW[0]),
    "of two inputs": lambda x: columns(x @ NARROW[0], tf.tanh(x) @ NARROW[1]),
    "wide ones": lambda x: (lambda wide: columns(*(wide @ tf.tile(weight, [3, 3])[:, :9] for weight in NARROW)))(
        tf.tile(x, [1, 3])
    ),
    "shallow ones": lambda x: (lambda some: columns(*(some @ weight[:31] for weight in NARROW)))(x[:, :31]),
    "weights transposed": lambda x: columns(
        *(tf.matmul(x, factor * NARROW_T, transpose_b=True) for factor in (1.0, 2.0))
    ),
    "weights of the items": lambda x: columns(*(x @ (tf.reduce_mean(x) * weight) for weight in NARROW)),
}


@pytest.mark.parametrize("name", APART)
def test_products_that_stay_apart(name):
    rewritten = rewrite_and_check(lambda u, i: APART[name](rows_of(i)) * u[:, :1], USER, DEEP, PASS)
    assert rewrites(rewritten, PASS[0]) == 0
