"""How much a score changes around item embeddings, which FGSM training reduces (arXiv 2202.10226, section 3.3)."""

from collections.abc import Callable, Sequence

import tensorflow as tf


def flatness(
    score: Callable[..., tf.Tensor], user: Sequence[tf.Tensor], items: tf.Tensor, step: float, seed: int = 0
) -> tf.Tensor:
    """Returns the mean of |s(u, v + d) - s(u, v)|, relative to the standard deviation of s(u, v) over items.

    The mean is over users and items. Every coordinate of the step d is `step` times the root mean square of `items`,
    with a random sign. A score with 0 is flat; near 1, a step changes the score as much as another item does, and a
    graph over e_v cannot guide a search.

    Args:
      score: the model's `score(user, items)`.
      user: user tensors, each [B, ...].
      items: item embeddings, float32 [n, d].
      step: length of the step, relative to the root mean square of `items`.
      seed: for the signs.

    Returns:
      float32 [].
    """
    signs = 2 * tf.random.stateless_uniform(tf.shape(items), [seed, 0], 0, 2, tf.int32) - 1
    length = step * tf.sqrt(tf.reduce_mean(tf.square(items)))
    batch = tf.shape(user[0])[0]
    here, there = (
        score(tuple(user), tf.repeat(rows[None], batch, axis=0))
        for rows in (items, items + length * tf.cast(signs, items.dtype))
    )
    spread = tf.math.reduce_std(here, axis=1, keepdims=True)
    return tf.reduce_mean(tf.abs(there - here) / tf.maximum(spread, 1e-12))
