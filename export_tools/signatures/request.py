"""What a request carries: its checks, and what of it the model and the search take."""

import dataclasses

import tensorflow as tf

from export_tools.sources import Source
from tfserving_ext.retrieval import BestFirst, Rounds

# A request of more users than this is refused before anything is computed: what it makes us allocate is bounded.
MAX_USERS = 1024


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


def read(source: Source, request: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor, dict[str, tf.Tensor]]:
    """Features, seeds and limits of a request; checks how many users each of its inputs has."""
    features = {name: request[name] for name in source.features}
    required = [name for name in features if name not in source.defaults]
    first = required[0]
    users = tf.shape(features[first])[0]
    checks = [tf.debugging.assert_less_equal(users, MAX_USERS, f"{first} has too many users, at most {MAX_USERS}")]
    for name in required[1:]:
        rows = tf.shape(features[name])[0]
        checks.append(tf.debugging.Assert(rows == users, [f"{name} must have as many rows as {first}; got", rows]))
    shared = ["exclude", *(["seeds"] if source.seeds is None else [])]
    for name in shared:
        rows = tf.shape(request[name])[0]
        words = [f"{name} must have one row per user, or one row for all; rows got", rows]
        checks.append(tf.debugging.Assert((rows == users) | (rows <= 1), words))
    with tf.control_dependencies(checks):  # Whatever follows must not fail first, with a message of its own.
        features = {name: tf.identity(value) for name, value in features.items()}
        rows_of = {name: _for_all(tf.identity(request[name]), users) for name in shared}
    limits = {"exclude": rows_of["exclude"], "budget": request["budget"], "deadline_ms": request["deadline_ms"]}
    seeds = rows_of["seeds"] if source.seeds is None else features[source.seeds]
    return features, seeds, limits


def _for_all(ids: tf.Tensor, users: tf.Tensor) -> tf.Tensor:
    """`ids` with a row for every user: [users, x], of [users, x], [1, x] or [0, x]."""
    return tf.cond(
        tf.shape(ids)[0] == 0,
        lambda: tf.zeros([users, 0], tf.int64),
        lambda: tf.broadcast_to(ids, [users, tf.shape(ids)[1]]),
    )
