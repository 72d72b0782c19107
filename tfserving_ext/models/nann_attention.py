"""The attention model of the original's UserBehavior demo (arXiv 2202.10226, section 4.1).

An item is its id's and its category's embedding; the item network turns it into e_v. A user is the sequence of the
last behaviours. The score attends from e_v to the sequence and feeds what it found, beside e_v, to a deep network.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.models.contract import UserTensors
from tfserving_ext.models.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class NannAttentionConfig:
    """Sizes of the model.

    Attributes:
      embedding_dim: width of an id's embedding, and of a category's; e_v is twice as wide.
      history_length: behaviours that the user consists of.
      attention_hidden: width of the hidden layer of the query and key projections.
      attention_dim: width of queries and keys.
      score_hidden: widths of the score network's hidden layers.
      mask_padding: keep the padding of short histories out of the softmax; the original leaves it in.
    """

    embedding_dim: int = 32
    history_length: int = 50
    attention_hidden: int = 128
    attention_dim: int = 256
    score_hidden: tuple[int, ...] = (128, 64, 32)
    mask_padding: bool = True


def _dense(width: int, name: str, norm: bool = False) -> list[keras.layers.Layer]:
    layers: list[keras.layers.Layer] = [keras.layers.Dense(width, name=f"{name}_dense")]
    if norm:
        layers.append(keras.layers.BatchNormalization(name=f"{name}_norm"))
    return [*layers, keras.layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25), name=f"{name}_prelu")]


class NannAttention(keras.Model):
    """The NANN attention model; follows `RetrievalModel`.

    Attributes:
      config: its sizes.
      items: the item vocabulary.
      categories: the category vocabulary.
      item_dim: width of e_v.
    """

    def __init__(
        self,
        item_ids: np.ndarray,
        category_ids: np.ndarray,
        item_counts: np.ndarray | None = None,
        config: NannAttentionConfig = NannAttentionConfig(),
    ) -> None:
        """Makes an untrained model.

        Args:
          item_ids: int64 [V], sorted.
          category_ids: int64 [C], sorted.
          item_counts: int64 [V], how often each item appears in training. The first coordinate of the item embedding
            starts as the standardised log frequency: without it the loss stays near uniform for a thousand steps.
          config: sizes.
        """
        super().__init__(name="nann_attention")
        self.config = config
        width = 2 * config.embedding_dim
        self.item_dim = width
        self.items = Vocabulary(item_ids, "items")
        self.categories = Vocabulary(category_ids, "categories")
        self.item_table = self._table(len(item_ids), "item_table", item_counts)
        self.category_table = self._table(len(category_ids), "category_table", None)
        self.item_network = keras.Sequential(
            [
                keras.Input([width]),
                *_dense(width, "item_1", norm=True),
                *_dense(width, "item_2", norm=True),
                keras.layers.Dense(width, name="item_3"),
            ],
            name="item_network",
        )
        hidden, keys = config.attention_hidden, config.attention_dim
        self.query_network = keras.Sequential(
            [keras.Input([width]), *_dense(hidden, "query_1"), keras.layers.Dense(keys, name="query_2")],
            name="query_network",
        )
        self.key_network = keras.Sequential(
            [keras.Input([width]), *_dense(hidden, "key_1"), keras.layers.Dense(keys, name="key_2")],
            name="key_network",
        )
        score_layers: list[keras.layers.Layer] = []
        for number, units in enumerate(config.score_hidden, 1):
            score_layers += _dense(units, f"score_{number}")
        self.score_network = keras.Sequential(
            [keras.Input([2 * width]), *score_layers, keras.layers.Dense(1, use_bias=False, name="score_out")],
            name="score_network",
        )
        self.built = True

    def _table(self, rows: int, name: str, counts: np.ndarray | None) -> keras.Variable:
        dim = self.config.embedding_dim
        values = keras.initializers.TruncatedNormal(stddev=dim**-0.5, seed=keras.random.SeedGenerator(0))(
            [rows + 1, dim]
        ).numpy()
        if counts is not None:
            logs = np.log1p(counts.astype(np.float64))
            values[1:, 0] = (logs - logs.mean()) / max(logs.std(), 1e-6)
        values[0] = 0
        return self.add_weight(shape=values.shape, initializer=lambda shape, dtype: values, name=name)

    def embed(self, item_rows: tf.Tensor, category_rows: tf.Tensor) -> tf.Tensor:
        """Item and category embeddings side by side, [..., item_dim]; zeros where a row is 0 (missing)."""
        parts = []
        for table, rows in ((self.item_table, item_rows), (self.category_table, category_rows)):
            embedding = tf.nn.embedding_lookup(table.value, rows)
            parts.append(embedding * tf.cast(rows > 0, embedding.dtype)[..., None])
        return tf.concat(parts, axis=-1)

    def item_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """e_v, float32 [n, item_dim], of int32 rows [n]."""
        return self.item_network(self.embed(item_rows, category_rows), training=training)

    def user_from_sequence(self, sequence: tf.Tensor) -> UserTensors:
        """User tensors of embedded behaviours.

        Args:
          sequence: float32 [B, history_length, item_dim]; rows of zeros are padding.

        Returns:
          keys [B, history_length, attention_dim], values [B, history_length, item_dim], and the mask
          [B, history_length] that is added to the attention's logits.
        """
        length, width = self.config.history_length, self.item_dim
        keys = self.key_network(tf.reshape(sequence, [-1, width]))
        keys = tf.reshape(keys, [-1, length, self.config.attention_dim])
        present = tf.reduce_any(tf.not_equal(sequence, 0), axis=-1)
        mask = tf.where(present, 0.0, -1e9) if self.config.mask_padding else tf.zeros_like(sequence[..., 0])
        return keys, sequence, mask

    def user(self, features: dict[str, tf.Tensor]) -> UserTensors:
        """See `RetrievalModel.user`; takes the last `history_length` behaviours of histories of any length."""
        length = self.config.history_length
        rows = []
        for name, vocabulary in (("item_history", self.items), ("category_history", self.categories)):
            last = vocabulary.rows(features[name])[:, -length:]
            last = tf.pad(last, [[0, 0], [length - tf.shape(last)[1], 0]])
            rows.append(tf.ensure_shape(last, [None, length]))
        return self.user_from_sequence(self.embed(*rows))

    def item(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """See `RetrievalModel.item`."""
        return self.item_from_rows(self.items.rows(features["item_id"]), self.categories.rows(features["category_id"]))

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; `items` may also be [1, N, d], the same items for every user of the batch."""
        keys, values, mask = user
        width, n = self.item_dim, tf.shape(items)[1]
        # Two-dimensional matrix products: the fastest that TensorFlow has on a CPU.
        query = self.query_network(tf.reshape(items, [-1, width]))
        query = tf.reshape(query, [-1, n, self.config.attention_dim])
        logits = tf.matmul(query, keys, transpose_b=True) * self.config.attention_dim**-0.5 + mask[:, None, :]
        attended = tf.matmul(tf.nn.softmax(logits), values)
        if items.shape[0] == 1 and attended.shape[0] != 1:
            items = tf.broadcast_to(items, tf.shape(attended))
        scores = self.score_network(tf.reshape(tf.concat([attended, items], axis=-1), [-1, 2 * width]))
        return tf.reshape(scores, [-1, n])
