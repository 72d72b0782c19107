"""Histories in requests: of any length, with padding and unknown ids at any place."""

from collections.abc import Mapping

import tensorflow as tf


def last_known(known: tf.Tensor, parts: Mapping[str, tf.Tensor], length: int, missing: int) -> list[tf.Tensor]:
    """Moves the last `length` known behaviours of each history to the end, in their order, and drops the others.

    Clients pad at the front or at the end, and send ids that the model does not know; the answer depends on neither.
    The parts of a behaviour, such as its item and its category, stay together.

    Args:
      known: which behaviours count, bool [B, L] with any L, even 0.
      parts: the parts of each behaviour by name, such as its item and its category; each [B, L].
      length: the length of the results.
      missing: the value that pads histories with fewer than `length` known behaviours at the front.

    Returns:
      The parts in their order, each [B, length].

    Raises:
      tf.errors.InvalidArgumentError: a part has another shape than `known`.
    """
    checks = [
        tf.debugging.Assert(
            tf.reduce_all(tf.equal(tf.shape(part), tf.shape(known))),
            [f"{name} must have an entry for each of", tf.shape(known), "behaviours; got", tf.shape(part)],
        )
        for name, part in parts.items()
    ]
    with tf.control_dependencies(checks):  # Otherwise a later op might fail first, with a less helpful message.
        order = tf.argsort(tf.cast(known, tf.int32), axis=1, stable=True)[:, -length:]
    known = tf.gather(known, order, batch_dims=1)
    front = [[0, 0], [length - tf.shape(order)[1], 0]]
    found = []
    for part in parts.values():
        last = tf.where(known, tf.gather(part, order, batch_dims=1), tf.constant(missing, part.dtype))
        found.append(tf.ensure_shape(tf.pad(last, front, constant_values=missing), [None, length]))
    return found
