"""What a scorer may capture, and what happens when it fails."""

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.conftest import Searcher, timeless
from tests.ops.reference import Graph
from tests.ops.searching import any_search

LINE = Graph(np.arange(6) * 10, [0], [[[1], [2], [3], [4], [5], []]])
EMBEDDINGS = np.arange(12, dtype=np.float32).reshape(6, 2)
ROUNDS = {"k": 6, "ef": [6, 6], "rounds": [1, 9]}


@pytest.fixture
def line(tmp_path):
    return Searcher(tmp_path).open(LINE, EMBEDDINGS)


def test_users_of_any_types_and_ranks_reach_the_scorer_one_at_a_time(line):
    """They are passed in order, followed by the items; the second row of int8 and string tensors is not aligned."""
    users = [
        tf.constant([[1.0, 2.0], [3.0, -4.0]]),
        tf.constant([1, 100], tf.int8),
        tf.constant([[["a", "b"]], [["b", "b"]]]),
        tf.constant([[[[2]]], [[[5]]]], tf.int64),
    ]

    def score(vector, shift, words, factor, items):
        assert [part.shape.as_list() for part in (vector, shift, words, factor)] == [
            [1, 2],
            [1],
            [1, 1, 2],
            [1, 1, 1, 1],
        ]
        assert items.shape.as_list() == [1, None, 2]
        same = tf.reduce_sum(tf.cast(words == "b", tf.float32))
        dots = tf.einsum("bd,bnd->bn", vector, items)
        return dots * tf.cast(factor[0, 0], tf.float32) + tf.cast(shift, tf.float32)[:, None] + same

    found = any_search(line.index, users, score, 2, **ROUNDS)
    dots = EMBEDDINGS @ np.array([[1, 2], [3, -4]], np.float32).T
    expected = dots * [2, 5] + [1, 100] + [1, 2]
    order = np.argsort(-expected, axis=0, kind="stable")
    np.testing.assert_array_equal(found.item_ids.numpy(), order.T * 10)
    np.testing.assert_array_equal(found.scores.numpy(), np.take_along_axis(expected, order, 0).T)


def test_a_captured_variable_is_read_at_every_call(line):
    weight = tf.Variable([1.0, 0.0])
    bias = tf.Variable(5.0)

    @tf.function
    def search(user):
        return any_search(
            line.index, [user], lambda user, items: tf.linalg.matvec(items, weight) * user + bias, 2, **ROUNDS
        )

    first = search(tf.ones([1, 1]))
    assert first.scores.numpy().tolist() == [[15, 13, 11, 9, 7, 5]]
    weight.assign([0.0, -1.0])
    bias.assign(0.5)
    second = search(tf.ones([1, 1]))
    assert second.item_ids.numpy().tolist() == [[0, 10, 20, 30, 40, 50]]
    assert second.scores.numpy().tolist() == [[-0.5, -2.5, -4.5, -6.5, -8.5, -10.5]]


def test_a_scorer_may_call_functions_loops_and_conditions(line):
    @tf.function
    def doubled(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x * 2), [0, x])[1]

    def score(user, items):
        return tf.cond(user[0, 0] > 0, lambda: doubled(items[..., 0]), lambda: -doubled(items[..., 0]))

    found = any_search(line.index, [tf.constant([[1.0], [-1.0]])], score, 2, **ROUNDS)
    assert found.item_ids.numpy().tolist() == [[50, 40, 30, 20, 10, 0], [0, 10, 20, 30, 40, 50]]
    assert found.scores.numpy()[0].tolist() == [80, 64, 48, 32, 16, 0]


@pytest.mark.parametrize("bad_user", [0, 1, 7])
def test_a_failing_scorer_fails_the_request_and_not_the_next(line, bad_user):
    """The assertion fails in the third round of one of eight users."""

    def score(user, items):
        limit = tf.debugging.assert_less(items[..., 0] * user, 4.0, "the model met an item that it cannot stand")
        with tf.control_dependencies([limit]):
            return items[..., 0] * 1

    search = tf.function(lambda user: any_search(line.index, [user], score, 2, **ROUNDS))
    users = np.zeros([8, 1], np.float32)
    fine = search(tf.constant(users))
    users[bad_user] = 1
    for _ in range(3):
        with pytest.raises(tf.errors.InvalidArgumentError, match="the model met an item that it cannot stand"):
            search(tf.constant(users))
    after = search(tf.constant(users * 0))
    for part, whole in zip(timeless(after), timeless(fine), strict=True):
        np.testing.assert_array_equal(part, whole)
    assert after.item_ids.numpy()[7].tolist() == [50, 40, 30, 20, 10, 0]


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda user, items: items[..., :1], r"first float \[1,16,1\]; it must return one float32 \[1, 16\]"),
        (lambda user, items: items[0, :, 0], r"first float \[16\]; it must return one float32 \[1, 16\]"),
        (lambda user, items: items[:, 1:, 0], r"first float \[1,15\]; it must return one float32 \[1, 16\]"),
        (lambda user, items: tf.reduce_sum(items), r"first float \[\]; it must return one float32 \[1, 16\]"),
        (lambda user, items: tf.cast(items[..., 0], tf.float16), r"first half \[1,16\]; it must return one float32"),
        (lambda user, items: tf.cast(items[..., 0], tf.float64), r"first double \[1,16\]; it must return one float32"),
        (lambda user, items: tf.cast(items[..., 0], tf.int32), r"first int32 \[1,16\]; it must return one float32"),
        (lambda user, items: tf.as_string(items[..., 0]), r"first string \[1,16\]; it must return one float32"),
        (
            lambda user, items: (items[..., 0], items[..., 1]),
            r"returned 2 tensors.*it must return one float32 \[1, 16\]",
        ),
        (lambda user, items: None, r"returned 0 tensors.*it must return one float32 \[1, 16\]"),
    ],
)
def test_a_scorer_must_return_one_score_an_item(line, score, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        any_search(line.index, [tf.zeros([2, 1])], score, 2, **ROUNDS)


def test_a_scorer_that_expects_another_width_fails_with_tensorflow_s_error(line):
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=r"Matrix size-incompatible|must be equal"):
        any_search(line.index, [tf.zeros([1, 3])], lambda user, items: tf.linalg.matvec(items, user[0]), 2, **ROUNDS)


def test_a_dim_that_is_not_the_index_s_is_refused(line):
    """The scorer was traced for items of width 3, but the index has width 2; reading beyond an embedding is refused."""
    with pytest.raises(tf.errors.InvalidArgumentError):
        any_search(line.index, [tf.zeros([1, 3])], lambda user, items: tf.linalg.matvec(items, user[0]), 3, **ROUNDS)
