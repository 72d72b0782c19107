"""The class of all reference scorers, and their random weights."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.models.retrieval_model import UserTensors

BEHAVIOURS = 50  # Length of the user's history, L.
DTYPES = ("float32", "bfloat16")  # Types of matrix products; scores are float32.


@dataclasses.dataclass(frozen=True)
class ReferenceScorer:
    """A ranking model's score function, with one user.

    Attributes:
      name: the model's name.
      dim: width of an item embedding.
      user: the user tensors of a random user, each [1, ...].
      score: see `RetrievalModel.score`.
    """

    name: str
    dim: int
    user: UserTensors
    score: Callable[[UserTensors, tf.Tensor], tf.Tensor]

    def __call__(self, *tensors: tf.Tensor) -> tf.Tensor:
        """Returns scores [1, N] for user tensors followed by items [1, N, dim], as `ops.trace_scorer` calls it."""
        return self.score(tensors[:-1], tensors[-1])


def built(model: Any, dim: int, user: UserTensors, seed: int) -> ReferenceScorer:
    """Makes the scorer of a Keras model with a method `score`; runs it once to build its layers and randomises them."""
    model.score(user, tf.zeros([1, 2, dim]))
    randomise(model.variables, seed)
    return ReferenceScorer(model.name, dim, user, model.score)


def randomise(variables: Iterable[Any], seed: int) -> None:
    """Gives Keras variables random values, about as large as in a trained model."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        shape, kind = tuple(variable.shape), variable.path.rsplit("/", 1)[-1]
        if not tf.as_dtype(variable.dtype).is_floating:
            continue
        if kind == "moving_variance":
            value = rng.uniform(0.5, 1.5, shape)
        elif kind in ("gamma", "alpha"):
            value = rng.normal({"gamma": 1.0, "alpha": 0.25}[kind], 0.1, shape)
        elif "kernel" in kind:
            value = rng.normal(0.0, shape[-2] ** -0.5, shape)
        else:
            value = rng.normal(0.0, 0.2, shape)
        variable.assign(value.astype(np.float32))


def history_of(rng: np.random.Generator, dim: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns behaviours, float32 [1, L, dim], of a user who has fewer than L, and which are present, bool [1, L]."""
    present = np.arange(BEHAVIOURS)[None] >= rng.integers(5, 15)
    return normal(rng, 1, BEHAVIOURS, dim) * tf.cast(present, tf.float32)[..., None], tf.constant(present)


def normal(rng: np.random.Generator, *shape: int) -> tf.Tensor:
    """Returns a float32 tensor of normal random numbers."""
    return tf.constant(rng.normal(size=shape), tf.float32)
