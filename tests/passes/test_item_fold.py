"""item_fold: what the scorer computes of an item alone is computed once, for the index to hold."""

import numpy as np
import pytest
import tensorflow as tf

from tests.passes.patterns import USER, one_score
from tests.passes.scorers import (
    check,
    nodes_of,
    numbers,
    ops_of,
    reason,
    rewrite_and_check,
    rewrites,
    run,
    specs,
    weights,
)
from tfserving_ext.ops import rewrite_scorer, trace_scorer

# Wide enough that a product costs more than the reading of a row.
DIM, WIDE = 32, 64
FIRST, SECOND, USERS, LAST = weights(DIM, WIDE), weights(WIDE, 8), weights(4, 8), weights(8, 1)


def tower(items):
    """Rows of 8, at some cost."""
    return tf.matmul(tf.nn.relu(tf.matmul(items, FIRST)), SECOND)


def folded(score, user=USER, passes=()):
    rewritten = rewrite_and_check(score, user, DIM, passes, fold_items=True)
    assert rewrites(rewritten, "item_fold") == 1
    assert reason(rewritten, "item_fold") == ""
    return rewritten


def refused(score, user=USER):
    rewritten = rewrite_and_check(score, user, DIM, fold_items=True)
    assert rewrites(rewritten, "item_fold") == 0
    assert rewritten.fold is None
    assert rewritten.row_dim == DIM
    assert len(rewritten.graphs["fold"].node) == 0
    return reason(rewritten, "item_fold")


def two_towers(u, items):
    return one_score(tf.nn.sigmoid(tower(items) + tf.matmul(u, USERS)))


@pytest.mark.parametrize("passes", [["item_fold"], ["item_fold", "user_hoist"], []])
def test_a_single_tensor_is_the_row(passes):
    rewritten = folded(two_towers, passes=passes)
    assert rewritten.row_dim == 8
    items = numbers(1, 7, DIM)
    np.testing.assert_allclose(rewritten.fold(items), tower(items), rtol=1e-4, atol=1e-4)


def test_the_scorer_needs_no_more_of_an_item_than_its_row():
    rewritten = folded(two_towers)
    (rows,) = [node for node in nodes_of(rewritten, "_Arg") if node.attr["index"].i == len(USER) + 1]
    assert [node for node in rewritten.graphs["score"].node if rows.name in node.input]
    assert ops_of(rewritten, "fold")["Relu"] == 1
    assert ops_of(rewritten)["Relu"] == 0


def test_without_being_asked_nothing_is_folded():
    rewritten = rewrite_and_check(two_towers, USER, DIM)
    assert rewritten.fold is None
    assert "item_fold" not in {row.name for row in rewritten.report}


def test_scores_that_depend_on_the_item_alone_are_the_rows():
    rewritten = folded(lambda u, i: one_score(tower(i)))
    assert rewritten.row_dim == 1


def test_items_raw_beside_what_is_folded():
    """The row holds both: 8 of the tower, 32 of the item."""

    def score(u, items):
        return two_towers(u, items) + one_score(tf.nn.relu(items + u[:, :1]))

    rewritten = folded(score)
    assert rewritten.row_dim == 8 + DIM
    items = numbers(1, 5, DIM)
    rows = rewritten.fold(items).numpy()
    parts = np.split(rows, [8], -1), np.split(rows, [DIM], -1)
    assert any(np.array_equal(part, items) for pair in parts for part in pair)


def test_several_tensors_stand_side_by_side():
    heads = [weights(DIM, WIDE, seed=seed) for seed in range(3)]

    def score(u, items):
        parts = [tf.nn.relu(tf.matmul(items, head))[..., : seed + 1] for seed, head in enumerate(heads)]
        return tf.add_n([one_score(tf.tanh(part * u[0, seed])) for seed, part in enumerate(parts)])

    assert folded(score, passes=["item_fold"]).row_dim == 6


def test_a_tensor_of_more_axes_is_a_row_as_well():
    def score(u, items):
        heads = tf.reshape(tower(items), [-1, 2, 4])
        return tf.reshape(tf.reduce_sum(tf.nn.relu(heads * tf.reshape(u, [1, 1, 4])), [1, 2]), [1, -1])

    assert folded(score).row_dim == 8


def test_a_row_does_not_depend_on_the_others():
    rewritten = folded(lambda u, i: two_towers(u, i) + one_score(tf.tanh(i * u[:, :1])))
    items = numbers(1, 16, DIM)
    together = rewritten.fold(items).numpy()
    for number in range(16):
        alone = rewritten.fold(items[:, number : number + 1]).numpy()
        np.testing.assert_allclose(together[:, number], alone[:, 0], rtol=1e-5, atol=1e-5)


SHAPES = {
    "of the items": lambda u, i: tf.tile(u[:, None], [1, tf.shape(i)[1], 1]),
    "of the items' rows": lambda u, i: tf.tile(u, [tf.shape(tf.reshape(i, [-1, DIM]))[0], 1]),
    "of what is computed": lambda u, i: tf.broadcast_to(u[:, None], tf.shape(tower(i)[..., :4])),
    "of a slice": lambda u, i: tf.ones(tf.shape(i)[:2])[..., None] * u,
    "ones": lambda u, i: tf.ones_like(i[..., :1]) * u,
    "zeros of the tower": lambda u, i: tf.zeros_like(tower(i)[..., :4]) + u,
    "in 64 bits": lambda u, i: tf.tile(u[:, None], [1, tf.shape(i, out_type=tf.int64)[1], 1]),
    "the number of elements": lambda u, i: tf.tile(u, [tf.size(i) // DIM, 1]),
}


@pytest.mark.parametrize("passes", [["item_fold"], []], ids=["alone", "all"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_number_of_items_is_asked_for(name, passes):
    """The rows are narrower than the items were, and as many."""

    def score(u, items):
        x = tf.nn.relu(tower(items) + tf.matmul(tf.reshape(SHAPES[name](u, items), [-1, 4]), USERS))
        return tf.reshape(tf.matmul(tf.reshape(x, [-1, 8]), LAST), [1, tf.shape(items)[1]])

    rewrite_and_check(score, USER, DIM, passes, fold_items=True)


def test_the_shape_of_what_is_folded_is_that_of_the_rows():
    """The width as well, which is asked for here, is that of the items and not of the rows."""

    def score(u, items):
        wide = tf.cast(tf.shape(items)[2], tf.float32)
        return two_towers(u, items) * wide + tf.cast(tf.shape(items)[1], tf.float32) * tf.reduce_sum(u)

    rewritten = folded(score)
    assert rewritten.row_dim == 8


def test_refused_where_nothing_is_computed_of_the_item_alone():
    assert "nothing is computed of the items alone" in refused(lambda u, i: one_score(tf.nn.relu(i * u[:, :1])))


def test_refused_where_rows_get_wider_than_they_save():
    """Four times as wide for a multiplication."""

    def score(u, items):
        return one_score(tf.nn.relu(tf.concat([tf.exp(items), tf.tanh(items), -items, items], -1) * u[:, :1]))

    assert f"rows of {16 * DIM} bytes instead of {4 * DIM} take about" in refused(score)


def test_the_same_is_folded_where_it_saves_more():
    def score(u, items):
        return one_score(tf.nn.relu(tf.concat([items, items, tf.matmul(items, wide) * 0.1], -1) * u[:, :1]))

    wide = weights(DIM, DIM)
    assert "take about" in refused(score)
    folded(lambda u, i: two_towers(u, i) + two_towers(u + 1.0, i))


@pytest.mark.parametrize(
    "part",
    [
        lambda i: tf.cast(tf.matmul(i, FIRST) > 0, tf.int32),
        lambda i: tf.cast(tf.matmul(i, FIRST), tf.float64),
    ],
    ids=["whole numbers", "twice as precise"],
)
def test_refused_where_it_is_no_float32(part):
    why = refused(lambda u, i: one_score(tf.nn.relu(tf.cast(tf.cast(u[:, :1], part(i).dtype) * part(i), tf.float32))))
    assert "depends on the items alone and is no float32 row of each" in why


MIXED = {
    "transposed": lambda u, i: one_score(
        tf.transpose(tf.nn.relu(tf.transpose(tf.matmul(i, FIRST), [2, 0, 1]) * u[0, 0]), [1, 2, 0])
    ),
    "the mean of all items": lambda u, i: one_score(tf.nn.relu(i - tf.reduce_mean(tf.matmul(i, FIRST)) * u[0, 0])),
    "items with items": lambda u, i: tf.linalg.diag_part(
        tf.nn.sigmoid(tf.matmul(tf.matmul(i, FIRST[:, :DIM]), i, transpose_b=True) * u[0, 0])
    ),
    "one more than items": lambda u, i: one_score(
        tf.nn.relu(tf.matmul(tf.pad(i, [[0, 0], [1, 0], [0, 0]]), FIRST) * u[0, 0])[:, 1:]
    ),
    "twice the items": lambda u, i: one_score(
        tf.nn.relu(tf.matmul(tf.concat([i, -i], 1), FIRST) * u[0, 0])[:, : tf.shape(i)[1]]
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_refused_where_it_is_no_row_of_an_item(name):
    assert "depends on the items alone and is no" in refused(MIXED[name])


def test_assertions_on_what_is_folded_still_fire():
    def score(u, items):
        x = tower(items)
        tf.debugging.assert_less(x, 1e6, "the tower is too high")
        return one_score(tf.nn.relu(x * u[:, :1]))

    rewritten = rewrite_and_check(score, USER, DIM, fold_items=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="the tower is too high"):
        run(rewritten, USER, numbers(1, 3, DIM) * 1e7)


def test_random_numbers_are_drawn_at_every_call():
    def score(u, items):
        return one_score(tf.nn.relu(tower(items) * tf.random.uniform([1, 1, 8]) * u[:, :1]))

    rewritten = rewrite_scorer(trace_scorer(score, specs(USER), DIM), specs(USER), DIM, True)
    assert rewrites(rewritten, "item_fold") == 1
    assert ops_of(rewritten, "fold")["RandomUniform"] == 0
    assert ops_of(rewritten)["RandomUniform"] == 1


def test_a_folded_scorer_is_folded_no_further():
    rewritten = folded(two_towers, passes=["item_fold"])
    again = rewrite_scorer(rewritten.scorer, specs(USER), rewritten.row_dim, True)
    assert "nothing is computed of the items alone" in reason(again, "item_fold")


def test_biases_join_the_item_s_side():
    """Add(Add(user, items), bias): what is the same for all users is in the rows."""
    bias = weights(8, seed=5)

    def score(u, items):
        x = tf.reshape(tower(items), [-1, 8])
        return one_score(tf.nn.relu(tf.matmul(u, USERS) + x + bias))

    rewritten = folded(score, passes=["item_fold"])
    items = numbers(1, 3, DIM)
    np.testing.assert_allclose(rewritten.fold(items), tower(items) + bias, rtol=1e-4, atol=1e-4)
    check(rewritten, score, USER, DIM)


UNKNOWN_SIDES = {
    "a row": lambda h: tf.reshape(tf.reduce_mean(h, 1), [tf.shape(h)[1] * 0 + 1, 4]),
    "of any rank": lambda h: tf.reshape(tf.reduce_mean(h, 1), tf.repeat([1, 4], [tf.shape(h)[1] * 0 + 1, 1])),
    "of rows that are chosen": lambda h: tf.reduce_mean(tf.boolean_mask(h, tf.ones(tf.shape(h)[:2]) > 0), 0),
}


@pytest.mark.parametrize("passes", [["item_fold"], []], ids=["alone", "all"])
@pytest.mark.parametrize("name", UNKNOWN_SIDES)
def test_a_bias_beside_what_has_no_known_shape(name, passes):
    """First contact, line 12: a user's side whose shape is not known killed the process."""
    bias = weights(8, seed=5)

    def score(history, items):
        side = UNKNOWN_SIDES[name](history)
        x = tf.reshape(tower(items), [-1, 8])
        return one_score(tf.nn.relu(tf.concat([side, side], -1) * 0.5 + x + bias))

    history = [tf.TensorSpec([1, None, 4])]
    rewritten = rewrite_scorer(trace_scorer(score, history, DIM), history, DIM, True, passes)
    assert [row.reason for row in rewritten.report if row.reason] == []
    assert rewrites(rewritten, "item_fold") == 1
    for length in (1, 3):
        check(rewritten, score, [numbers(1, length, 4)], DIM)
