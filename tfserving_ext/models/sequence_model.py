"""What the models of behaviour sequences share: vocabularies, embedding tables, the item network, the history.

An item is represented by the embeddings of its id and its category; the item network turns them into e_v. A user is the
sequence of the last behaviours, each embedded like an item.
"""

import dataclasses
from abc import abstractmethod
from typing import ClassVar, Generic, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.models.histories import last_known
from tfserving_ext.models.retrieval_model import UserTensors
from tfserving_ext.models.vocabulary import Vocabulary

MAX_SIZE = 1 << 16


@dataclasses.dataclass(frozen=True)
class SequenceConfig:
    """Sizes that every model has.

    Attributes:
      model: the model's name in `model.json` and on the command line.
      embedding_dim: width of an id's embedding, and of a category's; e_v is twice as wide.
      history_length: number of behaviours that represent the user.
      mask_padding: exclude the padding of short histories from the softmax; the original includes it.
      optional: names of the sizes that may be 0, which leaves out the part that they count.
    """

    model: ClassVar[str]

    embedding_dim: int = 32
    history_length: int = 50
    mask_padding: bool = True

    optional: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Raises NannError if a size is out of its range."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in self.optional else 1
            for number in value if isinstance(value, tuple) else [value]:
                if type(number) is int and not least <= number <= MAX_SIZE:
                    raise NannError(f"{field.name} of {self.model} is {number}, allowed are {least} to {MAX_SIZE:,}")


def dense(width: int, name: str, norm: bool = False) -> list[keras.layers.Layer]:
    """Returns the layers of a hidden layer: dense, batch norm if `norm`, PReLU."""
    layers: list[keras.layers.Layer] = [keras.layers.Dense(width, name=f"{name}_dense")]
    if norm:
        layers.append(keras.layers.BatchNormalization(name=f"{name}_norm"))
    return [*layers, keras.layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25), name=f"{name}_prelu")]


def recency_slopes(length: int, number: int) -> np.ndarray:
    """Returns initial logits for the places of a history, float32 [length, number]: `number` exponential decays.

    Their half-lives range from one behaviour to the whole history. If all started equal, the pools of a long history
    would all be the same mean, and would take a thousand steps to differ.
    """
    ages = np.arange(length)[::-1, None]
    return (-np.log(2) * ages / np.geomspace(1, length, number)).astype(np.float32)


class UserTower(keras.layers.Layer):
    """Turns embedded behaviours into one vector: computes weighted means of them, and feeds these to a network.

    Attributes:
      length: number of behaviours.
      width: width of an embedded behaviour, and of the vector.
    """

    def __init__(self, length: int, width: int, pools: int, hidden: tuple[int, ...] = (), name: str = "tower") -> None:
        """Makes an untrained tower.

        Args:
          length: number of behaviours.
          width: width of an embedded behaviour, and of the vector.
          pools: number of weighted means; each learns to weight a behaviour by its embedding and its place.
          hidden: widths of the network's hidden layers.
          name: the layer's name.
        """
        super().__init__(name=name, dtype="float32")  # Mixed precision is for the networks inside.
        self.length, self.width, self._pools = length, width, pools
        self.pool_network = keras.Sequential(
            [keras.Input([width]), keras.layers.Dense(pools, use_bias=False, name="pool_dense")], name="pool_network"
        )
        slopes = recency_slopes(length, pools)
        self.recency = self.add_weight(shape=slopes.shape, initializer=lambda shape, dtype: slopes, name="recency")
        layers: list[keras.layers.Layer] = []
        for number, units in enumerate(hidden, 1):
            layers += dense(units, f"user_{number}")
        self.user_network = keras.Sequential(
            [keras.Input([pools * width]), *layers, keras.layers.Dense(width, name="user_out")], name="user_network"
        )
        self.built = True

    def call(self, sequence: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Computes the vectors [B, width].

        Args:
          sequence: float32 [B, length, width].
          mask: added to the logits of the weights, float32 [B, length].
        """
        logits = tf.reshape(
            run(self.pool_network, tf.reshape(sequence, [-1, self.width])), [-1, self.length, self._pools]
        )
        logits += self.recency + mask[:, :, None]
        pooled = tf.matmul(tf.nn.softmax(logits, axis=1), sequence, transpose_a=True)
        return run(self.user_network, tf.reshape(pooled, [-1, self._pools * self.width]))


def dot_products(vectors: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Returns the dot products [B, N] of vectors [B, d] with items [B, N, d], or [1, N, d] for shared items."""
    if items.shape[0] == 1:
        return tf.matmul(vectors, items[0], transpose_b=True)
    return tf.matmul(vectors[:, None, :], items, transpose_b=True)[:, 0]


Config = TypeVar("Config", bound=SequenceConfig)


def run(network: keras.Model, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Returns a network's output as float32, even if it computes in bfloat16."""
    return tf.cast(network(inputs, training=training), tf.float32)


class SequenceModel(keras.Model, Generic[Config]):
    """A model of behaviour sequences; follows `RetrievalModel`. Subclasses add the user's part and the score.

    Attributes:
      config_type: the class of `config`.
      config: the model's sizes.
      items: the item vocabulary.
      categories: the category vocabulary.
      item_dim: width of e_v.
    """

    config_type: ClassVar[type[SequenceConfig]]

    def __init__(
        self, item_ids: np.ndarray, category_ids: np.ndarray, item_counts: np.ndarray | None, config: Config
    ) -> None:
        """Makes an untrained model.

        Args:
          item_ids: int64 [V], sorted.
          category_ids: int64 [C], sorted.
          item_counts: int64 [V], how often each item appears in training. The first coordinate of an item's embedding
            starts as its standardised log frequency; otherwise the loss would stay near that of a uniform model for a
            thousand steps. None for a model whose weights are restored.
          config: the model's sizes.
        """
        super().__init__(name=config.model)
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
                *dense(width, "item_1", norm=True),
                *dense(width, "item_2", norm=True),
                keras.layers.Dense(width, name="item_3"),
            ],
            name="item_network",
        )

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

    @property
    def item_variables(self) -> list[keras.Variable]:
        """The variables that every kind of model has, in the same order: both tables and the item network."""
        return [self.item_table, self.category_table, *self.item_network.variables]

    def embed(self, item_rows: tf.Tensor, category_rows: tf.Tensor) -> tf.Tensor:
        """Returns item and category embeddings, concatenated, [..., item_dim]; zeros for a row of 0 (missing)."""
        parts = []
        for table, rows in ((self.item_table, item_rows), (self.category_table, category_rows)):
            embedding = tf.nn.embedding_lookup(table.value, rows)
            parts.append(embedding * tf.cast(rows > 0, embedding.dtype)[..., None])
        return tf.concat(parts, axis=-1)

    def item_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Computes e_v, float32 [n, item_dim], for item and category rows, int32 [n] each."""
        return run(self.item_network, self.embed(item_rows, category_rows), training)

    def user_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor) -> UserTensors:
        """See `TrainableModel.user_from_rows`."""
        return self.user_from_sequence(self.embed(item_rows, category_rows))

    def item(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """See `RetrievalModel.item`."""
        return self.item_from_rows(self.items.rows(features["item_id"]), self.categories.rows(features["category_id"]))

    def user(self, features: dict[str, tf.Tensor]) -> UserTensors:
        """See `RetrievalModel.user`; takes the last `history_length` known behaviours of histories of any length."""
        rows = {
            name: vocabulary.rows(features[name])
            for name, vocabulary in (("item_history", self.items), ("category_history", self.categories))
        }
        known = rows["item_history"] > 0
        return self.user_from_rows(*last_known(known, rows, self.config.history_length, missing=0))

    def padding_mask(self, sequence: tf.Tensor) -> tf.Tensor:
        """Returns what masks padding when added to softmax logits over behaviours [B, L, item_dim]: float32 [B, L]."""
        if not self.config.mask_padding:
            return tf.zeros_like(sequence[..., 0])
        return tf.where(self.present(sequence), 0.0, -1e9)

    @staticmethod
    def present(sequence: tf.Tensor) -> tf.Tensor:
        """Returns True where a behaviour is not padding, bool [B, history_length]."""
        return tf.reduce_any(tf.not_equal(sequence, 0), axis=-1)

    @abstractmethod
    def user_from_sequence(self, sequence: tf.Tensor) -> UserTensors:
        """Computes the user tensors of embedded behaviours.

        Args:
          sequence: float32 [B, history_length, item_dim]; rows of zeros are padding.
        """

    @abstractmethod
    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; `items` may also be [1, N, d], the same items for every user of the batch."""


class PooledUserModel(SequenceModel[Config]):
    """A `SequenceModel` whose user is one vector, as wide as e_v, which `tower` computes from the history.

    Attributes:
      tower: turns embedded behaviours into the user's vector.
    """

    tower: UserTower

    def user_from_sequence(self, sequence: tf.Tensor) -> UserTensors:
        """Computes the user vector of embedded behaviours.

        Args:
          sequence: float32 [B, history_length, item_dim]; rows of zeros are padding.

        Returns:
          One tensor: the user vectors [B, item_dim].
        """
        return (self.tower(sequence, self.padding_mask(sequence)),)
