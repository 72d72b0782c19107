"""Histories as requests carry them: of any length, with padding and ids that the model does not know anywhere."""

from collections.abc import Mapping

import tensorflow as tf


def last_known(known: tf.Tensor, parts: Mapping[str, tf.Tensor], length: int, missing: int) -> list[tf.Tensor]:
    """The last `length` known behaviours of histories, at the end and in their order.

    Clients pad at the front or at the end, and send ids that the model does not know; an answer depends on neither.
    Whatever else is known of a behaviour goes where the behaviour goes, and with it.

    Args:
      known: which behaviours count, bool [B, L] of any L, 0 too.
      parts: what there is of each behaviour, by name: its item, its category; each [B, L].
      length: behaviours that are wanted.
      missing: what stands in front of histories with fewer than `length` known behaviours.

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
    with tf.control_dependencies(checks):  # Whatever follows must not fail first, with a message of its own.
        order = tf.argsort(tf.cast(known, tf.int32), axis=1, stable=True)[:, -length:]
    known = tf.gather(known, order, batch_dims=1)
    front = [[0, 0], [length - tf.shape(order)[1], 0]]
    found = []
    for part in parts.values():
        last = tf.where(known, tf.gather(part, order, batch_dims=1), tf.constant(missing, part.dtype))
        found.append(tf.ensure_shape(tf.pad(last, front, constant_values=missing), [None, length]))
    return found
