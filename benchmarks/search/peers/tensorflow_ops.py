"""The paper's rounds in TensorFlow's own ops: sets for the visited items, ragged gathers, a while loop.

This is what a team can do without a custom op, and what the paper's authors did before they had one (arXiv 2202.10226,
section 5).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.search.peers.peer import Workload


class TensorFlowOps:
    """The paper's Algorithms 1 and 2 in one tf.function. Settings are (ef, rounds), start layer first."""

    name = "tensorflow_ops"
    settings: Sequence[tuple[Sequence[int], Sequence[int]]] = (
        ((25, 50, 200), (1, 1, 3)),
        ((50, 100, 200), (1, 1, 3)),
        ((100, 200, 400), (1, 1, 3)),
        ((50, 100, 200), (1, 1, 6)),
        ((100, 200, 400), (1, 1, 6)),
    )

    def __init__(self, workload: Workload) -> None:
        """Copies the table and the graph into tensors, and traces the search."""
        self._workload = workload
        index = workload.index
        self._table = tf.constant(index.embeddings())
        self._item_ids = np.asarray(index.item_ids)
        self._entry_points = tf.constant(index.entry_points)
        self._layers = [
            (tf.constant(layer.row_splits), tf.constant(layer.neighbors)) for layer in reversed(index.layers)
        ]
        self._run = tf.function(self._top, autograph=False, reduce_retracing=True)
        self(0, 1, self.settings[0])

    def _score(self, user: tuple[tf.Tensor, ...], items: tf.Tensor) -> tf.Tensor:
        return self._workload.trained.model.score(user, tf.gather(self._table, items)[None])[0]

    def _top(self, user: tuple[tf.Tensor, ...], ef: tf.Tensor, rounds: tf.Tensor) -> tf.Tensor:
        items = self._entry_points
        items, scores, _ = _best(ef[0], items, self._score(user, items), items)
        for place, layer in enumerate(self._layers, 1):
            items, scores = self._walk(user, (items, scores), layer, ef[place], rounds[place])
        return items[: self._workload.k]

    def _walk(
        self,
        user: tuple[tf.Tensor, ...],
        best: tuple[tf.Tensor, tf.Tensor],
        layer: tuple[tf.Tensor, tf.Tensor],
        width: tf.Tensor,
        times: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the items and scores that `best`, those of the layer above, become by some rounds in a layer."""
        row_splits, neighbors = layer

        def step(
            t: tf.Tensor, items: tf.Tensor, scores: tf.Tensor, candidates: tf.Tensor, visited: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            starts, limits = tf.gather(row_splits, candidates), tf.gather(row_splits, candidates + 1)
            met = tf.gather(neighbors, tf.ragged.range(starts, limits).flat_values)
            fresh = tf.sets.difference(tf.unique(met).y[None], visited[None]).values
            visited = tf.sets.union(visited[None], fresh[None]).values
            both = tf.concat([items, fresh], axis=0)
            values = tf.concat([scores, self._score(user, fresh)], axis=0)
            old = tf.size(items)
            items, scores, places = _best(width, both, values, tf.range(tf.size(both)))
            return t + 1, items, scores, tf.boolean_mask(items, places >= old), visited

        items, scores = best
        _, items, scores, _, _ = tf.while_loop(
            lambda t, items, scores, candidates, visited: (t < times) & (tf.size(candidates) > 0),
            step,
            (tf.constant(0), items, scores, items, items),
            shape_invariants=(tf.TensorShape([]), *[tf.TensorShape([None])] * 4),
            parallel_iterations=1,
        )
        return items, scores

    def __call__(self, first: int, last: int, setting: tuple[Sequence[int], Sequence[int]]) -> np.ndarray:
        """See `Peer`."""
        rows = np.full([last - first, self._workload.k], -1)
        parameters = [tf.constant(numbers) for numbers in setting]
        for case in range(first, last):
            user = tuple(tensor[case : case + 1] for tensor in self._workload.user)
            found = self._run(user, *parameters).numpy()
            rows[case - first, : len(found)] = self._item_ids[found]
        return rows


def _best(width: tf.Tensor, items: tf.Tensor, scores: tf.Tensor, beside: tf.Tensor) -> tuple[Any, ...]:
    """Returns the best `width` of items, their scores, and their entries of `beside`."""
    found, places = tf.math.top_k(scores, tf.minimum(width, tf.size(items)))
    return tf.gather(items, places), found, tf.gather(beside, places)
