"""flatten_rows: what depends on the items is a matrix with a row an item."""

import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, USER, one_score
from tests.passes.scorers import numbers, ops_of, rewrite_and_check, rewrites, weights

PASS = ["flatten_rows"]
W, STACK, BIAS = weights(4, 5), weights(1, 4, 5), weights(5)
HISTORY = numbers(1, 3, 4, seed=8)


def test_a_chain_of_layers_has_one_reshape_at_either_end():
    def score(u, items):
        x = tf.nn.bias_add(tf.matmul(items, W), BIAS)
        x = tf.nn.relu(tf.concat([x, tf.tanh(x)], -1)) * u[:, :1]
        return one_score(tf.nn.softmax(x))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert ops_of(rewritten)["BatchMatMulV2"] == 0
    assert ops_of(rewritten)["Reshape"] == 2


def test_attention_over_the_behaviours_is_of_matrices():
    def score(u, history, items):
        weights = tf.nn.softmax(tf.matmul(items, history, transpose_b=True) * 0.5)
        return one_score(tf.matmul(weights, history))

    rewritten = rewrite_and_check(score, [*USER, HISTORY], DIM, PASS)
    assert ops_of(rewritten)["BatchMatMulV2"] == 0
    assert ops_of(rewritten)["MatMul"] == 2


def test_reshapes_back_to_what_it_was_are_none():
    def score(u, items):
        x = tf.squeeze(tf.expand_dims(tf.reshape(items, [-1, 2, 2]), 0), 0)
        return one_score(tf.reshape(tf.reshape(x, [-1, 4, 1]), tf.shape(items)) * u)

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert not {"ExpandDims", "Squeeze"} & set(ops_of(rewritten))
    assert ops_of(rewritten)["Reshape"] == 0


PRODUCTS = {
    "tensordot, as Keras writes a Dense": lambda i, h: tf.tensordot(i, W, 1),
    "einsum by weights": lambda i, h: tf.einsum("bnd,dh->bnh", i, W),
    "einsum by transposed weights": lambda i, h: tf.einsum("bnd,hd->bnh", i, tf.transpose(W)),
    "einsum by the behaviours": lambda i, h: tf.einsum("bnd,bld->bnl", i, h),
    "einsum by the behaviours' values": lambda i, h: tf.einsum(
        "bnl,bld->bnd", tf.einsum("bnd,bld->bnl", i, h), tf.concat([h, h], -1)
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_of_three_dimensions_are_of_matrices(name):
    rewritten = rewrite_and_check(
        lambda u, history, items: one_score(PRODUCTS[name](items, history) * u[:, :1]), [*USER, HISTORY], DIM, PASS
    )
    assert not {"Einsum", "BatchMatMulV2", "GatherV2"} & set(ops_of(rewritten))
    assert ops_of(rewritten)["Transpose"] == ("transposed" in name)  # Of the weights alone.
    assert ops_of(rewritten)["MatMul"] == (2 if "values" in name else 1)
    row = rewritten.report[0]
    assert row.multiply_adds_before == row.multiply_adds_after > 0


EINSUMS = {
    "rows in another order": lambda u, i: tf.einsum("bnd,dh->bhn", i, W)[:, 0],
    "nothing summed": lambda u, i: tf.reduce_sum(tf.einsum("bnd,h->bndh", i, W[0]), [2, 3]),
    "two axes summed": lambda u, i: tf.einsum("bnd,bd->bn", i, u),
    "both of the items": lambda u, i: tf.reduce_sum(tf.einsum("bnd,bmd->bnm", i, i[:, :1]), -1),
    "heads": lambda u, i: tf.reduce_sum(tf.einsum("bnd,dhk->bnhk", i, numbers(4, 2, 3)), [2, 3]),
    "a trace": lambda u, i: tf.reduce_sum(tf.einsum("bnd,dd->bnd", i, numbers(4, 4)), -1),
}


@pytest.mark.parametrize("name", EINSUMS)
def test_other_einsums_stay(name):
    rewritten = rewrite_and_check(lambda u, i: EINSUMS[name](u, i) + u[:, :1], USER, DIM, PASS)
    assert ops_of(rewritten)["Einsum"] == 1


UNTOUCHED = {
    "both sides depend on the items": lambda u, i: tf.matmul(i, i, transpose_b=True)[:, :, 0] + u[:, :1],
    "weights that depend on the items": lambda u, i: tf.squeeze(tf.matmul(i, tf.reduce_mean(i, 1)[..., None]), -1),
    "several matrices": lambda u, i: tf.reduce_sum(tf.matmul(i, numbers(2, 4, 5)), [0, 2])[None],
    "the left transposed": lambda u, i: tf.reduce_sum(
        tf.matmul(tf.transpose(i, [0, 2, 1]), numbers(1, 4, 5), transpose_a=True), -1
    ),
    "several matrices of the user": lambda u, i: tf.reduce_sum(tf.matmul(i, u[..., None] * numbers(3, 4, 2)), [0, 2])[
        None
    ],
    "items on the right": lambda u, i: tf.squeeze(tf.matmul(u[:, None], i, transpose_b=True), 1),
    "int16": lambda u, i: tf.reduce_sum(
        tf.cast(
            tf.raw_ops.BatchMatMulV2(x=tf.cast(i * 9.0, tf.int16), y=tf.cast(u[0] * 9.0, tf.int16)[None, :, None]),
            tf.float32,
        ),
        -1,
    ),
    "complex numbers, which adj_y conjugates": lambda u, i: tf.reduce_sum(
        tf.math.real(tf.matmul(tf.complex(i, i), tf.complex(u, 2 * u)[None], adjoint_b=True)), -1
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_a_product_of_another_kind_stays(name):
    rewritten = rewrite_and_check(UNTOUCHED[name], USER, DIM, PASS)
    assert ops_of(rewritten)["MatMul"] == 0
    assert ops_of(rewritten)["BatchMatMulV2"] == 1


def test_whole_numbers_are_flattened_too():
    def score(u, items):
        x = tf.matmul(tf.cast(items * 100.0, tf.int32), tf.cast(u[..., None] * 100.0, tf.int32))
        return tf.cast(x[..., 0], tf.float32)

    assert ops_of(rewrite_and_check(score, USER, DIM, PASS))["MatMul"] == 1


OF_OTHER_COUNTS = {
    "a row more than items": lambda u, i: one_score(tf.nn.relu(tf.matmul(tf.concat([u[:, None], i], 1), W))[:, 1:]),
    "a row more that is the model's": lambda u, i: one_score(tf.matmul(tf.pad(i, [[0, 0], [1, 0], [0, 0]]), W)[:, 1:]),
    "every second item": lambda u, i: one_score(
        tf.repeat(tf.nn.relu(tf.matmul(i[:, ::2], W)), 2, 1)[:, : tf.shape(i)[1]]
    ),
    "one item less": lambda u, i: tf.pad(one_score(tf.nn.relu(tf.matmul(i[:, 1:], STACK))), [[0, 0], [1, 0]]),
    "pairs of items": lambda u, i: one_score(tf.nn.relu(tf.matmul(i[0][:, None] - i[0][None], W)))[
        :, :: tf.shape(i)[1]
    ],
    "pairs and tiles": lambda u, i: tf.reduce_sum(
        tf.matmul(
            tf.nn.relu(tf.matmul(i[0][:, None] - i[0][None], W[:, :4]))
            + tf.tile(u[:, None], [tf.shape(i)[1], tf.shape(i)[1], 1]),
            W,
        ),
        [1, 2],
    )[None],
}


@pytest.mark.slow
@pytest.mark.parametrize("passes", [PASS, []], ids=["one", "all"])
@pytest.mark.parametrize("name", OF_OTHER_COUNTS)
def test_rows_that_are_no_multiple_of_the_items_are_right(name, passes):
    """How many rows there are is known of one number of items only: no constant shape may say it."""

    def score(u, items):
        padded = tf.concat([items, tf.zeros([1, 1, DIM])], 1)  # Whatever is alone has a neighbour.
        return OF_OTHER_COUNTS[name](u, padded)[:, :-1]

    for fold_items in (False, True):
        rewrite_and_check(score, USER, DIM, passes, fold_items)
        rewrite_and_check(OF_OTHER_COUNTS[name], USER, DIM, passes, fold_items)


def test_a_concat_on_another_axis_stays():
    def score(u, items):
        x = tf.concat([tf.matmul(items, STACK), tf.matmul(items, STACK) * u[:, None, :1]], 1)
        return one_score(x[:, : tf.shape(items)[1]])

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    (concat,) = [node for node in rewritten.graphs["score"].node if node.op == "ConcatV2"]
    assert not concat.name.startswith("nann_")


def test_what_does_not_depend_on_the_items_stays():
    def score(u, items):
        return one_score(items) + tf.reduce_sum(tf.matmul(tf.reshape(u, [1, 1, 4]), STACK))

    rewritten = rewrite_and_check(score, USER, DIM, PASS)
    assert ops_of(rewritten)["BatchMatMulV2"] == 1
    assert rewrites(rewritten, PASS[0]) == 1  # The reshape at the end.


def test_what_scales_and_shifts_a_product_s_input_is_of_matrices():
    def score(u, items):
        x = tf.concat([tf.tile(u[:, None], [1, tf.shape(items)[1], 1]), items], -1)
        x = x * numbers(2 * DIM) + numbers(1, 2 * DIM)
        return one_score(tf.tensordot(x, numbers(2 * DIM, 3), 1))

    rewritten = rewrite_and_check(score, USER, DIM, [*PASS, "concat_matmul_split", "batch_norm_folding"])
    assert not {"Tile", "ConcatV2", "BroadcastTo"} & set(ops_of(rewritten))
    assert rewritten.report[-1].multiply_adds_after == 3 * DIM


def test_fields_side_by_side_are_rows():
    def score(u, items):
        fields = tf.reshape(items, [1, -1, 2, DIM // 2])
        of_user = tf.tile(tf.reshape(u, [1, 1, 2, DIM // 2]), [1, tf.shape(items)[1], 1, 1])
        x = tf.reshape(tf.concat([of_user, fields], 2), [1, -1, 2 * DIM])
        return one_score(tf.tensordot(x, numbers(2 * DIM, 3), 1))

    rewritten = rewrite_and_check(score, USER, DIM, [*PASS, "concat_matmul_split"])
    assert not {"Tile", "ConcatV2", "BroadcastTo"} & set(ops_of(rewritten))
    assert rewritten.report[-1].multiply_adds_after == 3 * DIM


def test_fields_in_turns_stay():
    def score(u, items):
        fields = tf.reshape(items, [1, -1, 2, DIM // 2])
        x = tf.reshape(tf.concat([fields, fields * u[0, 0]], 3), [1, -1, 2 * DIM])
        return one_score(tf.tensordot(x, numbers(2 * DIM, 3), 1))

    assert ops_of(rewrite_and_check(score, USER, DIM, PASS))["ConcatV2"] == 1
