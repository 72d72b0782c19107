"""Checks the inputs of a request, and gives the model and the search what they take of them."""

import dataclasses
from collections.abc import Container, Mapping
from typing import NamedTuple

import tensorflow as tf

from export_tools.signatures.parameters import for_all_users
from export_tools.sources import Source
from tfserving_ext.index.coverage_rule import CoverageRule
from tfserving_ext.retrieval import BestFirst, Rounds, Surrogate

# A request with more users is refused before anything is computed, so that a request's memory is bounded.
MAX_USERS = 1024
# A row of ids for all users is copied for each of them; it is refused if the copies together have more ids than this.
MAX_COPIED_IDS = 1 << 24
# The inputs of signatures whose index has attributes: one value for all users or one for each, by default no filter and
# no cap.
FILTER, CAP_BY, CAP = "filter", "cap_by", "cap"
BY_ATTRIBUTES: Mapping[str, str | int] = {FILTER: "", CAP_BY: "", CAP: 1}


@dataclasses.dataclass(frozen=True)
class Defaults:
    """Values for the parameters that a request may leave out.

    Attributes:
      k: how many items to return.
      best_first: parameters of the best-first search.
      rounds: parameters of `retrieve_rounds`.
      surrogate: parameters of the surrogate search; None for an index without features.
      search: the search that `retrieve` runs, "surrogate" or "best_first"; "auto" for the surrogate search where an
        evaluation or tuning found it at least as good on the index.
      coverage: the mean coverage that `retrieve` finds at least, by the surrogate search and the rule that `nann tune`
        fitted to the index; None for the parameters in `surrogate`.
      rule: this rule, which an export reads itself; with one, requests to `retrieve_surrogate` ask for a coverage.
    """

    k: int = 200
    best_first: BestFirst = BestFirst()  # noqa: RUF009 - frozen
    rounds: Rounds = Rounds()  # noqa: RUF009
    surrogate: Surrogate | None = Surrogate()  # noqa: RUF009
    search: str = "auto"
    coverage: float | None = None
    rule: CoverageRule | None = None


class Request(NamedTuple):
    """A request that passed the checks.

    Attributes:
      features: the features that the model's `user` takes, by name.
      seeds: int64 [B, s], ids from which the search starts; string if the index has keys.
      exclude: int64 or string [B, x], ids that are never returned.
      parameters: the search's parameters by name, one value for all users.
      by_attributes: what the search does by the items' attributes, each [B] or [1]: `filter`, string, `cap_by`, string,
        and `cap`, int32; none of them if the index has no attributes.
    """

    features: dict[str, tf.Tensor]
    seeds: tf.Tensor
    exclude: tf.Tensor
    parameters: dict[str, tf.Tensor]
    by_attributes: dict[str, tf.Tensor]


def read(
    source: Source,
    parameters: Mapping[str, tf.Tensor],
    non_finite: Container[str],
    inputs: Mapping[str, tf.Tensor],
    has_attributes: bool = False,
) -> Request:
    """Checks the inputs of a signature.

    Args:
      source: the model.
      parameters: defaults of the search's parameters, by name.
      non_finite: features in which the model expects NaN or infinity.
      inputs: all inputs as they arrived, by name.
      has_attributes: whether the inputs of `BY_ATTRIBUTES` are among them.

    Returns:
      The request. Everything computed from it fails with InvalidArgument if an input does not have the shape of its
      spec, has too many users or not as many as the others, or holds a number that is not finite, or if users have
      different parameters.
    """
    shared = ["exclude", *(["seeds"] if source.seeds is None else [])]
    shapes = [shaped(name, inputs[name], spec.shape) for name, spec in source.features.items()]
    shapes += [shaped(name, inputs[name], tf.TensorShape([None, None]), or_no_rows=True) for name in shared]
    with tf.control_dependencies(shapes):  # Otherwise an op that reads a row could fail first, with another message.
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
        words = [f"one row of {name} for all has too many ids: times users, at most {MAX_COPIED_IDS}; got", copied]
        checks.append(tf.debugging.Assert((rows == users) | (copied <= MAX_COPIED_IDS), words))
    wanted = {name: tf.reshape(inputs[name], [-1]) for name in BY_ATTRIBUTES} if has_attributes else {}
    for name, value in wanted.items():
        count = tf.size(value)
        words = [f"{name} must be given once, or once for every user; got", count]
        checks.append(tf.debugging.Assert((count == users) | (count == 1), words))
    values, equal = for_all_users(inputs, parameters, users)
    with tf.control_dependencies(checks + equal):  # Otherwise a later op could fail first, with another message.
        features = {name: tf.identity(value) for name, value in features.items()}
        rows_of = {name: _for_all(tf.identity(inputs[name]), users) for name in shared}
        values = {name: tf.identity(value) for name, value in values.items()}
        wanted = {name: tf.identity(value) for name, value in wanted.items()}
    seeds = rows_of["seeds"] if source.seeds is None else _as_ids(features[source.seeds])
    return Request(features, seeds, rows_of["exclude"], values, wanted)


def shaped(name: str, value: tf.Tensor, shape: tf.TensorShape, or_no_rows: bool = False) -> tf.Operation:
    """Returns a check that an input has the rank and fixed extents of its spec, which nothing before the graph checks.

    Args:
      name: the input's name.
      value: the input as it arrived.
      shape: the shape of its spec.
      or_no_rows: also accept any input whose first extent is 0.
    """
    wanted = [-1 if size is None else size for size in shape]
    # TensorFlow believes the spec and folds what follows from it, the rank above all. It reads the actual shape only of
    # a tensor that is declared to have an unknown one.
    got = tf.shape(tf.raw_ops.PlaceholderWithDefault(input=value, shape=None))
    # Padded or cut to as many extents as the spec has.
    extents = tf.concat([got, [-1] * len(wanted)], axis=0)[: len(wanted)]
    fits = tf.reduce_all((extents == wanted) | (tf.constant(wanted) == -1)) & (tf.size(got) == len(wanted))
    if or_no_rows:
        fits |= extents[0] == 0
    words = f"{name} must have the shape [{', '.join('?' if size < 0 else str(size) for size in wanted)}]; got"
    return tf.debugging.Assert(fits, [words, got])


def finite(name: str, values: tf.Tensor) -> tf.Operation:
    """Returns a check that an input holds no NaN or infinity: most models would turn them into scores without order."""
    wrong = tf.math.count_nonzero(~tf.math.is_finite(values))
    words = f"{name} holds NaN or infinity, allowed are finite numbers only; values that are not finite:"
    return tf.debugging.Assert(wrong == 0, [words, wrong])


def _as_ids(seeds: tf.Tensor) -> tf.Tensor:
    return seeds if seeds.dtype == tf.string else tf.cast(seeds, tf.int64)


def _for_all(ids: tf.Tensor, users: tf.Tensor) -> tf.Tensor:
    """Returns `ids`, which are [users, x], [1, x] or [0, x], with a row for every user: [users, x] or [users, 0]."""
    return tf.cond(
        tf.shape(ids)[0] == 0,
        lambda: tf.zeros([users, 0], ids.dtype),
        lambda: tf.broadcast_to(ids, [users, tf.shape(ids)[1]]),
    )
