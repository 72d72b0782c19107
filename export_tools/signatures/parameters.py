"""Parameters of a search, which a request has once, in column form and in row form.

Row form of REST (`instances`) gives every user a value of its own: a number comes as [B], a list of numbers as [B, n].
The search takes one for all users of a request, so they must be equal. Shapes are left open in the signatures, as
TensorFlow Serving leaves their check to the graph.
"""

from collections.abc import Mapping

import tensorflow as tf


def spec_of(default: tf.Tensor) -> tf.TensorSpec:
    """Returns the TensorSpec of a parameter in a signature, which fixes its type but not its shape."""
    return tf.TensorSpec(None, default.dtype)


def for_all_users(
    parameters: Mapping[str, tf.Tensor], defaults: Mapping[str, tf.Tensor], users: tf.Tensor
) -> tuple[dict[str, tf.Tensor], list[tf.Operation]]:
    """The one value of every parameter, and the checks that there is one.

    Args:
      parameters: by name, as they came: of their default's shape, or with one row per user before it.
      defaults: by name, [] or [n]; they stand where there are no users, and so no values.
      users: int32 [], how many users the request has.

    Returns:
      Values by name, [] or [n]; and checks, which fail with InvalidArgument where the rows of a parameter differ or are
      neither one nor one per user. Values mean nothing where a check fails.
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
    """`value` as rows of `rank` dimensions, and whether it is such a value or rows of such.

    A number that row form put into a list of its own, [B, 1], is a number too.
    """
    if rank == 0:
        return tf.reshape(value, [-1]), tf.constant(True)
    known = (tf.rank(value) == 1) | (tf.rank(value) == 2)
    # Of [n] that is [1, n]; of anything else whatever can be reshaped, for the check to refuse.
    shape = tf.reshape(tf.concat([[1, 1], tf.shape(value)], axis=0)[-2:], [2])
    return tf.reshape(value, tf.where(known, shape, [1, tf.size(value)])), known
