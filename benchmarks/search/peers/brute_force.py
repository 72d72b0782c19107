"""Brute force: scores every item, with the whole query in one function, either compiled by XLA or run by TensorFlow."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from benchmarks.search.peers.peer import Workload

# Items per batch of the scorer, so few that a batch's intermediate results stay in the processor's caches.
CHUNK = 2048


class BruteForce:
    """Exact top k of all items; the setting says whether XLA or TensorFlow runs it."""

    name = "brute_force"
    settings: Sequence[str] = ("xla", "tensorflow")

    def __init__(self, workload: Workload) -> None:
        """Copies the table into a variable, padded to whole chunks, and compiles."""
        self._workload = workload
        embeddings = workload.index.embeddings()
        n, dim = embeddings.shape
        chunks = -(-n // CHUNK)
        table = np.zeros([chunks * CHUNK, dim], np.float32)
        table[:n] = embeddings
        self._table = tf.Variable(table.reshape(chunks, 1, CHUNK, dim), trainable=False)
        self._item_ids = np.asarray(workload.index.item_ids)
        score, k = workload.trained.model.score, workload.k

        def top(*user: tf.Tensor) -> tf.Tensor:
            scores = tf.map_fn(lambda items: score(user, items)[0], self._table, parallel_iterations=1)
            return tf.math.top_k(tf.reshape(scores, [-1])[:n], min(k, n)).indices

        self._run: dict[str, Callable[..., tf.Tensor]] = {
            setting: tf.function(top, autograph=False, jit_compile=setting == "xla") for setting in self.settings
        }
        for setting in self.settings:
            self(0, 1, setting)

    def __call__(self, first: int, last: int, setting: str) -> np.ndarray:
        """See `Peer`."""
        rows = np.full([last - first, self._workload.k], -1)
        for case in range(first, last):
            found = self._run[setting](*(tensor[case : case + 1] for tensor in self._workload.user)).numpy()
            rows[case - first, : len(found)] = self._item_ids[found]
        return rows
