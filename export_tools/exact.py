"""Answers requests exactly, by an export's own scorer on every item."""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.index.format import Index
from tfserving_ext.ops import SearchResult
from tfserving_ext.retrieval.metrics import held


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

        return self._exact.search(self._user(inputs, defaults), tf.constant(k), _filter(inputs))

    def best(self, inputs: dict[str, np.ndarray], defaults: dict[str, np.ndarray], k: int) -> tuple[np.ndarray, int]:
        """Returns the best items that the request of one user allows, and how many were scored.

        Args:
          inputs: as in `search`; `exclude`, `cap_by` and `cap` are read too.
          defaults: the signature's.
          k: how many.

        Returns:
          Item ids, int64 or bytes [at most k], best first, and the number of scored items.
        """
        excluded = different(inputs.get("exclude", np.zeros(0, np.int64)))
        column = np.asarray(inputs.get("cap_by", ""), object).ravel()[0]
        if column:
            cap = int(np.asarray(inputs.get("cap", 1)).ravel()[0])
            user = self._user(inputs, defaults)
            found = self._exact.capped(user, k, column, cap, _filter(inputs), excluded)[0]
            return found, self._exact.index.item_ids().shape[0]
        answer = self.search(inputs, defaults, k + len(excluded))
        ids = answer.item_ids[0].numpy()
        ids = ids[held(ids) & ~np.isin(ids, excluded)]
        return ids[:k], int(answer.items_scored[0])

    def _user(self, inputs: dict[str, np.ndarray], defaults: dict[str, np.ndarray]) -> Any:
        import tensorflow as tf

        specs = self.loaded.user.concrete_functions[0].structured_input_signature[0][0]
        features = {name: tf.constant(inputs.get(name, defaults.get(name)), spec.dtype) for name, spec in specs.items()}
        return self.loaded.user(features)


def different(given: Any) -> np.ndarray:
    """Returns the different ids of a request in the type of answers: int64 [n], or bytes as objects [n]."""
    ids = np.asarray(given)
    if ids.dtype.kind in "OSU":
        return np.array(sorted({one.encode() if isinstance(one, str) else one for one in ids.ravel()}), object)
    return np.unique(ids.astype(np.int64))


def _filter(inputs: dict[str, np.ndarray]) -> Any:
    return np.asarray(inputs["filter"]).reshape([-1]) if "filter" in inputs else None


def _call(score: Any, user: Any, items: Any) -> Any:
    return score(tuple(user), items)
