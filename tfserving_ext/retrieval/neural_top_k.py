"""The search: top-k under the model's score by beam search over the graph."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.ops import SearchResult


@dataclasses.dataclass(frozen=True)
class SearchParameters:
    """The paper's search parameters and its defaults (arXiv 2202.10226, section 4).

    Attributes:
      ef: beam width per layer, start layer first.
      rounds: scoring rounds per layer, start layer first; the start layer has one.
    """

    ef: tuple[int, ...] = (100, 200, 400)
    rounds: tuple[int, ...] = (1, 1, 3)


class NeuralTopK(tf.Module):
    """Top-k items of an index under a model's score; the approximate twin of `BruteForce`.

    Example:
      >>> search = NeuralTopK(Index.open("index"), model.score)
      >>> result = search(model.user(features), k=200)

    Attributes:
      index: the mapped index; a SavedModel that tracks this object carries its files as assets.
    """

    def __init__(
        self, index: Index, score: Callable[..., tf.Tensor], batch_sizes: Sequence[int] = ops.DEFAULT_BATCH_SIZES
    ) -> None:
        """Takes an open index and the model's `score(user, items)` (see `models.RetrievalModel`)."""
        super().__init__()
        self.index = MappedIndex(index)
        self._layers = len(index.layers)
        self._score = score
        self._batch_sizes = tuple(batch_sizes)

    def _flat_score(self, *tensors: tf.Tensor) -> tf.Tensor:
        return self._score(tensors[:-1], tensors[-1])

    def _search(self, user: Sequence[tf.Tensor], **parameters: Any) -> SearchResult:
        return ops.beam_search(
            self.index.resource_handle,
            user,
            self._flat_score,
            self.index.dim,
            batch_sizes=self._batch_sizes,
            **parameters,
        )

    def __call__(
        self,
        user: Sequence[tf.Tensor],
        k: Any = 200,
        ef: Any = SearchParameters.ef,
        rounds: Any = SearchParameters.rounds,
        exclude: Any = None,
    ) -> SearchResult:
        """The paper's search (Algorithms 1 and 2).

        Args:
          user: user tensors, each [B, ...].
          k: int32 [], items wanted.
          ef: int32 [layers], beam widths, start layer first.
          rounds: int32 [layers], rounds per layer, start layer first.
          exclude: int64 [B, x], ids that are walked through but never returned.

        Returns:
          A `SearchResult`: item_ids int64 [B, k], scores float32 [B, k], items_scored int64 [B], rounds int32 [B].

        Raises:
          tf.errors.InvalidArgumentError: a parameter is out of its range.
        """
        return self._search(user, k=k, ef=ef, rounds=rounds, exclude=exclude)

    def deployed(self, user: Sequence[tf.Tensor], level_topn: tf.Tensor) -> SearchResult:
        """The search of the original's deployed graph.

        Args:
          user: user tensors, each [B, ...].
          level_topn: int32 [layers + ground rounds + 1]: the beam of every layer above the ground, the picks of every
            ground round, and k. The original's has 6 entries.
        """
        return self._search(user, k=level_topn[-1], ef=level_topn[:-1], algorithm="deployed")

    def check(self, parameters: SearchParameters) -> None:
        """Checks that parameters fit the index.

        Raises:
          NannError: a length does not fit the index's layers.
        """
        wanted = self._layers + 1
        for name, values in (("ef", parameters.ef), ("rounds", parameters.rounds)):
            if len(values) != wanted:
                raise NannError(
                    f"{name} is {list(values)}, the index needs {wanted} values, one per layer, start layer first"
                )
