"""Search parameters, of which a request has one value for all its users, in column form and in row form.

REST's row form (`instances`) carries a value for every user: a number arrives as [B], a list of numbers as [B, n]. The
search takes one value for all users of a request, so the rows must be equal. The signatures leave the shapes open,
because TensorFlow Serving leaves it to the graph to check them.
"""

from collections.abc import Mapping

import tensorflow as tf


def spec_of(default: tf.Tensor) -> tf.TensorSpec:
    """Returns the TensorSpec of a parameter in a signature, which fixes its type but not its shape."""
    return tf.TensorSpec(None, default.dtype)


def for_all_users(
    parameters: Mapping[str, tf.Tensor], defaults: Mapping[str, tf.Tensor], users: tf.Tensor
) -> tuple[dict[str, tf.Tensor], list[tf.Operation]]:
    """Returns the one value of every parameter, and the checks that there is one.

    Args:
      parameters: the parameters as they arrived, by name: in their default's shape, or with a leading dimension of one
        row per user.
      defaults: the defaults by name, [] or [n]; used if there are no users, and therefore no values.
      users: int32 [], the number of users in the request.

    Returns:
      Values by name, [] or [n]; and checks, which fail with InvalidArgument if the rows of a parameter differ, or are
      neither one nor one per user. The values are meaningless if a check fails.
    """
    values, checks = {}, []
    for name, default in defaults.items():
        rows, known = _rows(parameters[name], default.shape.rank)
        count = tf.shape(rows)[0]
        fits = known & ((count == 1) | (count == users)) & tf.reduce_all(rows == rows[:1])
        words = f"{name} must be given once, or once for every user and equal; {name}:"
        checks.append(tf.debugging.Assert(fits, [words, parameters[name], "users:", users]))
        values[name] = tf.cond(count == 0, lambda default=default: default, lambda rows=rows: rows[0])
    return values, checks


def _rows(value: tf.Tensor, rank: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns `value` as rows of `rank` dimensions, and whether its shape is that of one such value or of rows of them.

    A number that the row form wraps in a list of its own, [B, 1], counts as a number too.
    """
    if rank == 0:
        return tf.reshape(value, [-1]), tf.constant(True)
    known = (tf.rank(value) == 1) | (tf.rank(value) == 2)
    # [n] becomes [1, n]; any other shape becomes one that the reshape takes, and the check refuses it.
    shape = tf.reshape(tf.concat([[1, 1], tf.shape(value)], axis=0)[-2:], [2])
    return tf.reshape(value, tf.where(known, shape, [1, tf.size(value)])), known
