"""The exact counterpart of the search: scores every item."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfserving_ext.index.format import Index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.ops import SearchResult

CHUNK = 8192
_NAN = tf.int32.min  # Below the key of every score.


class BruteForce(tf.Module):
    """Finds the exact top-k items of a corpus under a model's score: the ground truth of coverage.

    Items stream through the scorer, and only the best k so far are kept, so that memory does not grow with the corpus.

    Example:
      >>> from tfserving_ext.training import load_model
      >>> model = load_model("model").model
      >>> history = tf.constant([[100031, 100062]], tf.int64)
      >>> user = model.user({"item_history": history, "category_history": history % 31})
      >>> exact = nann.BruteForce(nann.Index.open("index"), model.score)
      >>> scores, item_ids = exact(user, k=5)
      >>> item_ids.shape
      TensorShape([1, 5])
    """

    def __init__(
        self, index: Index, score: Callable[..., tf.Tensor], chunk: int = CHUNK, shared_items: bool = False
    ) -> None:
        """Maps the index.

        Args:
          index: an open index.
          score: the model's `score(user, items)`.
          chunk: the number of (user, item) pairs to score at once.
          shared_items: pass items [1, N, d] for all users of a batch to `score`, which must allow this as
            `TrainableModel.score` does. A model then computes what depends on the items alone once per batch; scores
            may differ in the last bit.
        """
        super().__init__()
        self.index = MappedIndex(index)
        self._score = score
        self._chunk = chunk
        self._shared_items = shared_items

    def __call__(self, user: Sequence[tf.Tensor], k: Any = 200) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the top-k of all items: the result of `search` without its statistics.

        Returns:
          scores float32 [B, k] and item ids int64 [B, k], best first.
        """
        found = self.search(user, k)
        return found.scores, found.item_ids

    def search(self, user: Sequence[tf.Tensor], k: Any = 200) -> SearchResult:
        """Returns the top-k of all items.

        Args:
          user: user tensors, each [B, ...].
          k: int32 [], number of items to return.

        Returns:
          A `SearchResult` as that of `NeuralTopK`, but with times of 0; ties are broken by the lower item index.
        """
        return self._traced(tuple(user), k)  # The traced function has a weak reference to `self`; this call holds it.

    @tf.function(reduce_retracing=True)
    def _traced(self, user: tuple[tf.Tensor, ...], k: Any) -> SearchResult:
        if self._shared_items:
            items, keys, nan_scores = self._best(user, k)
        else:
            specs = (tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int64))
            items, keys, nan_scores = tf.map_fn(
                lambda one: tuple(part[0] for part in self._best(tuple(tensor[None] for tensor in one), k)),
                user,
                fn_output_signature=specs,
                parallel_iterations=1,
            )
        item_ids = self.index.item_ids()
        n, batch = tf.shape(item_ids)[0], tf.shape(user[0])[0]
        missing = [[0, 0], [0, tf.maximum(k - n, 0)]]
        return SearchResult(
            item_ids=tf.pad(tf.gather(item_ids, items), missing, constant_values=-1),
            scores=tf.pad(_scores(keys), missing, constant_values=-float("inf")),
            items_scored=tf.fill([batch], tf.cast(n, tf.int64)),
            rounds=tf.ones([batch], tf.int32),
            nan_scores=nan_scores,
            unknown_ids=tf.zeros([batch], tf.int64),
            stopped=tf.zeros([batch], tf.int32),
            search_us=tf.zeros([batch], tf.int64),
            scorer_us=tf.zeros([batch], tf.int64),
            gather_us=tf.zeros([batch], tf.int64),
            merge_us=tf.zeros([batch], tf.int64),
            index_sequence=tf.zeros([batch], tf.int64),
        )

    def _best(self, user: tuple[tf.Tensor, ...], k: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Finds the best items of a batch of users, who are all scored together.

        Returns:
          Item indices int32 [B, min(k, n)], best first; the keys of their scores, int32 of the same shape; and the
          number of scores that were NaN, int64 [B].
        """
        n, batch = tf.shape(self.index.item_ids())[0], tf.shape(user[0])[0]
        at_once = tf.maximum(self._chunk // tf.maximum(batch, 1), 1)

        def step(begin: tf.Tensor, best: tf.Tensor, keys: tf.Tensor, nans: tf.Tensor) -> tuple[tf.Tensor, ...]:
            items = tf.range(begin, tf.minimum(begin + at_once, n))
            scores = self._score(user, self.index.embeddings(items)[None])
            nans += tf.math.count_nonzero(tf.math.is_nan(scores), axis=1)
            # The best so far come first, ordered by index if keys are equal. `top_k` prefers earlier entries, and so
            # breaks ties by the lower index.
            keys = tf.concat([keys, _keys(scores)], axis=1)
            best = tf.concat([best, tf.repeat(items[None], batch, axis=0)], axis=1)
            keys, places = tf.math.top_k(keys, tf.minimum(k, tf.shape(keys)[1]))
            return begin + at_once, tf.gather(best, places, batch_dims=1), keys, nans

        none = tf.zeros([batch, 0], tf.int32)
        _, best, keys, nans = tf.while_loop(
            lambda begin, *_: begin < n,
            step,
            (tf.constant(0), none, none, tf.zeros([batch], tf.int64)),
            (
                tf.TensorShape([]),
                tf.TensorShape([None, None]),
                tf.TensorShape([None, None]),
                tf.TensorShape([None]),
            ),
            parallel_iterations=1,
        )
        return best, keys, nans


def _keys(scores: tf.Tensor) -> tf.Tensor:
    """Returns integers in the order of the scores, int32: NaN is below minus infinity, and -0 equals 0."""
    bits = tf.bitcast(tf.where(scores == 0.0, 0.0, scores), tf.int32)  # Turns -0 into 0.
    ordered = tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, tf.int32.max), bits)
    return tf.where(tf.math.is_nan(scores), _NAN, ordered)


def _scores(keys: tf.Tensor) -> tf.Tensor:
    """Returns the scores whose keys these are; minus infinity for NaN."""
    bits = tf.where(keys < 0, tf.bitwise.bitwise_xor(keys, tf.int32.max), keys)
    return tf.where(keys == _NAN, -float("inf"), tf.bitcast(bits, tf.float32))
