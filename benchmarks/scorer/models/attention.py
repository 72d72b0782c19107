"""Models that attend from the item to the user's behaviours: DIN, DIEN, and a block of a transformer."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks.scorer.models.reference_scorer import ReferenceScorer, built, history_of, normal, randomise
from tfserving_ext.models.retrieval_model import UserTensors

DIN_DIM, DIM = 32, 64


class Dice(keras.layers.Layer):
    """DIN's activation: a mix of x and alpha x, by how likely x is to be large."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        self.norm = keras.layers.BatchNormalization(center=False, scale=False)
        self.norm.build(shape)
        self.alpha = self.add_weight(shape=shape[-1:], initializer="zeros", name="alpha")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Activates a tensor of any shape, with features last."""
        p = tf.sigmoid(self.norm(x, training=False))
        return self.alpha * (1.0 - p) * x + p * x


class Din(keras.Model):
    """DIN: an activation unit weighs each behaviour, from the item and the behaviour."""

    def __init__(self) -> None:
        """Makes the layers."""
        super().__init__(name="din")
        self.unit = [
            keras.layers.Dense(80, activation="sigmoid"),
            keras.layers.Dense(40, activation="sigmoid"),
            keras.layers.Dense(1),
        ]
        self.network = [keras.layers.Dense(200), Dice(), keras.layers.Dense(80), Dice(), keras.layers.Dense(1)]

    def attend(self, items: tf.Tensor, behaviours: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Returns the weighted sum of behaviours [B, L, dim] for each item [B, N, dim]."""
        n, length = tf.shape(items)[1], behaviours.shape[1]
        query = tf.tile(items[:, :, None, :], [1, 1, length, 1])
        keys = tf.tile(behaviours[:, None, :, :], [1, n, 1, 1])
        x = tf.concat([query, keys, query - keys, query * keys], axis=-1)
        for layer in self.unit:
            x = layer(x)
        weights = tf.where(present[:, None, :], tf.squeeze(x, -1), 0.0)
        return tf.matmul(weights, behaviours)

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; a profile [B, 32], behaviours [B, L, dim], bool [B, L] which there are."""
        profile, behaviours, present = user
        attended = self.attend(items, behaviours, present)
        profiles = tf.tile(profile[:, None, :], [1, tf.shape(items)[1], 1])
        x = tf.concat([profiles, attended, items, items * attended], axis=-1)
        for layer in self.network:
            x = layer(x)
        return x[:, :, 0]


class Dien(tf.Module):
    """DIEN without its second GRU: attention from the item to the states of a GRU over the behaviours."""

    def __init__(self, seed: int, units: int = 48) -> None:
        """Makes random weights."""
        super().__init__(name="dien")
        rng = np.random.default_rng(seed)
        self.gru = keras.layers.GRU(units, return_sequences=True, return_state=True)
        self.attention = tf.Variable(normal(rng, DIM, units) * DIM**-0.5)
        width = 2 * units + DIM
        self.kernels = [
            tf.Variable(normal(rng, rows, columns) * rows**-0.5) for rows, columns in ((width, 128), (128, 64), (64, 1))
        ]
        self.biases = [tf.Variable(0.2 * normal(rng, kernel.shape[-1])) for kernel in self.kernels]
        self.slopes = [tf.Variable(0.25 + 0.1 * normal(rng, kernel.shape[-1])) for kernel in self.kernels[:-1]]

    def user(self, behaviours: tf.Tensor, present: tf.Tensor) -> UserTensors:
        """Returns the final state [B, units], the states [B, L, units], and which are present, bool [B, L]."""
        states, final = self.gru(behaviours)
        return final, states, present

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`."""
        final, states, present = user
        query = tf.einsum("bnd,du->bnu", items, self.attention)
        logits = tf.einsum("bnu,blu->bnl", query, states)
        logits += (1.0 - tf.cast(present, tf.float32))[:, tf.newaxis, :] * -1e9
        interest = tf.einsum("bnl,blu->bnu", tf.nn.softmax(logits, axis=-1), states)
        n = tf.shape(items)[1]
        finals = tf.ones([1, n, 1]) * final[:, tf.newaxis, :]
        x = tf.concat([finals, interest, items], axis=-1)
        for kernel, bias, slope in zip(self.kernels[:-1], self.biases[:-1], self.slopes, strict=True):
            x = tf.tensordot(x, kernel, axes=1) + bias
            x = tf.maximum(x, 0.0) + slope * tf.minimum(x, 0.0)
        return tf.squeeze(tf.tensordot(x, self.kernels[-1], axes=1) + self.biases[-1], axis=2)


class Transformer(keras.Model):
    """A transformer block whose queries are the items, with a network on top."""

    def __init__(self, heads: int = 4, head_dim: int = 16, inner: int = 128) -> None:
        """Makes the layers."""
        super().__init__(name="transformer")
        self.heads, self.head_dim = heads, head_dim
        self.query = keras.layers.Dense(heads * head_dim)
        self.key = keras.layers.Dense(heads * head_dim)
        self.value = keras.layers.Dense(heads * head_dim)
        self.merge = keras.layers.Dense(DIM)
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-6)
        self.feed_forward = [keras.layers.Dense(inner, activation="gelu"), keras.layers.Dense(DIM)]
        self.output_norm = keras.layers.LayerNormalization(epsilon=1e-6)
        self.hidden = keras.layers.Dense(64, activation="relu")
        self.out = keras.layers.Dense(1)

    def split_heads(self, x: tf.Tensor) -> tf.Tensor:
        """Reshapes [B, n, heads * head_dim] to [B, n, heads, head_dim]."""
        return tf.reshape(x, [tf.shape(x)[0], tf.shape(x)[1], self.heads, self.head_dim])

    def block(self, items: tf.Tensor, behaviours: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Applies attention from items [B, N, dim] to behaviours, residual, norm, feed-forward, residual and norm."""
        query = self.split_heads(self.query(items)) * self.head_dim**-0.5
        key, value = self.split_heads(self.key(behaviours)), self.split_heads(self.value(behaviours))
        logits = tf.einsum("bnhd,blhd->bhnl", query, key)
        logits = tf.where(present[:, None, None, :], logits, -1e9)
        context = tf.einsum("bhnl,blhd->bnhd", tf.nn.softmax(logits), value)
        context = tf.reshape(context, [tf.shape(items)[0], tf.shape(items)[1], self.heads * self.head_dim])
        x = self.attention_norm(items + self.merge(context))
        expand, contract = self.feed_forward
        return self.output_norm(x + contract(expand(x)))

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; a profile [B, 32], behaviours [B, L, dim], bool [B, L] which there are."""
        profile, behaviours, present = user
        block = self.block(items, behaviours, present)
        profiles = tf.repeat(profile[:, None, :], tf.shape(items)[1], axis=1)
        return tf.squeeze(self.out(self.hidden(tf.concat([block, profiles], axis=-1))), -1)


def din(seed: int = 0) -> ReferenceScorer:
    """Makes DIN over 50 behaviours, with Dice in the network on top."""
    rng = np.random.default_rng(seed)
    return built(Din(), DIN_DIM, (normal(rng, 1, 32), *history_of(rng, DIN_DIM)), seed)


def dien(seed: int = 0) -> ReferenceScorer:
    """Makes DIEN in plain TensorFlow, except for the GRU, which runs once per user."""
    model = Dien(seed)
    behaviours, present = history_of(np.random.default_rng(seed), DIM)
    model.gru.build(behaviours.shape)
    randomise(model.gru.variables, seed)
    return ReferenceScorer(model.name, DIM, model.user(behaviours, present), model.score)


def transformer(seed: int = 0) -> ReferenceScorer:
    """Makes the transformer, with multi-head attention from the item to 50 behaviours."""
    rng = np.random.default_rng(seed)
    return built(Transformer(), DIM, (normal(rng, 1, 32), *history_of(rng, DIM)), seed)
