"""The exact counterpart of the search: scores every item."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.index.format import Index
from tfserving_ext.ops import SearchResult
from tfserving_ext.retrieval.metrics import held
from tfserving_ext.retrieval.top_k import K, TopK

CHUNK = 8192
_NAN = tf.int32.min  # Below the key of every score.


class BruteForce(TopK):
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
        self,
        index: Index,
        score: Callable[..., tf.Tensor],
        query_model: Callable[[Any], Any] | None = None,
        k: int = K,
        chunk: int = CHUNK,
        shared_items: bool = False,
    ) -> None:
        """Maps the index.

        Args:
          index: an open index.
          score: the model's `score(user, items)`.
          query_model: as that of `NeuralTopK`.
          k: the number of items that a search returns if it is not told.
          chunk: the number of (user, item) pairs to score at once.
          shared_items: pass items [1, N, d] for all users of a batch to `score`, which must allow this as
            `TrainableModel.score` does. A model then computes what depends on the items alone once per batch; scores
            may differ in the last bit.
        """
        super().__init__(index, query_model, k)
        self._score = score
        self._chunk = chunk
        self._shared_items = shared_items

    def __call__(
        self, user: Any, k: Any = None, filter: Any = None, exclude: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the top-k of all items: the result of `search` without its statistics.

        Returns:
          scores float32 [B, k] and item ids int64 [B, k], best first; ids are strings if the index has keys.
        """
        found = self.search(user, k, filter, exclude)
        return found.scores, found.item_ids

    def search(self, user: Any, k: Any = None, filter: Any = None, exclude: Any = None) -> SearchResult:
        """Returns the top-k of all items, or of those that pass a filter.

        Args:
          user: user tensors, each [B, ...], or what the query model takes.
          k: int32 [], number of items to return; by default `k` of the constructor.
          filter: string [B] or [1], the items that each user, or all users, want (docs/filters.md); None for all items.
          exclude: int64 [B, x], ids that are not returned; strings if the index has keys.

        Returns:
          A `SearchResult` as that of `NeuralTopK`, but with times of 0; ties are broken by the lower item index.

        Raises:
          tf.errors.InvalidArgumentError: a text in `filter` is not a filter of the index's attributes.
        """
        texts = None if filter is None else tf.convert_to_tensor(filter, tf.string)
        excluded = None if exclude is None else tf.cast(self.index.as_numbers(exclude), tf.int64)
        # The traced function has a weak reference to `self`; this call holds it.
        return self._traced(self.user(user), self.count(k), texts, excluded)

    def capped(
        self,
        user: Any,
        k: int,
        cap_by: str,
        cap: int,
        filter: Any = None,
        exclude: Sequence[int] | np.ndarray = (),
    ) -> list[np.ndarray]:
        """Returns the best items of which at most `cap` have the same value in a column; runs eagerly.

        Args:
          user: as in `search`.
          k: number of items to return.
          cap_by: a column of the index's attributes of integers, strings or booleans. Items without a value are not
            limited.
          cap: the number of items that may have the same value.
          filter: as in `search`.
          exclude: ids that are not returned, and do not count; text if the index has keys.

        Returns:
          The item ids of each user, int64 or text [at most k], best first.

        Raises:
          tf.errors.InvalidArgumentError: `filter` is no filter of the index's attributes, or it has no such column.
        """
        ids = self.index.item_ids().numpy()
        values, present = (part.numpy() for part in self.index.column(cap_by))
        places = np.argsort(ids)
        answers = []
        for order in self.search(user, len(ids), filter).item_ids.numpy():
            order = order[held(order) & ~np.isin(order, exclude)]
            numbers = self.index.numbers(order).numpy() if self.index.has_keys else order
            items = places[np.searchsorted(ids, numbers, sorter=places)]
            answers.append(order[_within_cap(values[items], present[items], cap)][:k])
        return answers

    @tf.function(reduce_retracing=True)
    def _traced(
        self, user: tuple[tf.Tensor, ...], k: Any, filter: tf.Tensor | None, exclude: tf.Tensor | None
    ) -> SearchResult:
        wanted, k = (
            k,
            k if exclude is None else k + tf.shape(exclude)[1],
        )  # All that are excluded may be among the best.
        item_ids, batch = self.index.item_ids(), tf.shape(user[0])[0]
        if self._shared_items and (filter is None or filter.shape == [1]):
            items, keys, nan_scores, scored = self._best(user, k, None if filter is None else filter[0])
        else:
            texts = None if filter is None else tf.broadcast_to(filter, [batch])
            items, keys, nan_scores, scored = self._best_of_each(user, k, texts)
        zeros = tf.zeros([batch], tf.int64)
        ids = tf.where(items < 0, tf.constant(NO_ITEM, tf.int64), tf.gather(item_ids, tf.maximum(items, 0)))
        scores = _scores(keys)
        if exclude is not None:
            ids, scores = _without(ids, scores, exclude, wanted)
        return SearchResult(
            item_ids=self.index.keys(ids) if self.index.has_keys else ids,
            scores=scores,
            items_scored=scored,
            rounds=tf.ones([batch], tf.int32),
            nan_scores=nan_scores,
            unknown_ids=zeros,
            stopped=tf.zeros([batch], tf.int32),
            search_us=zeros,
            scorer_us=zeros,
            gather_us=zeros,
            merge_us=zeros,
            index_sequence=zeros,
            exact=tf.ones([batch], tf.bool),
        )

    def _best_of_each(self, user: tuple[tf.Tensor, ...], k: Any, texts: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
        """Does the same as `_best` for one user after the other, with `texts`, string [B], as their filters."""

        def best(one: tuple[tuple[tf.Tensor, ...], tf.Tensor | None]) -> tuple[tf.Tensor, ...]:
            tensors, text = one
            return tuple(part[0] for part in self._best(tuple(tensor[None] for tensor in tensors), k, text))

        specs = tuple(tf.TensorSpec(shape, dtype) for shape, dtype in (
            ([None], tf.int32), ([None], tf.int32), ([], tf.int64), ([], tf.int64)
        ))  # fmt: skip
        if texts is None:
            return tf.map_fn(lambda one: best((one, None)), user, fn_output_signature=specs, parallel_iterations=1)
        return tf.map_fn(best, (user, texts), fn_output_signature=specs, parallel_iterations=1)

    def _best(self, user: tuple[tf.Tensor, ...], k: Any, text: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
        """Finds the best items of a batch of users, who are all scored together.

        Args:
          user: user tensors, each [B, ...].
          k: int32 [], number of items to return.
          text: string [], the filter of all users; None for none.

        Returns:
          Item indices int32 [B, k], best first, and -1 where no items are left; the keys of their scores, int32 [B, k];
          the number of scores that were NaN, int64 [B]; and the number of scored items, int64 [B].
        """
        items = tf.range(tf.size(self.index.item_ids())) if text is None else self.index.passing(text)
        count, batch = tf.size(items), tf.shape(user[0])[0]
        at_once = tf.maximum(self._chunk // tf.maximum(batch, 1), 1)

        def step(begin: tf.Tensor, best: tf.Tensor, keys: tf.Tensor, nans: tf.Tensor) -> tuple[tf.Tensor, ...]:
            fresh = items[begin : begin + at_once]
            scores = self._score(user, self.index.embeddings(fresh)[None])
            nans += tf.math.count_nonzero(tf.math.is_nan(scores), axis=1)
            # The best so far come first, ordered by index if keys are equal. `top_k` prefers earlier entries, and so
            # breaks ties by the lower index.
            keys = tf.concat([keys, _keys(scores)], axis=1)
            best = tf.concat([best, tf.repeat(fresh[None], batch, axis=0)], axis=1)
            keys, places = tf.math.top_k(keys, tf.minimum(k, tf.shape(keys)[1]))
            return begin + at_once, tf.gather(best, places, batch_dims=1), keys, nans

        none = tf.zeros([batch, 0], tf.int32)
        _, best, keys, nans = tf.while_loop(
            lambda begin, *_: begin < count,
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
        missing = [[0, 0], [0, tf.maximum(k - count, 0)]]
        best, keys = tf.pad(best, missing, constant_values=-1), tf.pad(keys, missing, constant_values=_NAN)
        return best, keys, nans, tf.fill([batch], tf.cast(count, tf.int64))


def _without(ids: tf.Tensor, scores: tf.Tensor, exclude: tf.Tensor, k: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first k ids and scores, [B, k], that are not among `exclude`, and what stands for no item after them.

    Args:
      ids: int64 [B, k + x], best first.
      scores: float32 [B, k + x].
      exclude: int64 [B, x].
      k: int32 [].
    """
    out = tf.reduce_any(ids[:, :, None] == exclude[:, None, :], axis=2)
    ids, scores = tf.where(out, tf.constant(NO_ITEM, tf.int64), ids), tf.where(out, -float("inf"), scores)
    order = tf.argsort(tf.cast(out, tf.int32), axis=1, stable=True)[:, :k]
    return tf.gather(ids, order, batch_dims=1), tf.gather(scores, order, batch_dims=1)


def _within_cap(values: np.ndarray, present: np.ndarray, cap: int) -> np.ndarray:
    """Returns which items, best first, are among the first `cap` of their value or have none, bool [n]."""
    by_value = np.argsort(values, kind="stable")
    alike = values[by_value]
    begin = np.searchsorted(alike, alike)  # Where the items of the same value begin.
    number = np.empty(len(values), np.int64)
    number[by_value] = np.arange(len(values)) - begin
    return (number < cap) | ~present


def _keys(scores: tf.Tensor) -> tf.Tensor:
    """Returns integers in the order of the scores, int32: NaN is below minus infinity, and -0 equals 0."""
    bits = tf.bitcast(tf.where(scores == 0.0, 0.0, scores), tf.int32)  # Turns -0 into 0.
    ordered = tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, tf.int32.max), bits)
    return tf.where(tf.math.is_nan(scores), _NAN, ordered)


def _scores(keys: tf.Tensor) -> tf.Tensor:
    """Returns the scores whose keys these are; minus infinity for NaN."""
    bits = tf.where(keys < 0, tf.bitwise.bitwise_xor(keys, tf.int32.max), keys)
    return tf.where(keys == _NAN, -float("inf"), tf.bitcast(bits, tf.float32))
