"""A model that is not this project's, trained by `nann train`: a Transformer over the history, a network over both.

    nann train data -o model --model examples.transformer_model:TransformerModel
    nann --import examples.transformer_model extract model -o embeddings
    nann index embeddings -o index
    nann --import examples.transformer_model export model index -o models/mine/1

The class is made with the ids of the data; `user`, `item` and `score` are the whole contract (docs/own_models.md).
"""

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.models import UserTensors, Vocabulary


class TransformerModel(keras.Model):
    """Behaviours attend to each other; the score asks the whole of it with the item."""

    def __init__(
        self,
        item_ids: np.ndarray,
        category_ids: np.ndarray,
        item_counts: np.ndarray | None,
        width: int = 32,
        heads: int = 2,
    ) -> None:
        """Takes the ids that the data have, int64 and sorted, and how often each item appears in training."""
        super().__init__()
        self.items = Vocabulary(item_ids, "items")
        self.categories = Vocabulary(category_ids, "categories")
        self.item_table = keras.layers.Embedding(len(item_ids) + 1, width)
        self.category_table = keras.layers.Embedding(len(category_ids) + 1, width)
        self.attention = keras.layers.MultiHeadAttention(heads, width // heads)
        self.norm = keras.layers.LayerNormalization()
        self.forward = keras.Sequential([keras.layers.Dense(2 * width, "relu"), keras.layers.Dense(width)])
        self.hidden = keras.layers.Dense(64, "relu")
        self.out = keras.layers.Dense(1)
        counts = np.ones(len(item_ids)) if item_counts is None else np.maximum(item_counts, 1)
        # The popularity that a score begins with; training moves it on.
        self.item_table.build()
        self.item_table.embeddings.assign(self._with_popularity(np.log(counts)))

    def _with_popularity(self, logs: np.ndarray) -> np.ndarray:
        table = np.array(self.item_table.embeddings)
        table[1:, 0] = (logs - logs.mean()) / max(logs.std(), 1e-6)
        return table

    def _embed(self, items: tf.Tensor, categories: tf.Tensor) -> tf.Tensor:
        return self.item_table(self.items.rows(items)) + self.category_table(self.categories.rows(categories))

    def user(self, features: dict[str, tf.Tensor]) -> UserTensors:
        """What the score needs: the history after the Transformer, [B, L, width], and what is no padding, [B, L]."""
        history = features["item_history"]
        present = self.items.rows(history) > 0
        sequence = self._embed(history, features["category_history"])
        mixed = self.attention(sequence, sequence, attention_mask=present[:, None, :])
        sequence = self.norm(sequence + mixed)
        return sequence + self.forward(sequence), tf.cast(present, tf.float32)

    def item(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """e_v, float32 [n, width]."""
        return self._embed(features["item_id"], features["category_id"])

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """Scores, float32 [B, N], of items [B, N, width]; each by itself."""
        sequence, present = user
        logits = tf.matmul(items, sequence, transpose_b=True) + 1e9 * (present[:, None, :] - 1)
        found = tf.matmul(tf.nn.softmax(logits), sequence)
        return self.out(self.hidden(tf.concat([found, items, found * items], axis=-1)))[..., 0]
