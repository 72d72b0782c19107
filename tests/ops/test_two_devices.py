"""Tensors that a scorer sends from one device to another stay with their user.

A function's devices exchange tensors in a rendezvous, by names that are the same in every call. If the calls for all
users shared that of the step, users would get each other's tensors.

First contact, line 11.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.alone import lines_of
from tests.ops.conftest import ITEMS, Searcher, table_score
from tests.ops.reference import Graph, rounds_search
from tests.ops.searching import any_search
from tfserving_ext import ops

N, USERS = 30, 64
K, EF, ROUNDS = 5, [4, 6, 8], [1, 2, 3]


def later(tensor):
    """Returns its input a moment later, so that other users' tensors are sent in the meantime."""

    def wait(values):
        time.sleep(0.0005)
        return values

    return tf.ensure_shape(tf.numpy_function(wait, [tensor], tensor.dtype), tensor.shape)


def elsewhere(user, items):
    """Computes `table_score` on the other device."""
    with tf.device("CPU:0"):
        sent = later(user)
    with tf.device("CPU:1"):
        there = table_score(sent, items)
    with tf.device("CPU:0"):
        return tf.identity(there) + 0 * later(items)[..., 0]


def there_and_back(user):
    with tf.device("CPU:0"):
        sent = later(user)
    with tf.device("CPU:1"):
        there = tf.where(tf.math.is_finite(sent), sent, 0.0)
    with tf.device("CPU:0"):
        return tf.identity(there) + 0 * later(user)


def failing(user, items):
    with tf.control_dependencies([tf.debugging.Assert(user[0, 0] < 9, ["the ninth user is refused"])]):
        return elsewhere(user, items)


def answer(searcher, scorer, users):
    return any_search(
        searcher.index, [tf.convert_to_tensor(users)], scorer, 2, K, EF, ROUNDS, batch_sizes=(4, 8), rewrite=False
    ).item_ids


def search(searcher, scorer, users):
    return answer(searcher, scorer, users).numpy()


def use_two_devices():
    """Makes two logical devices of the one CPU, on which 16 users are searched at once."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.threading.set_inter_op_parallelism_threads(16)


def run() -> None:
    """Searches repeatedly for 64 users."""
    use_two_devices()
    rng = np.random.default_rng(11)
    graph = Graph(rng.permutation(N) + 500, [0, 1, 2], [rng.integers(0, N, [N, 3]).tolist() for _ in range(2)])
    users = rng.normal(size=[USERS, ITEMS]).astype(np.float32)
    expected = [rounds_search(graph, row[:N], K, EF, ROUNDS, []).ids for row in users]
    specs = [tf.TensorSpec([1, ITEMS]), tf.TensorSpec([1, None, 2])]

    def prepared(user, ready, items):
        return table_score(ready, items) + 0 * user[:, :1]

    with tempfile.TemporaryDirectory() as scratch:
        searcher = Searcher(Path(scratch), table_score).open(graph)
        scorers = {
            "here": ops.trace_scorer(table_score, specs[:1], 2),
            "scorer": ops.trace_scorer(elsewhere, specs[:1], 2),
            "prepare": ops.Scorer(
                tf.function(prepared).get_concrete_function(specs[0], *specs),
                [],
                prepare=tf.function(lambda user: there_and_back(user)).get_concrete_function(specs[0]),
            ),
        }
        for name, scorer in scorers.items():
            wrong = sum(search(searcher, scorer, users).tolist() != expected for _ in range(10))
            print(f"{name}: {wrong} of 10 answers are wrong", flush=True)
        # A failing call aborts only its own rendezvous, so that the next request is not affected.
        scorer = ops.trace_scorer(failing, specs[:1], 2)
        bad = users.copy()
        bad[8, 0] = 9
        for _ in range(5):
            try:
                search(searcher, scorer, bad)
                print("answered")
            except tf.errors.InvalidArgumentError as error:
                print("refused:", "the ninth user is refused" in str(error), flush=True)
        print("after:", search(searcher, scorer, np.minimum(users, 8)).tolist() == expected)


@pytest.mark.medium
def test_tensors_between_devices_stay_with_their_user():
    assert lines_of("tests.ops.test_two_devices") == [
        "here: 0 of 10 answers are wrong",
        "scorer: 0 of 10 answers are wrong",
        "prepare: 0 of 10 answers are wrong",
        *["refused: True"] * 5,
        "after: True",
    ]


if __name__ == "__main__":
    run()
