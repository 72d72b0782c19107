"""The exact twin of the search: every item is scored."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfserving_ext.index.format import Index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.ops import SearchResult

CHUNK = 4096


class BruteForce(tf.Module):
    """Top-k items of a corpus under a model's score, exactly; the ground truth of coverage.

    Example:
      >>> exact = BruteForce(Index.open("index"), model.score)
      >>> scores, item_ids = exact(model.user(features), k=200)
    """

    def __init__(self, index: Index, score: Callable[..., tf.Tensor], chunk: int = CHUNK) -> None:
        """Takes an open index and the model's `score(user, items)`; items are scored in batches of `chunk`."""
        super().__init__()
        self.index = MappedIndex(index)
        self._score = score
        self._chunk = chunk

    def __call__(self, user: Sequence[tf.Tensor], k: Any = 200) -> tuple[tf.Tensor, tf.Tensor]:
        """The top-k of all items: `search` without its statistics.

        Returns:
          scores float32 [B, k] and item ids int64 [B, k], best first.
        """
        found = self.search(user, k)
        return found.scores, found.item_ids

    def search(self, user: Sequence[tf.Tensor], k: Any = 200) -> SearchResult:
        """The top-k of all items.

        Args:
          user: user tensors, each [B, ...].
          k: int32 [], items wanted.

        Returns:
          A `SearchResult` as `NeuralTopK` gives it, but for the times; ties are broken by the lower item index.
        """
        return self._traced(tuple(user), k)  # Which holds this object weakly; here it is held.

    @tf.function(reduce_retracing=True)
    def _traced(self, user: tuple[tf.Tensor, ...], k: Any) -> SearchResult:
        item_ids = self.index.item_ids()
        n = tf.shape(item_ids)[0]

        def one_user(tensors: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            single = tuple(tensor[None] for tensor in tensors)
            starts = tf.range(0, n, self._chunk)
            parts = tf.TensorArray(tf.float32, size=tf.size(starts), infer_shape=False, element_shape=[None])

            def step(i: tf.Tensor, parts: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
                begin = i * self._chunk
                items = tf.range(begin, tf.minimum(begin + self._chunk, n))
                scores = self._score(single, self.index.embeddings(items)[None])[0]
                return i + 1, parts.write(i, scores)

            _, parts = tf.while_loop(
                lambda i, _: i < tf.size(starts), step, (tf.constant(0), parts), parallel_iterations=1
            )
            scores = parts.concat()
            is_nan = tf.math.is_nan(scores)
            # NaN counts as minus infinity and comes after it: ties go to the lower place.
            order = tf.concat([tf.where(~is_nan), tf.where(is_nan)], axis=0)[:, 0]
            scores = tf.gather(tf.where(is_nan, -float("inf"), scores), order)
            found, places = tf.math.top_k(scores, tf.minimum(k, n))
            missing = tf.maximum(k - n, 0)
            ids = tf.gather(item_ids, tf.gather(order, places))
            ids = tf.concat([ids, tf.fill([missing], tf.constant(-1, tf.int64))], axis=0)
            scores = tf.concat([found, tf.fill([missing], -float("inf"))], axis=0)
            return ids, scores, tf.math.count_nonzero(is_nan)

        specs = (tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int64))
        ids, scores, nan_scores = tf.map_fn(one_user, user, fn_output_signature=specs, parallel_iterations=1)
        batch = tf.shape(user[0])[0]
        return SearchResult(
            item_ids=ids,
            scores=scores,
            items_scored=tf.fill([batch], tf.cast(n, tf.int64)),
            rounds=tf.ones([batch], tf.int32),
            nan_scores=nan_scores,
            unknown_ids=tf.zeros([batch], tf.int64),
            stopped=tf.zeros([batch], tf.int32),
            search_us=tf.zeros([batch], tf.int64),
            scorer_us=tf.zeros([batch], tf.int64),
        )
