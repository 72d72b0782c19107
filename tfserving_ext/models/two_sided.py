"""The two-sided model: the dot product of a user vector and an item vector (arXiv 2202.10226, section 4.1).

What it cannot say is what a neural metric is for; what it can, an index for inner products finds at once.
"""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.models.contract import UserTensors
from tfserving_ext.models.sequence_model import SequenceConfig, SequenceModel, dense, run


@dataclasses.dataclass(frozen=True)
class TwoSidedConfig(SequenceConfig):
    """Sizes of the model.

    Attributes:
      pools: weighted means of the behaviours that the user network sees; each learns its weights by what a behaviour is
        and by how long ago it was.
      user_hidden: widths of the user network's hidden layers; none made the better model on Complete Journey.
    """

    model: ClassVar[str] = "two_sided"

    pools: int = 8
    user_hidden: tuple[int, ...] = ()


class TwoSided(SequenceModel[TwoSidedConfig]):
    """The two-sided model; follows `RetrievalModel`. A user is one vector, as wide as e_v."""

    config_type: ClassVar[type[SequenceConfig]] = TwoSidedConfig

    def __init__(
        self,
        item_ids: np.ndarray,
        category_ids: np.ndarray,
        item_counts: np.ndarray | None = None,
        config: TwoSidedConfig = TwoSidedConfig(),
    ) -> None:
        """Makes an untrained model; see `SequenceModel`."""
        super().__init__(item_ids, category_ids, item_counts, config)
        width = self.item_dim
        self.pool_network = keras.Sequential(
            [keras.Input([width]), keras.layers.Dense(config.pools, use_bias=False, name="pool_dense")],
            name="pool_network",
        )
        self.recency = self.add_weight(shape=[config.history_length, config.pools], initializer="zeros", name="recency")
        layers: list[keras.layers.Layer] = []
        for number, units in enumerate(config.user_hidden, 1):
            layers += dense(units, f"user_{number}")
        self.user_network = keras.Sequential(
            [keras.Input([config.pools * width]), *layers, keras.layers.Dense(width, name="user_out")],
            name="user_network",
        )
        self.built = True

    def user_from_sequence(self, sequence: tf.Tensor) -> UserTensors:
        """The user vector of embedded behaviours.

        Args:
          sequence: float32 [B, history_length, item_dim]; rows of zeros are padding.

        Returns:
          The user vector alone, [B, item_dim].
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
        if items.shape[0] == 1:
            return tf.matmul(vector, items[0], transpose_b=True)
        return tf.matmul(vector[:, None, :], items, transpose_b=True)[:, 0]
