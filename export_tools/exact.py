"""Answers requests exactly, by an export's own scorer on every item."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.index.format import Index
from tfserving_ext.ops import SearchResult


class ExactAnswers:
    """The exact answers of an exported model.

    Attributes:
      loaded: the SavedModel with its functions.
    """

    def __init__(self, saved_model: Path, index: Index) -> None:
        """Loads the model.

        Args:
          saved_model: output of `nann export`.
          index: its index, from `exported_index`.
        """
        import tensorflow as tf

        from tfserving_ext.retrieval import BruteForce

        self.loaded = tf.saved_model.load(str(saved_model))
        # If the scorer was rewritten, the index may hold rows for it in place of embeddings.
        score = getattr(self.loaded, "score_rows", self.loaded.score)
        self._exact = BruteForce(index, functools.partial(_call, score))

    def search(self, inputs: dict[str, np.ndarray], defaults: dict[str, np.ndarray], k: int) -> SearchResult:
        """Returns the top-k of all items.

        Args:
          inputs: a request's inputs; only those that the model's `user` takes, and `filter`, are read.
          defaults: the signature's.
          k: how many.
        """
        import tensorflow as tf

        specs = self.loaded.user.concrete_functions[0].structured_input_signature[0][0]
        features = {name: tf.constant(inputs.get(name, defaults.get(name)), spec.dtype) for name, spec in specs.items()}
        wanted = {"filter": tf.constant(inputs["filter"])} if "filter" in inputs else {}
        return self._exact.search(self.loaded.user(features), tf.constant(k), **wanted)


def _call(score: Any, user: Any, items: Any) -> Any:
    return score(tuple(user), items)
