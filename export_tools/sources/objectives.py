"""Models with several objectives, such as clicks and purchases, whose weights a request decides."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from export_tools.sources.source import Source, one_output
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors

# The input that takes the weights, and the output that has each answered item's scores.
WEIGHTS, OBJECTIVES = "weights", "objectives"


def check_objectives(objectives: Mapping[str, float], output: str) -> None:
    """Checks names and default weights of objectives.

    Raises:
      NannError: there is only one objective, all weights are 0, one is not finite, or an output is named as well.
    """
    if output:
        raise NannError(f"--output is {output!r}, but --objective names {', '.join(objectives)}; only one can be given")
    if len(objectives) == 1:
        raise NannError(f"--objective names {next(iter(objectives))!r} alone; name two or more, or it as --output")
    weights = tf.constant(list(objectives.values()), tf.float32)
    if not tf.reduce_all(tf.math.is_finite(weights)) or not tf.reduce_any(weights != 0):
        raise NannError(
            f"the weights of the objectives are {list(objectives.values())}, allowed are numbers, not all of them 0"
        )


def scores_of(found: Any, output: str | Sequence[str]) -> tf.Tensor:
    """Returns the score among the outputs of a `score`, or with several names those of all objectives.

    Raises:
      NannError: there is no such output.
    """
    return one_output(found, output) if isinstance(output, str) else stacked(found, output)


def stacked(found: Any, objectives: Sequence[str]) -> tf.Tensor:
    """Returns the scores of all objectives among the outputs of a `score`.

    Args:
      found: the value that it returned: a dict of tensors [B, N], or one tensor [B, N, T].
      objectives: keys of the dict, or names for the T scores.

    Returns:
      float32 [B, N, T].

    Raises:
      NannError: the dict lacks an objective, or the tensor has another number of scores.
    """
    if isinstance(found, Mapping):
        missing = [name for name in objectives if name not in found]
        if missing:
            raise NannError(f"`score` returns no {missing[0]!r}; --objective may name {', '.join(sorted(found))}")
        return tf.stack([tf.cast(found[name], tf.float32) for name in objectives], axis=-1)
    if isinstance(found, (tuple, list)) or found.shape.rank != 3 or found.shape[-1] != len(objectives):
        shown = getattr(found, "shape", type(found).__name__)
        raise NannError(
            f"`score` returns {shown}; for the objectives {', '.join(objectives)} it must return a dict with these "
            f"keys, or a tensor [B, N, {len(objectives)}]"
        )
    return tf.cast(found, tf.float32)


def weighted(source: Source, objectives: Mapping[str, float]) -> Source:
    """Returns a model whose score is the sum of several, weighted by a feature of the request.

    Args:
      source: a model whose `score` returns float32 [B, N, T].
      objectives: the names of the T scores, and the weights of requests that give none.

    Raises:
      NannError: the model has a feature that is called as the weights are.
    """
    if WEIGHTS in map(str.lower, source.features):
        raise NannError(
            f"a feature is called {WEIGHTS!r}, as the input is that weighs the objectives; give the feature another "
            f"name in requests: --feature 'user_{WEIGHTS}={WEIGHTS}'"
        )

    def user(features: dict[str, tf.Tensor]) -> UserTensors:
        tensors = source.user_tensors({name: features[name] for name in source.features})
        users, given = tf.shape(tensors[0])[0], features[WEIGHTS]
        rows = tf.shape(given)[0]
        words = [f"{WEIGHTS} must have one row per user, or one row for all; rows got", rows]
        with tf.control_dependencies([tf.debugging.Assert((rows == users) | (rows == 1), words)]):
            return (*tensors, tf.broadcast_to(given, [users, len(objectives)]))

    def score(tensors: UserTensors, items: tf.Tensor) -> tf.Tensor:
        *own, weights = tensors
        # A sum of products rather than a product of matrices: the objectives are few, and each score is needed once.
        return tf.reduce_sum(source.score(tuple(own), items) * weights[:, None, :], axis=-1)

    return dataclasses.replace(
        source,
        user=user,
        score=score,
        features={**source.features, WEIGHTS: tf.TensorSpec([None, len(objectives)], tf.float32)},
        defaults={**source.defaults, WEIGHTS: tf.constant([list(objectives.values())], tf.float32)},
        objectives=tuple(objectives),
        # The original's requests have no weights.
        sequence=None,
        description={**source.description, "objectives": dict(objectives)},
    )
