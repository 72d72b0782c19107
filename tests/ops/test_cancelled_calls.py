"""A call of the scorer may end while its request is cancelled: no memory is used after it was freed.

A function that waits for a tensor of another device leaves a callback with the request. Cancelling calls these back one
after another, and meanwhile another user's tensor may arrive and its call end.
"""

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import cancellation

from tests.ops.alone import lines_of
from tests.ops.conftest import ITEMS, Searcher, table_score
from tests.ops.test_batches import random_graph
from tests.ops.test_two_devices import answer, search, use_two_devices
from tfserving_ext import ops

USERS = 32
# The first number of a user says how long its tensors take; that of the ninth user is refused.
QUICK, SLOW, REFUSED = 0, 1, 9
SECONDS = {QUICK: 0.0003, REFUSED: 0.004, SLOW: 0.03}
# A slow user waits for this many tensors at once, so that calling back takes as long as many calls of the quick users.
TENSORS = 100


def later(user):
    def wait(user):
        time.sleep(SECONDS[int(user[0, 0])])
        return user

    return tf.ensure_shape(tf.numpy_function(wait, [user], tf.float32), [1, ITEMS])


def from_elsewhere(user, items):
    with tf.device("CPU:1"):
        tensors = tf.unstack(tf.tile(later(user)[0, :1], [TENSORS]))
    with tf.device("CPU:0"):
        return table_score(user, items) + 0 * tf.add_n([tf.identity(tensor) for tensor in tensors])


def score(user, items):
    late = tf.cond(user[0, 0] == REFUSED, lambda: later(user), lambda: user)
    with tf.control_dependencies([tf.debugging.Assert(late[0, 0] != REFUSED, ["the ninth user is refused"])]):
        return from_elsewhere(tf.identity(late), items)


def run() -> None:
    """Cancels requests, each by one of its users and by its client, and searches once more."""
    use_two_devices()
    users = np.zeros([USERS, ITEMS], np.float32)
    users[::6, 0] = SLOW
    refused = users.copy()
    refused[8, 0] = REFUSED
    with tempfile.TemporaryDirectory() as scratch:
        searcher = Searcher(Path(scratch), table_score).open(random_graph(7))
        scorer = ops.trace_scorer(score, [tf.TensorSpec([1, ITEMS])], 2)
        wanted = search(searcher, scorer, users).tolist()
        for _ in range(20):
            try:
                search(searcher, scorer, refused)
            except tf.errors.InvalidArgumentError as error:
                print("refused:", "the ninth user is refused" in str(error), flush=True)
        function = tf.function(lambda users: answer(searcher, scorer, users)).get_concrete_function(users)
        for _ in range(20):
            client = cancellation.CancellationManager()
            threading.Timer(0.01, client.start_cancel).start()
            try:
                client.get_cancelable_function(function)(tf.constant(users))
            except tf.errors.CancelledError:
                print("cancelled", flush=True)
        print("after:", search(searcher, scorer, users).tolist() == wanted)


@pytest.mark.medium
def test_a_call_that_ends_while_its_request_is_cancelled_leaves_nothing_behind():
    # The C library overwrites freed memory, so that whoever still uses it fails.
    lines = lines_of("tests.ops.test_cancelled_calls", MALLOC_PERTURB_="165")
    assert lines == [*["refused: True"] * 20, *["cancelled"] * 20, "after: True"]


if __name__ == "__main__":
    run()
