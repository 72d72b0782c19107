"""The contract of a retrieval model: three functions."""

from typing import Any, Protocol

import tensorflow as tf

UserTensors = tuple[tf.Tensor, ...]


class RetrievalModel(Protocol):
    """Any object with these three functions can be searched and served: a Keras model, a plain `tf.Module`, ..."""

    def user(self, features: dict[str, tf.Tensor]) -> UserTensors:
        """Computes everything that the score needs of the user; called once per request.

        Args:
          features: raw features. Histories of behaviours are `item_history` and `category_history`, int64 [B, L],
            oldest first, with the data's own ids. A behaviour whose item the model does not know, such as -1, is
            ignored, so that a history may be padded anywhere.

        Returns:
          User tensors, each [B, ...].
        """

    def item(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """Computes the item embeddings e_v, float32 [n, d]; called offline, for every item.

        Args:
          features: raw features; `item_id` and `category_id`, int64 [n].
        """

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """Computes the scores s(u, v), float32 [B, N]; the only function that the search calls.

        Args:
          user: the tensors that `user` returned, each [B, ...].
          items: item embeddings, float32 [B, N, d]. Rows may be padding with any values, so that each row must be
            scored independently of the others.
        """


class TrainableModel(RetrievalModel, Protocol):
    """What training needs beyond the three functions: the same by item rows, which are 1-based, with 0 for missing.

    The project's own models have it, and `ForeignModel` adds it to any other. `user_from_rows` and `score` may take
    `training` too, as `item_from_rows` does; it is True in a training step.

    Attributes:
      item_dim: d, the width of e_v.
      trainable_variables: the variables that the optimizer changes.
    """

    item_dim: int
    trainable_variables: list[Any]

    def item_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes e_v, float32 [n, d], for item and category rows, int32 [n] each."""

    def user_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor) -> UserTensors:
        """Computes the user tensors for histories of item and category rows, int32 [B, L] each, 0 at the front."""

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; `items` may also be [1, N, d], the same items for every user of the batch."""
