"""The contract of a retrieval model: three functions, each with the batch B leading."""

from typing import Any, Protocol

import tensorflow as tf

UserTensors = tuple[tf.Tensor, ...]


class RetrievalModel(Protocol):
    """Anything with these three functions can be searched and served: a Keras model, a plain `tf.Module`, ..."""

    def user(self, features: dict[str, tf.Tensor]) -> UserTensors:
        """What the score needs of the user; computed once per request.

        Args:
          features: raw features; for histories of behaviours `item_history` and `category_history`, int64 [B, L],
            oldest first, the data's own ids. A behaviour whose item the model does not know, -1 among them, counts as
            missing, and the others as if it were not there: a history may be padded anywhere.

        Returns:
          User tensors, each [B, ...].
        """

    def item(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """The item embeddings e_v, float32 [n, d]; computed offline, for every item.

        Args:
          features: raw features; `item_id` and `category_id`, int64 [n].
        """

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """The scores s(u, v), float32 [B, N]; the only function that the search calls.

        Args:
          user: what `user` returned, each [B, ...].
          items: item embeddings, float32 [B, N, d]. Rows may be padding and hold anything, so that each must be
            scored independently of the others.
        """


class TrainableModel(RetrievalModel, Protocol):
    """What training needs beyond the three functions: the same by item rows, 1-based, 0 where there is none.

    The project's own models have it; `ForeignModel` gives it to any other. `user_from_rows` and `score` may take
    `training` too, as `item_from_rows` does: it is True in a training step.

    Attributes:
      item_dim: d, the width of e_v.
      trainable_variables: what the optimizer moves.
    """

    item_dim: int
    trainable_variables: list[Any]

    def item_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """e_v, float32 [n, d], of int32 rows [n]."""

    def user_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor) -> UserTensors:
        """User tensors of histories, int32 [B, L], padded with 0 at the front."""

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; `items` may also be [1, N, d], the same items for every user of the batch."""
