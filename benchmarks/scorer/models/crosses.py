"""Models with feature crosses: DCN-V2 and DeepFM."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from benchmarks.scorer.models.reference_scorer import ReferenceScorer, built, normal
from tfserving_ext.models.retrieval_model import UserTensors

DIM = 64


class DcnV2(tf.Module):
    """DCN-V2: cross layers x_0 * (W x + b) + x, in parallel with a deep network."""

    def __init__(self, dtype: str, seed: int, crosses: int = 3, hidden: tuple[int, ...] = (128, 64)) -> None:
        """Makes random weights; `dtype` is that of matrix products."""
        super().__init__(name="dcn_v2")
        self.dtype = tf.as_dtype(dtype)
        rng, width = np.random.default_rng(seed), 2 * DIM
        self.crosses = [self._weights(rng, width, width) for _ in range(crosses)]
        widths = (width, *hidden)
        self.deep = [self._weights(rng, *pair) for pair in itertools.pairwise(widths)]
        self.out = self._weights(rng, width + hidden[-1], 1)

    @staticmethod
    def _weights(rng: np.random.Generator, rows: int, columns: int) -> tuple[tf.Variable, tf.Variable]:
        return tf.Variable(normal(rng, rows, columns) * rows**-0.5), tf.Variable(0.2 * normal(rng, columns))

    def _linear(self, x: tf.Tensor, weights: tuple[tf.Variable, tf.Variable]) -> tf.Tensor:
        kernel, bias = weights
        product = tf.matmul(tf.cast(x, self.dtype), tf.cast(kernel, self.dtype))
        return tf.cast(product, tf.float32) + bias

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; `user` is a vector [B, dim]."""
        (vector,) = user
        shape = tf.shape(items)
        vectors = tf.broadcast_to(vector[:, None, :], [shape[0], shape[1], vector.shape[-1]])
        first = tf.concat([vectors, items], axis=-1)
        crossed, deep = first, first
        for weights in self.crosses:
            crossed = first * self._linear(crossed, weights) + crossed
        for weights in self.deep:
            deep = tf.nn.relu(self._linear(deep, weights))
        return self._linear(tf.concat([crossed, deep], axis=-1), self.out)[..., 0]


class DeepFm(keras.Model):
    """DeepFM: a factorisation machine over the user's and the item's fields, and a deep network over all of them."""

    def __init__(self, field_dim: int = 16) -> None:
        """Makes the layers."""
        super().__init__(name="deepfm")
        self.field_dim = field_dim
        self.first_order = keras.layers.Dense(1)
        self.dense = [keras.layers.Dense(units) for units in (128, 64)]
        self.norms = [keras.layers.BatchNormalization() for _ in self.dense]
        self.dropout = keras.layers.Dropout(0.1)
        self.out = keras.layers.Dense(1, use_bias=False)

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; `user` is the fields' embeddings [B, F, field_dim]."""
        (user_fields,) = user
        batch, n = tf.shape(items)[0], tf.shape(items)[1]
        item_fields = tf.reshape(items, [batch, n, items.shape[-1] // self.field_dim, self.field_dim])
        fields = tf.concat([tf.tile(user_fields[:, None], [1, n, 1, 1]), item_fields], axis=2)
        square_of_sum = tf.square(tf.reduce_sum(fields, axis=2))
        sum_of_squares = tf.reduce_sum(tf.square(fields), axis=2)
        second_order = 0.5 * tf.reduce_sum(square_of_sum - sum_of_squares, axis=-1)
        flat = tf.reshape(fields, [batch, n, fields.shape[2] * self.field_dim])
        x = flat
        for dense, norm in zip(self.dense, self.norms, strict=True):
            x = self.dropout(tf.nn.relu(norm(dense(x), training=False)), training=False)
        return second_order + self.first_order(flat)[..., 0] + self.out(x)[..., 0]


def dcn_v2(seed: int = 0, dtype: str = "float32") -> ReferenceScorer:
    """Makes DCN-V2 in plain TensorFlow, with three cross layers and a deep network."""
    model = DcnV2(dtype, seed)
    return ReferenceScorer(model.name, DIM, (normal(np.random.default_rng(seed), 1, DIM),), model.score)


def deepfm(seed: int = 0) -> ReferenceScorer:
    """Makes DeepFM, with six fields for the user and four for the item."""
    model = DeepFm()
    return built(model, DIM, (0.3 * normal(np.random.default_rng(seed), 1, 6, model.field_dim),), seed)
