"""The two-sided model: the dot product of a user vector and an item vector (arXiv 2202.10226, section 4.1).

An index for inner products searches it fast; a neural metric is for the preferences that a dot product cannot express.
"""

import dataclasses
from typing import ClassVar

import numpy as np
import tensorflow as tf

from tfserving_ext.models.retrieval_model import UserTensors
from tfserving_ext.models.sequence_model import PooledUserModel, SequenceConfig, UserTower, dot_products


@dataclasses.dataclass(frozen=True)
class TwoSidedConfig(SequenceConfig):
    """Sizes of the model.

    Attributes:
      pools: number of weighted means of the behaviours, the input of the user network; each learns to weight a
        behaviour by its embedding and by how long ago it was.
      user_hidden: widths of the user network's hidden layers; on Complete Journey the model is better without any.
    """

    model: ClassVar[str] = "two_sided"

    pools: int = 8
    user_hidden: tuple[int, ...] = ()


class TwoSided(PooledUserModel[TwoSidedConfig]):
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
        self.tower = UserTower(config.history_length, self.item_dim, config.pools, config.user_hidden)
        self.built = True

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `SequenceModel.score`."""
        return dot_products(user[0], items)
