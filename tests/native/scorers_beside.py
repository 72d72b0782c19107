"""Scorers of several devices: `python -m tests.native.scorers_beside LIBRARY` searches with each for 64 users at once.

LIBRARY is that of the fake accelerator (fake_accelerator.cc). A line per scorer says how many users got another answer
than NumPy computes, and whether kernels ran on the accelerator.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.native.beside import use_accelerator
from tfserving_ext import ops
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.index.resource import MappedIndex

ITEMS, DIM, USERS, K = 60, 8, 64, 5
RNG = np.random.default_rng(3)
VECTORS, WEIGHTS, ROWS = (RNG.normal(size=[n, DIM]).astype(np.float32) for n in (ITEMS, DIM, USERS))


def product(user: tf.Tensor, items: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns scores [1, n] of a user [1, DIM] and items [1, n, DIM]."""
    return tf.matmul(tf.matmul(user, weights), items[0], transpose_b=True)


class Scorers:
    """Scorers that give the same scores, by what is special in them."""

    def __init__(self) -> None:
        self.variable = tf.Variable(WEIGHTS)
        keys = tf.lookup.KeyValueTensorInitializer(tf.constant([1], tf.int64), tf.constant([1.0]))
        self.table = tf.lookup.StaticHashTable(keys, 0.0)

    def constants(self, user, items):
        return product(user, items, tf.constant(WEIGHTS))

    def constants_on_the_accelerator(self, user, items):
        with tf.device("/device:FAKE:0"):
            return product(user, items, tf.constant(WEIGHTS))

    def variables(self, user, items):
        return product(user, items, self.variable)

    def variables_on_the_cpu(self, user, items):
        weights = tf.identity(self.variable)
        with tf.device("CPU:0"):
            return product(user, items, weights)

    def there_and_back(self, user, items):
        with tf.device("CPU:0"):
            user = tf.identity(tf.abs(user) * tf.sign(user))
        with tf.device("/device:FAKE:0"):
            user = user + 0.0
        with tf.device("CPU:0"):
            user = tf.abs(user) * tf.sign(user)
        return product(user, items, self.variable)

    def an_op_without_a_kernel(self, user, items):
        return tf.math.asinh(tf.math.sinh(product(user, items, self.variable)))

    def a_table_and_variables(self, user, items):
        return product(user, items, self.variable) * self.table.lookup(tf.constant([[1]], tf.int64))


def run(library: str) -> None:
    """Searches with every scorer, without the passes and with them."""
    tf.config.threading.set_inter_op_parallelism_threads(16)
    loaded = use_accelerator(library)
    assert loaded is not None
    scorers = Scorers()
    wanted = np.argsort(-(ROWS @ WEIGHTS @ VECTORS.T), axis=1)[:, :K] + 100
    made: dict[str, Callable[..., tf.Tensor]] = {
        name: getattr(scorers, name) for name in vars(Scorers) if not name.startswith("_")
    }
    with tempfile.TemporaryDirectory() as scratch:
        index = MappedIndex(build_index(np.arange(ITEMS) + 100, VECTORS, Path(scratch) / "index", Hnsw(threads=1)))
        for name, score in made.items():
            for rewrite in (False, True):
                before = loaded.fake_accelerator_kernels()
                scorer = ops.trace_scorer(score, [tf.TensorSpec([1, DIM])], DIM)
                found = ops.best_first_search(
                    index.resource_handle, [tf.constant(ROWS)], scorer, K, 8, ITEMS, rewrite=rewrite
                ).item_ids.numpy()
                ran = loaded.fake_accelerator_kernels() - before
                passes = "passes" if rewrite else "plain"
                wrong = int((found != wanted).any(axis=1).sum())
                where = "the accelerator computed" if ran else "the accelerator had nothing to do"
                print(f"{name}, {passes}: {wrong} answers are wrong, {where}", flush=True)


if __name__ == "__main__":
    run(sys.argv[1])
