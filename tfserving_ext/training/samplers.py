"""Samplers of negatives, which also tell how often each item is expected, to correct the logits.

Item rows are 1-based, as everywhere, both those drawn and those passed to `log_expected_count`. (The original passes
1-based ids to a sampler of 0-based classes, so that a positive is corrected by its neighbour's frequency.)
"""

from typing import Protocol

import numpy as np
import tensorflow as tf


class Sampler(Protocol):
    """Draws item rows, with replacement."""

    num_sampled: int

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """Draws rows, int32 [num_sampled]; the same ones for the same `seed`, int32 [2]."""

    def log_expected_count(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the log of how often each row is expected in a sample: float32, shaped like `rows`; 0 for row 0."""


class UnigramSampler:
    """Draws items in proportion to how often they appear in training; follows `Sampler`."""

    def __init__(self, counts: np.ndarray, num_sampled: int) -> None:
        """Prepares the sampler.

        Args:
          counts: int64 [V], how often rows 1..V appear; a row that never does gets the weight of one appearance.
          num_sampled: the number of rows to draw.
        """
        weights = np.maximum(counts, 1).astype(np.int64)
        ends = np.cumsum(weights)
        self.num_sampled = num_sampled
        # Integers, because in float32 the share of a rare one among millions of items is smaller than a rounding error.
        self._ends, self._total = tf.constant(ends), int(ends[-1])
        expected = weights * (num_sampled / self._total)
        self._log_expected = tf.constant(np.log(np.concatenate([[1.0], expected])), tf.float32)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """See `Sampler.sample`."""
        drawn = tf.random.stateless_uniform([self.num_sampled], seed, 0, self._total, tf.int64)
        return tf.searchsorted(self._ends, drawn, side="right") + 1

    def log_expected_count(self, rows: tf.Tensor) -> tf.Tensor:
        """See `Sampler.log_expected_count`."""
        return tf.gather(self._log_expected, rows)


class LogUniformSampler:
    """Draws the item of rank r, from 0 for the most frequent, with probability log((r + 2) / (r + 1)) / log(V + 1).

    This is the distribution of tf.random.log_uniform_candidate_sampler, which assumes that rows are ranks; here they
    need not be. Follows `Sampler`.
    """

    def __init__(self, counts: np.ndarray, num_sampled: int) -> None:
        """Prepares the sampler.

        Args:
          counts: int64 [V], how often rows 1..V appear; of rows with equal counts, the lower ranks first.
          num_sampled: the number of rows to draw.
        """
        self.num_sampled = num_sampled
        self._row_of_rank = tf.constant(np.argsort(-counts, kind="stable") + 1, tf.int32)
        self._log_span = float(np.log(len(counts) + 1))
        ranks = np.arange(len(counts))
        log_expected = np.zeros(len(counts) + 1)
        probabilities = np.log1p(1 / (ranks + 1)) / self._log_span
        log_expected[self._row_of_rank.numpy()] = np.log(probabilities * num_sampled)
        self._log_expected = tf.constant(log_expected, tf.float32)

    def sample(self, seed: tf.Tensor) -> tf.Tensor:
        """See `Sampler.sample`."""
        uniform = tf.random.stateless_uniform([self.num_sampled], seed, dtype=tf.float64)
        ranks = tf.cast(tf.exp(uniform * self._log_span), tf.int32) - 1
        return tf.gather(self._row_of_rank, tf.clip_by_value(ranks, 0, self._row_of_rank.shape[0] - 1))

    def log_expected_count(self, rows: tf.Tensor) -> tf.Tensor:
        """See `Sampler.log_expected_count`."""
        return tf.gather(self._log_expected, rows)


def make_sampler(name: str, counts: np.ndarray, num_sampled: int) -> Sampler:
    """Returns the sampler that `TrainingConfig.sampler` names; arguments as for the samplers."""
    kinds: dict[str, type[UnigramSampler] | type[LogUniformSampler]] = {
        "unigram": UnigramSampler,
        "log_uniform": LogUniformSampler,
    }
    return kinds[name](counts, num_sampled)
