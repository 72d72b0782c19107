"""The attention model of the original's UserBehavior demo (arXiv 2202.10226, section 4.1).

The score attends from e_v to the sequence of behaviours and feeds what it found, beside e_v, to a deep network.
"""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.models.contract import UserTensors
from tfserving_ext.models.sequence_model import SequenceConfig, SequenceModel, dense, run


@dataclasses.dataclass(frozen=True)
class NannAttentionConfig(SequenceConfig):
    """Sizes of the model.

    Attributes:
      attention_hidden: width of the hidden layer of the query and key projections.
      attention_dim: width of queries and keys.
      score_hidden: widths of the score network's hidden layers.
      recency: learn what a behaviour's place adds to the attention's logits; the original's does not know the order.
    """

    model: ClassVar[str] = "nann_attention"

    attention_hidden: int = 128
    attention_dim: int = 256
    score_hidden: tuple[int, ...] = (128, 64, 32)
    recency: bool = True


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
            shape=[config.history_length], initializer="zeros", trainable=config.recency, name="recency"
        )
        score_layers: list[keras.layers.Layer] = []
        for number, units in enumerate(config.score_hidden, 1):
            score_layers += dense(units, f"score_{number}")
        self.score_network = keras.Sequential(
            [keras.Input([2 * width]), *score_layers, keras.layers.Dense(1, use_bias=False, name="score_out")],
            name="score_network",
        )
        self.built = True

    def user_from_sequence(self, sequence: tf.Tensor) -> UserTensors:
        """User tensors of embedded behaviours.

        Args:
          sequence: float32 [B, history_length, item_dim]; rows of zeros are padding.

        Returns:
          keys [B, history_length, attention_dim], values [B, history_length, item_dim], and what is added to the
          attention's logits [B, history_length]: the padding mask and the recency.
        """
        length, width = self.config.history_length, self.item_dim
        keys = run(self.key_network, tf.reshape(sequence, [-1, width]))
        keys = tf.reshape(keys, [-1, length, self.config.attention_dim])
        return keys, sequence, self.padding_mask(sequence) + self.recency

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `SequenceModel.score`."""
        keys, values, mask = user
        width, n = self.item_dim, tf.shape(items)[1]
        # Two-dimensional matrix products: the fastest that TensorFlow has on a CPU.
        query = run(self.query_network, tf.reshape(items, [-1, width]))
        query = tf.reshape(query, [-1, n, self.config.attention_dim])
        if items.shape[0] == 1 and keys.shape[0] != 1:
            # Items that all users share: one product with all keys, whose gradient sums over the users as it goes.
            dots = tf.matmul(query[0], tf.reshape(keys, [-1, self.config.attention_dim]), transpose_b=True)
            dots = tf.transpose(tf.reshape(dots, [n, -1, self.config.history_length]), [1, 0, 2])
        else:
            dots = tf.matmul(query, keys, transpose_b=True)
        logits = dots * self.config.attention_dim**-0.5 + mask[:, None, :]
        attended = tf.matmul(tf.nn.softmax(logits), values)
        if items.shape[0] == 1 and attended.shape[0] != 1:
            items = tf.broadcast_to(items, tf.shape(attended))
        scores = run(self.score_network, tf.reshape(tf.concat([attended, items], axis=-1), [-1, 2 * width]))
        return tf.reshape(scores, [-1, n])
