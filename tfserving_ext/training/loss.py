"""Sampled softmax over unigram negatives, and the adversarial auxiliary loss (arXiv 2202.10226, section 3.3)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Losses(NamedTuple):
    """Scalars, float32, means over the batch."""

    total: tf.Tensor
    softmax: tf.Tensor
    auxiliary: tf.Tensor


class UnigramSampler:
    """Draws items in proportion to how often they appear in training, with replacement.

    Rows are 1-based, as everywhere: what is drawn, and what `log_expected_count` is asked for, is the same row. (The
    original passes 1-based ids to a sampler of 0-based classes, so that a positive is corrected by its neighbour's
    frequency.)
    """

    def __init__(self, counts: np.ndarray, num_sampled: int) -> None:
        """Takes int64 [V], the counts of rows 1..V; items that never appear get the weight of one appearance."""
        weights = np.maximum(counts, 1).astype(np.float64)
        probabilities = weights / weights.sum()
        self.num_sampled = num_sampled
        self._cumulative = tf.constant(np.cumsum(probabilities)[:-1], tf.float32)
        self._log_expected = tf.constant(np.log(np.concatenate([[1.0], probabilities * num_sampled])), tf.float32)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Rows int32 [num_sampled]; the same for the same int32 [2] `seed`."""
        return (
            tf.searchsorted(self._cumulative, tf.random.stateless_uniform([self.num_sampled], seed), side="right") + 1
        )

    def log_expected_count(self, rows: tf.Tensor) -> tf.Tensor:
        """Log of how often a row is expected among the drawn, float32, of the shape of `rows`."""
        return tf.gather(self._log_expected, rows)


def sampled_logits(
    positive: tf.Tensor, negative: tf.Tensor, target_rows: tf.Tensor, negative_rows: tf.Tensor, sampler: UnigramSampler
) -> tf.Tensor:
    """Logits [B, T, 1 + num_sampled], the positive first, each corrected by minus the log of its expected count.

    Args:
      positive: scores of the targets, [B, T].
      negative: scores of the shared negatives, [B, num_sampled].
      target_rows: int32 [B, T].
      negative_rows: int32 [num_sampled].
      sampler: where the negatives come from.
    """
    positive -= sampler.log_expected_count(target_rows)
    negative -= sampler.log_expected_count(negative_rows)[None, :]
    # A negative that is the target itself would teach the model both ways.
    hits = tf.equal(target_rows[:, :, None], negative_rows[None, None, :])
    return tf.concat([positive[:, :, None], tf.where(hits, -1e9, negative[:, None, :])], axis=2)


def softmax_loss(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Cross entropy of the first of each row's logits [..., 1 + n] against all, the mean by `weights` [...]."""
    return _mean(tf.reduce_logsumexp(logits, axis=-1) - logits[..., 0], weights)


def _mean(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values * weights) / tf.reduce_sum(weights)


def adversarial_losses(
    logits_of: Callable[[tf.Tensor], tf.Tensor], items: tf.Tensor, weights: tf.Tensor, epsilon: float, weight: float
) -> Losses:
    """The sampled softmax plus the FGSM auxiliary loss.

    The auxiliary loss is KL(softmax(stop_gradient(logits)) || softmax(logits at e_v + step * sign(gradient))), where
    the gradient is that of the softmax loss with respect to e_v: it flattens the score around every item embedding,
    which is what lets a graph over e_v guide a search under the score.

    Args:
      logits_of: logits [..., 1 + n] of item embeddings; called once or twice.
      items: item embeddings e_v, float32 [m, d].
      weights: how much each row of logits counts, float32 [...].
      epsilon: length of the step relative to the root mean square of `items`; 0 for no auxiliary loss.
      weight: of the auxiliary loss.
    """
    if epsilon == 0:
        loss = softmax_loss(logits_of(items), weights)
        return Losses(loss, loss, tf.zeros([]))
    with tf.GradientTape() as tape:
        tape.watch(items)
        logits = logits_of(items)
        softmax = softmax_loss(logits, weights)
    direction = tf.sign(tape.gradient(softmax, items))
    step = epsilon * tf.stop_gradient(tf.sqrt(tf.reduce_mean(tf.square(items))))
    log_clean = tf.stop_gradient(tf.nn.log_softmax(logits))
    log_moved = tf.nn.log_softmax(logits_of(items + step * tf.stop_gradient(direction)))
    auxiliary = _mean(tf.reduce_sum(tf.exp(log_clean) * (log_clean - log_moved), axis=-1), weights)
    return Losses(softmax + weight * auxiliary, softmax, auxiliary)
