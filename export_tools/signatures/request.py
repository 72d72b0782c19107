"""What a request carries: its checks, and what of it the model and the search take."""

import dataclasses
from collections.abc import Container, Mapping
from typing import NamedTuple

import tensorflow as tf

from export_tools.signatures.parameters import for_all_users
from export_tools.sources import Source
from tfserving_ext.retrieval import BestFirst, Rounds

# A request of more users than this is refused before anything is computed: what it makes us allocate is bounded.
MAX_USERS = 1024
# So is a row of ids for all users of which each would get a copy, of more entries than this together.
MAX_COPIED_IDS = 1 << 24


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a request may leave out.

    Attributes:
      k: items wanted.
      best_first: parameters of `retrieve`.
      rounds: parameters of `retrieve_rounds`.
    """

    k: int = 200
    best_first: BestFirst = BestFirst()  # noqa: RUF009 - frozen
    rounds: Rounds = Rounds()  # noqa: RUF009


class Request(NamedTuple):
    """A request that passed the checks.

    Attributes:
      features: what the model's `user` takes.
      seeds: int64 [B, s], ids to start from.
      exclude: int64 [B, x], ids never to return.
      parameters: of the search, by name, one value for all users.
    """

    features: dict[str, tf.Tensor]
    seeds: tf.Tensor
    exclude: tf.Tensor
    parameters: dict[str, tf.Tensor]


def read(
    source: Source,
    parameters: Mapping[str, tf.Tensor],
    non_finite: Container[str],
    inputs: Mapping[str, tf.Tensor],
) -> Request:
    """Checks the inputs of a signature.

    Args:
      source: the model.
      parameters: the search's, by name, with their defaults.
      non_finite: features in which the model wants NaN or infinity.
      inputs: all that came, by name.

    Returns:
      The request. Whatever is computed from it fails with InvalidArgument where an input has another shape than its
      spec, too many users or not as many as the others, a number that is not finite, or different parameters for
      different users.
    """
    shared = ["exclude", *(["seeds"] if source.seeds is None else [])]
    shapes = [shaped(name, inputs[name], spec.shape) for name, spec in source.features.items()]
    shapes += [shaped(name, inputs[name], tf.TensorShape([None, None]), or_no_rows=True) for name in shared]
    with tf.control_dependencies(shapes):  # Whatever reads a row must not fail first, in TensorFlow's own words.
        inputs = {name: tf.identity(value) for name, value in inputs.items()}
    features = {name: inputs[name] for name in source.features}
    required = [name for name in features if name not in source.defaults]
    first = required[0]
    users = tf.shape(features[first])[0]
    checks = [tf.debugging.assert_less_equal(users, MAX_USERS, f"{first} has too many users, at most {MAX_USERS}")]
    for name in required[1:]:
        rows = tf.shape(features[name])[0]
        checks.append(tf.debugging.Assert(rows == users, [f"{name} must have as many rows as {first}; got", rows]))
    checks += [
        finite(name, value) for name, value in features.items() if value.dtype.is_floating and name not in non_finite
    ]
    for name in shared:
        rows = tf.shape(inputs[name])[0]
        words = [f"{name} must have one row per user, or one row for all; rows got", rows]
        checks.append(tf.debugging.Assert((rows == users) | (rows <= 1), words))
        copied = tf.size(inputs[name], tf.int64) * tf.cast(users, tf.int64)
        words = [f"one row of {name} for all has too many ids, times users at most {MAX_COPIED_IDS}; got", copied]
        checks.append(tf.debugging.Assert((rows == users) | (copied <= MAX_COPIED_IDS), words))
    values, equal = for_all_users(inputs, parameters, users)
    with tf.control_dependencies(checks + equal):  # Whatever follows must not fail first, with a message of its own.
        features = {name: tf.identity(value) for name, value in features.items()}
        rows_of = {name: _for_all(tf.identity(inputs[name]), users) for name in shared}
        values = {name: tf.identity(value) for name, value in values.items()}
    seeds = rows_of["seeds"] if source.seeds is None else tf.cast(features[source.seeds], tf.int64)
    return Request(features, seeds, rows_of["exclude"], values)


def shaped(name: str, value: tf.Tensor, shape: tf.TensorShape, or_no_rows: bool = False) -> tf.Operation:
    """A check that an input has the rank and the fixed extents of its spec; nobody before the graph looks at them.

    Args:
      name: of the input.
      value: as it came.
      shape: of its spec.
      or_no_rows: take any input whose first extent is 0 as well.
    """
    wanted = [-1 if size is None else size for size in shape]
    # TensorFlow takes the spec for true and folds what follows from it, the rank above all; what it is told to be of an
    # unknown shape it looks at.
    got = tf.shape(tf.raw_ops.PlaceholderWithDefault(input=value, shape=None))
    # As many extents as the spec has, whatever came.
    extents = tf.concat([got, [-1] * len(wanted)], axis=0)[: len(wanted)]
    fits = tf.reduce_all((extents == wanted) | (tf.constant(wanted) == -1)) & (tf.size(got) == len(wanted))
    if or_no_rows:
        fits |= extents[0] == 0
    words = f"{name} must have the shape [{', '.join('?' if size < 0 else str(size) for size in wanted)}]; got"
    return tf.debugging.Assert(fits, [words, got])


def finite(name: str, values: tf.Tensor) -> tf.Operation:
    """A check that an input holds neither NaN nor infinity, of which most models make scores that order nothing."""
    wrong = tf.math.count_nonzero(~tf.math.is_finite(values))
    words = f"{name} holds NaN or infinity, allowed are finite numbers only; values that are not finite:"
    return tf.debugging.Assert(wrong == 0, [words, wrong])


def _for_all(ids: tf.Tensor, users: tf.Tensor) -> tf.Tensor:
    """`ids` with a row for every user: [users, x], of [users, x], [1, x] or [0, x]."""
    return tf.cond(
        tf.shape(ids)[0] == 0,
        lambda: tf.zeros([users, 0], tf.int64),
        lambda: tf.broadcast_to(ids, [users, tf.shape(ids)[1]]),
    )
