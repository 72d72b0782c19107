"""A coverage that a request asks for, and the one that the answer is expected to have, by the rule of the index."""

import tensorflow as tf

from tfserving_ext.index.coverage_rule import CoverageRule


def expected_for(rule: CoverageRule, coverage: tf.Tensor) -> tf.Tensor:
    """Returns the `expected_coverage`, float32 [], of the search that finds `coverage`, float32 [].

    What is computed from it fails with InvalidArgument if `coverage` is out of the rule's range.
    """
    fits = (coverage > 0) & (coverage <= tf.constant(rule.most))
    words = f"coverage must be above 0 and at most {rule.most:.4f}, which is what the search reaches; got"
    with tf.control_dependencies([tf.debugging.Assert(fits, [words, coverage])]):
        coverage = tf.identity(coverage)
    return _interpolate(coverage, [0.0, *rule.coverage], [rule.expected_coverage[0], *rule.expected_coverage])


def coverage_at(rule: CoverageRule, estimated: tf.Tensor) -> tf.Tensor:
    """Returns the coverage, float32 [B], of searches that say `estimated`, float32 [B], of themselves."""
    return _interpolate(estimated, *rule.estimates())


def _interpolate(x: tf.Tensor, xs: list[float], ys: list[float]) -> tf.Tensor:
    """Returns y at `x`, of any shape, on the line through the points (xs, ys); xs rises strictly."""
    places, values = tf.constant(xs), tf.constant(ys)
    after = tf.searchsorted(places, tf.reshape(x, [-1]), side="right")
    after = tf.reshape(tf.clip_by_value(after, 1, len(xs) - 1), tf.shape(x))
    left, right = tf.gather(places, after - 1), tf.gather(places, after)
    part = tf.clip_by_value((x - left) / (right - left), 0.0, 1.0)
    low, high = tf.gather(values, after - 1), tf.gather(values, after)
    return low + part * (high - low)
