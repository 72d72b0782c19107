"""The searches of this project, in the form that the harness calls."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.search.peers.peer import Workload
from tfserving_ext.ops import SearchResult
from tfserving_ext.retrieval import NeuralTopK


class BestFirst:
    """Best-first search, seeded with the history. Settings are (frontier, pool, max_steps), the default first."""

    name = "best_first"
    settings: Sequence[tuple[float, ...]] = (
        (16, 200, 1000),
        (19, 200, 6),
        (22, 200, 5),
        (24, 200, 5),
        (28, 200, 4),
        (32, 200, 4),
        (64, 200, 3),
        (32, 200, 1000),
        (32, 300, 1000),
        (32, 400, 1000),
        (32, 800, 1000),
    )

    def __init__(self, workload: Workload, neural: NeuralTopK | None = None) -> None:
        """Maps the index and traces the search; uses `neural`, a search of the same items, if it is given."""
        self._workload = workload
        self._neural = neural or NeuralTopK(workload.index, workload.trained.model.score)
        self._search = tf.function(
            lambda user, seeds, *parameters: self._walk(self._neural, user, workload.k, seeds, *parameters),
            reduce_retracing=True,
        )
        self.search(0, 1, self.settings[0])

    @staticmethod
    def _walk(neural: NeuralTopK, *arguments: Any) -> SearchResult:
        return neural.best_first(*arguments)

    def search(self, first: int, last: int, setting: tuple[float, ...]) -> SearchResult:
        """The full result of the cases first to last - 1."""
        user = tuple(tensor[first:last] for tensor in self._workload.user)
        seeds = tf.constant(self._workload.histories[first:last])
        return self._search(user, seeds, *(tf.constant(number) for number in setting))

    def __call__(self, first: int, last: int, setting: tuple[float, ...]) -> np.ndarray:
        """See `Peer`."""
        return self.search(first, last, setting).item_ids.numpy()

    def counted(self, first: int, last: int, setting: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        """See `Counting`."""
        found = self.search(first, last, setting)
        return found.item_ids.numpy(), found.items_scored.numpy()


class Surrogate(BestFirst):
    """The surrogate search, seeded with the history. Settings are (batch, expected_coverage), the default first."""

    name = "surrogate"
    settings: Sequence[tuple[float, ...]] = (
        (64, 0.9),
        (64, 0.1),
        (64, 0.3),
        (64, 0.5),
        (64, 0.7),
        (64, 0.8),
        (64, 0.95),
        (64, 0.98),
        (96, 0.3),
        (96, 0.6),
        (96, 0.8),
        (128, 0.3),
        (128, 0.6),
        (128, 0.8),
    )

    @staticmethod
    def _walk(neural: NeuralTopK, *arguments: Any) -> SearchResult:
        user, k, seeds, batch, expected_coverage = arguments
        return neural.surrogate(user, k, seeds, batch=batch, expected_coverage=expected_coverage)[0]


class Rounds:
    """The paper's rounds in our op. Settings are (ef, rounds), start layer first; the second one is the paper's own."""

    name = "rounds"
    settings: Sequence[tuple[Sequence[int], Sequence[int]]] = (
        ((50, 100, 200), (1, 1, 3)),
        ((100, 200, 400), (1, 1, 3)),
        ((50, 100, 200), (1, 1, 6)),
        ((100, 200, 400), (1, 1, 6)),
    )

    def __init__(self, workload: Workload) -> None:
        """Maps the index and traces the search."""
        self._workload = workload
        neural = NeuralTopK(workload.index, workload.trained.model.score)
        self._search = tf.function(
            lambda user, ef, rounds: neural.rounds(user, workload.k, ef, rounds), reduce_retracing=True
        )
        self._neural = neural
        self.search(0, 1, self.settings[0])

    def search(self, first: int, last: int, setting: tuple[Sequence[int], Sequence[int]]) -> SearchResult:
        """The full result of the cases first to last - 1."""
        user = tuple(tensor[first:last] for tensor in self._workload.user)
        return self._search(user, *(tf.constant(numbers) for numbers in setting))

    def __call__(self, first: int, last: int, setting: tuple[Sequence[int], Sequence[int]]) -> np.ndarray:
        """See `Peer`."""
        return self.search(first, last, setting).item_ids.numpy()
