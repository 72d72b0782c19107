"""The deep model without attention, a baseline of the paper's attention model (arXiv 2202.10226, section 4.1).

The user is one vector, pooled from the history; the score is its dot product with e_v plus a deep network over both.
"""

import dataclasses
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.models.retrieval_model import UserTensors
from tfserving_ext.models.sequence_model import (
    PooledUserModel,
    SequenceConfig,
    UserTower,
    dense,
    dot_products,
    run,
)


@dataclasses.dataclass(frozen=True)
class DnnConfig(SequenceConfig):
    """Sizes of the model.

    Attributes:
      pools: number of weighted means of the behaviours, as in the two-sided model.
      score_hidden: widths of the score network's hidden layers.
    """

    model: ClassVar[str] = "dnn"

    pools: int = 8
    score_hidden: tuple[int, ...] = (128, 64, 32)


class Dnn(PooledUserModel[DnnConfig]):
    """The deep model without attention; follows `RetrievalModel`. A user is one vector, as wide as e_v."""

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
        self.tower = UserTower(config.history_length, self.item_dim, config.pools)
        layers: list[keras.layers.Layer] = []
        for number, units in enumerate(config.score_hidden, 1):
            layers += dense(units, f"score_{number}")
        # Initialised to zero, so that the network starts as a correction of the dot product that it is added to.
        last = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="score_out")
        self.score_network = keras.Sequential([keras.Input([2 * self.item_dim]), *layers, last], name="score_network")
        self.built = True

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `SequenceModel.score`."""
        (vector,) = user
        n = tf.shape(items)[1]
        products = dot_products(vector, items)
        if items.shape[0] == 1 and vector.shape[0] != 1:
            items = tf.repeat(items, tf.shape(vector)[0], axis=0)
        both = tf.concat([tf.repeat(vector[:, None, :], n, axis=1), items], axis=-1)
        return products + tf.reshape(run(self.score_network, tf.reshape(both, [-1, 2 * self.item_dim])), [-1, n])
