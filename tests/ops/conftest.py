from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.reference import Graph
from tests.ops.searching import any_search
from tests.ops.surrogate_reference import World
from tfserving_ext import ops

# The user tensor is a table of this many scores, one per item. The length of such a row is not a multiple of a kernel's
# alignment, so the second user's slice is a copy and the first one's is a view.
ITEMS = 43
# The score of padding rows, which are not items. It is higher than any score in a random graph.
GARBAGE = 1e30


def table_score(user: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Looks scores up exactly: the embedding of item i is [i + 1, 0], its score is entry i of the user's table."""
    index = tf.cast(items[..., 0], tf.int32) - 1
    scores = tf.gather(user, tf.clip_by_value(index, 0, user.shape[1] - 1), axis=1, batch_dims=1)
    return tf.where(index < 0, GARBAGE, scores)


def table_embeddings(n: int) -> np.ndarray:
    return np.stack([np.arange(1, n + 1), np.zeros(n)], axis=1).astype(np.float32)


class Searcher:
    """An index resource that is opened repeatedly, and searches over it that are traced only once."""

    def __init__(self, folder: Path, score: Callable[..., tf.Tensor] = table_score, dim: int = 2) -> None:
        self.folder, self.score, self.dim = folder, score, dim
        self.index = ops.index_handle(shared_name=f"searcher_{folder}")
        self._traced: dict[tuple, Callable] = {}

    def open(self, graph: Graph, embeddings: np.ndarray | None = None) -> "Searcher":
        embeddings = table_embeddings(len(graph)) if embeddings is None else embeddings
        ops.index_open(self.index, World.of(graph).write(self.folder, embeddings), dim=self.dim, features=True)
        return self

    def __call__(
        self,
        scores: np.ndarray,
        k: int,
        ef: Sequence[int],
        rounds: Sequence[int] = (),
        exclude: np.ndarray | None = None,
        algorithm: str = "rounds",
        batch_sizes: Sequence[int] = ops.DEFAULT_BATCH_SIZES,
        seeds: np.ndarray | None = None,
        budget: int = 0,
        deadline_ms: int = 0,
    ) -> ops.SearchResult:
        """Searches for users with the given `scores`, float32 [B, up to ITEMS]."""
        table = np.zeros([len(scores), ITEMS], np.float32)
        table[:, : scores.shape[1]] = scores
        none = np.zeros([len(scores), 0], np.int64)
        search = self.traced(algorithm, tuple(batch_sizes))
        found = search(
            tf.constant(table),
            tf.constant(k, tf.int32),
            tf.constant(ef, tf.int32),
            tf.constant(rounds, tf.int32),
            tf.constant(none if exclude is None else exclude, tf.int64),
            tf.constant(none if seeds is None else seeds, tf.int64),
            tf.constant(budget, tf.int64),
            tf.constant(deadline_ms, tf.int32),
        )
        return ops.SearchResult(*(part.numpy() for part in found))

    def traced(self, algorithm: str, batch_sizes: tuple[int, ...]) -> Callable:
        """Returns the search as a tf.function of scores [B, ITEMS] and its parameters, traced at its first use."""

        def search(user, k, ef, rounds, exclude, seeds, budget, deadline_ms):
            given = {"exclude": exclude, "seeds": seeds, "budget": budget, "deadline_ms": deadline_ms}
            options = {"algorithm": algorithm, "batch_sizes": batch_sizes, **given}
            return any_search(self.index, [user], self.score, self.dim, k, ef, rounds, **options)

        signature = [
            tf.TensorSpec([None, ITEMS], tf.float32),
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None], tf.int32),
            tf.TensorSpec([None, None], tf.int64),
            tf.TensorSpec([None, None], tf.int64),
            tf.TensorSpec([], tf.int64),
            tf.TensorSpec([], tf.int32),
        ]
        key = (algorithm, batch_sizes)
        if key not in self._traced:
            self._traced[key] = tf.function(search, input_signature=signature, autograph=False)
        return self._traced[key]


def timeless(found: ops.SearchResult) -> tuple:
    """Returns the outputs in which two equal searches must agree: all but how long they took."""
    parts = found._asdict()
    for name in ("search_us", "scorer_us", "gather_us", "merge_us"):
        del parts[name]
    return tuple(parts.values())


@pytest.fixture(scope="module")
def searcher(tmp_path_factory) -> Searcher:
    return Searcher(tmp_path_factory.mktemp("searcher"))
