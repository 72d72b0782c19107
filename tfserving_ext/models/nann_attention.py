"""The attention model of the original's UserBehavior demo (arXiv 2202.10226, section 4.1).

The score attends from e_v to the sequence of behaviours and feeds the attended value and e_v to a deep network. Beyond
the original, it counts the behaviours that equal the item or resemble it, since a softmax tells which behaviours match,
but not how many.
"""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.models.retrieval_model import UserTensors
from tfserving_ext.models.sequence_model import (
    SequenceConfig,
    SequenceModel,
    UserTower,
    dense,
    dot_products,
    recency_slopes,
    run,
)

# Initial value of the learned sharpness: a behaviour counts exp(sharpness * (cosine - 1)), a third at a cosine of 0.9.
SHARPNESS = 10.0


@dataclasses.dataclass(frozen=True)
class NannAttentionConfig(SequenceConfig):
    """Sizes of the model.

    Attributes:
      attention_hidden: width of the hidden layer of the query and key projections.
      attention_dim: width of queries and keys.
      score_hidden: widths of the score network's hidden layers.
      recency: learn a term of the attention's logits for each place in the history; the original ignores the order.
      attention_length: number of behaviours that are attended to, the last ones; at most `history_length`.
      matches: number of weighted counts, over the whole history, of the behaviours that equal the item or resemble it;
        they are inputs of the score network. Each learns its weights by a behaviour's place. 0 for none, as in the
        original.
      pools: number of pools of a two-sided model's tower over the attended behaviours, whose dot product with e_v is
        added to the score. 0 for no tower, as in the original.
    """

    model: ClassVar[str] = "nann_attention"
    optional: ClassVar[frozenset[str]] = frozenset({"matches", "pools"})

    attention_hidden: int = 128
    attention_dim: int = 256
    score_hidden: tuple[int, ...] = (128, 64, 32)
    recency: bool = True
    attention_length: int = 50
    matches: int = 0
    pools: int = 0

    @property
    def attended(self) -> int:
        """Number of behaviours that are attended to."""
        return min(self.attention_length, self.history_length)


class NannAttention(SequenceModel[NannAttentionConfig]):
    """The NANN attention model; follows `RetrievalModel`."""

    config_type: ClassVar[type[SequenceConfig]] = NannAttentionConfig

    def __init__(
        self,
        item_ids: np.ndarray,
        category_ids: np.ndarray,
        item_counts: np.ndarray | None = None,
        config: NannAttentionConfig = NannAttentionConfig(),
    ) -> None:
        """Makes an untrained model; see `SequenceModel`."""
        super().__init__(item_ids, category_ids, item_counts, config)
        width, hidden, keys = self.item_dim, config.attention_hidden, config.attention_dim
        self.query_network = keras.Sequential(
            [keras.Input([width]), *dense(hidden, "query_1"), keras.layers.Dense(keys, name="query_2")],
            name="query_network",
        )
        self.key_network = keras.Sequential(
            [keras.Input([width]), *dense(hidden, "key_1"), keras.layers.Dense(keys, name="key_2")],
            name="key_network",
        )
        self.recency = self.add_weight(
            shape=[config.attended], initializer="zeros", trainable=config.recency, name="recency"
        )
        if config.matches:
            slopes = recency_slopes(config.history_length, config.matches)
            self.match_recency = self.add_weight(
                shape=slopes.shape, initializer=lambda shape, dtype: slopes, name="match_recency"
            )
            # Embeddings of a trained model point in nearly the same direction. Subtracting their mean and scaling by
            # their deviation leaves the differences between them.
            self.match_norm = keras.layers.BatchNormalization(
                center=False, scale=False, momentum=0.95, epsilon=1e-6, name="match_norm"
            )
            self.match_norm.build([None, width])
            self.sharpness = self.add_weight(
                shape=[], initializer=keras.initializers.Constant(SHARPNESS), name="sharpness"
            )
        if config.pools:
            self.tower = UserTower(config.attended, width, config.pools)
        score_layers: list[keras.layers.Layer] = []
        for number, units in enumerate(config.score_hidden, 1):
            score_layers += dense(units, f"score_{number}")
        # If there is a dot product, the network starts as a correction of it.
        last = "zeros" if config.pools else "glorot_uniform"
        self.score_network = keras.Sequential(
            [
                keras.Input([2 * width + config.matches]),
                *score_layers,
                keras.layers.Dense(1, use_bias=False, kernel_initializer=last, name="score_out"),
            ],
            name="score_network",
        )
        self.built = True

    def item_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See `SequenceModel.item_from_rows`."""
        embeddings = super().item_from_rows(item_rows, category_rows, training)
        if training and self.config.matches:
            self.match_norm(embeddings, training=True)  # Updates its statistics; the output is not used.
        return embeddings

    def _units(self, embeddings: tf.Tensor) -> tf.Tensor:
        """Standardises embeddings [..., item_dim] by the statistics of `match_norm` and scales them to unit length."""
        norm = self.match_norm
        return tf.math.l2_normalize(
            (embeddings - norm.moving_mean) * tf.math.rsqrt(norm.moving_variance + norm.epsilon), axis=-1
        )

    def user_from_sequence(self, sequence: tf.Tensor) -> UserTensors:
        """Computes the user tensors of embedded behaviours.

        Args:
          sequence: float32 [B, history_length, item_dim]; rows of zeros are padding.

        Returns:
          For the attended behaviours, keys [B, attended, attention_dim], values [B, attended, item_dim], and the sum of
          padding mask and recency, which is added to the attention's logits, [B, attended]. With `pools`, the tower's
          vector [B, item_dim]. With `matches`, each behaviour's e_v, standardised and of unit length,
          [B, history_length, item_dim], and its weight in each count, [B, history_length, matches].
        """
        config, width = self.config, self.item_dim
        values = sequence[:, -config.attended :]
        keys = run(self.key_network, tf.reshape(values, [-1, width]))
        keys = tf.reshape(keys, [-1, config.attended, config.attention_dim])
        mask = self.padding_mask(values)
        tensors = [keys, values, mask + self.recency]
        if config.pools:
            tensors.append(self.tower(values, mask))
        if not config.matches:
            return tuple(tensors)
        # Not in training mode: only the items of a batch, which are drawn evenly, update the batch norm's statistics.
        embeddings = run(self.item_network, tf.reshape(sequence, [-1, width]))
        units = tf.reshape(self._units(embeddings), [-1, config.history_length, width])
        counts = tf.where(self.present(sequence)[:, :, None], tf.exp(self.match_recency), 0.0)
        return (*tensors, units, counts)

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `SequenceModel.score`."""
        config, width = self.config, self.item_dim
        # Two-dimensional matrix products are TensorFlow's fastest on a CPU.
        query = run(self.query_network, tf.reshape(items, [-1, width]))
        query = tf.reshape(query, [-1, tf.shape(items)[1], config.attention_dim])
        if config.pools:
            _, _, _, vectors, *_ = user
            products = dot_products(vectors, items)
        if items.shape[0] == 1 and user[0].shape[0] != 1:
            found = self._found_of_shared(user, query, items)
            items = tf.broadcast_to(items, tf.concat([tf.shape(found)[:2], [width]], axis=0))
        else:
            found = self._found(user, query, items)
        inputs = tf.reshape(tf.concat([found, items], axis=-1), [-1, 2 * width + config.matches])
        scores = tf.reshape(run(self.score_network, inputs), [-1, tf.shape(items)[1]])
        return scores + products if config.pools else scores

    def _found(self, user: UserTensors, query: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Computes the score network's inputs from the behaviours, [B, N, item_dim + matches]."""
        keys, values, mask = user[:3]
        logits = tf.matmul(query, keys, transpose_b=True) * self.config.attention_dim**-0.5 + mask[:, None, :]
        attended = tf.matmul(tf.nn.softmax(logits), values)
        if not self.config.matches:
            return attended
        units, counts = user[-2:]
        cosines = tf.matmul(self._units(items), units, transpose_b=True)
        matches = tf.matmul(tf.exp(self.sharpness * (cosines - 1)), counts)
        return tf.concat([attended, tf.math.log1p(matches)], axis=-1)

    def _found_of_shared(self, user: UserTensors, query: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Computes what `_found` does for items [1, N, d] that all users share.

        One matrix product has the keys of all users, and its gradient sums over the users at once. The behaviours'
        axis precedes the items' axis throughout, so that nothing has to be transposed.
        """
        keys, values, mask = user[:3]

        def products(rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
            flat = tf.matmul(tf.reshape(rows, [-1, rows.shape[2]]), columns[0], transpose_b=True)
            return tf.reshape(flat, [-1, rows.shape[1], tf.shape(columns)[1]])

        logits = products(keys, query * self.config.attention_dim**-0.5) + mask[:, :, None]
        weights = tf.exp(logits - tf.stop_gradient(tf.reduce_max(logits, axis=1, keepdims=True)))
        attended = tf.matmul(weights, values, transpose_a=True) / tf.reduce_sum(weights, axis=1)[:, :, None]
        if not self.config.matches:
            return attended
        units, counts = user[-2:]
        gates = tf.exp(products(units, self.sharpness * self._units(items)) - self.sharpness)
        matches = tf.matmul(gates, counts, transpose_a=True)
        return tf.concat([attended, tf.math.log1p(matches)], axis=-1)
