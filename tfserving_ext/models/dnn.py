"""The deep model without attention: what the paper compares its attention with (arXiv 2202.10226, section 4.1).

The user is one vector, pooled from the history; the score is a deep network over it and e_v.
"""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.models.contract import UserTensors
from tfserving_ext.models.sequence_model import SequenceConfig, SequenceModel, dense, run


@dataclasses.dataclass(frozen=True)
class DnnConfig(SequenceConfig):
    """Sizes of the model.

    Attributes:
      pools: weighted means of the behaviours; each learns its weights by what a behaviour is and how
        long ago it was.
      user_dim: width of the user vector.
      score_hidden: widths of the score network's hidden layers.
    """

    model: ClassVar[str] = "dnn"

    pools: int = 4
    user_dim: int = 128
    score_hidden: tuple[int, ...] = (128, 64, 32)


class Dnn(SequenceModel[DnnConfig]):
    """The deep model without attention; follows `RetrievalModel`. A user is one vector."""

    config_type: ClassVar[type[SequenceConfig]] = DnnConfig

    def __init__(
        self,
        item_ids: np.ndarray,
        category_ids: np.ndarray,
        item_counts: np.ndarray | None = None,
        config: DnnConfig = DnnConfig(),
    ) -> None:
        """Makes an untrained model; see `SequenceModel`."""
        super().__init__(item_ids, category_ids, item_counts, config)
        width = self.item_dim
        self.pool_network = keras.Sequential(
            [keras.Input([width]), keras.layers.Dense(config.pools, use_bias=False, name="pool_dense")],
            name="pool_network",
        )
        self.recency = self.add_weight(shape=[config.history_length, config.pools], initializer="zeros", name="recency")
        self.user_network = keras.Sequential(
            [keras.Input([config.pools * width]), *dense(config.user_dim, "user_1")], name="user_network"
        )
        layers: list[keras.layers.Layer] = []
        for number, units in enumerate(config.score_hidden, 1):
            layers += dense(units, f"score_{number}")
        self.score_network = keras.Sequential(
            [
                keras.Input([config.user_dim + width]),
                *layers,
                keras.layers.Dense(1, use_bias=False, name="score_out"),
            ],
            name="score_network",
        )
        self.built = True

    def user_from_sequence(self, sequence: tf.Tensor) -> UserTensors:
        """The user vector of embedded behaviours.

        Args:
          sequence: float32 [B, history_length, item_dim]; rows of zeros are padding.

        Returns:
          The user vector alone, [B, user_dim].
        """
        pools, width = self.config.pools, self.item_dim
        logits = tf.reshape(
            run(self.pool_network, tf.reshape(sequence, [-1, width])), [-1, self.config.history_length, pools]
        )
        logits += self.recency + self.padding_mask(sequence)[:, :, None]
        pooled = tf.matmul(tf.nn.softmax(logits, axis=1), sequence, transpose_a=True)
        return (run(self.user_network, tf.reshape(pooled, [-1, pools * width])),)

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `SequenceModel.score`."""
        (vector,) = user
        n, width = tf.shape(items)[1], self.item_dim + self.config.user_dim
        if items.shape[0] == 1 and vector.shape[0] != 1:
            items = tf.repeat(items, tf.shape(vector)[0], axis=0)
        users = tf.repeat(vector[:, None, :], n, axis=1)
        scores = run(self.score_network, tf.reshape(tf.concat([users, items], axis=-1), [-1, width]))
        return tf.reshape(scores, [-1, n])
