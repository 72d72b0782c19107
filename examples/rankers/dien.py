"""In the manner of the deep interest evolution network (Zhou et al., 2019).

A GRU over the history, and one over what the candidate attends to. Subclassed, so it is saved by `model.export`.
"""

import keras
import tensorflow as tf
from keras import layers, ops


class Dien(keras.Model):
    """Called with a dict of tensors."""

    def __init__(self, items):
        super().__init__()
        self.ids = layers.IntegerLookup(vocabulary=items["item_id"].to_numpy(), mask_token=0)
        self.categories = layers.StringLookup(vocabulary=sorted(set(items["category"])))
        self.items = layers.Embedding(self.ids.vocabulary_size(), 12, mask_zero=True)
        self.kinds = layers.Embedding(self.categories.vocabulary_size(), 4)
        self.interests = layers.GRU(16, return_sequences=True)
        self.project = layers.Dense(16, use_bias=False)
        self.evolution = layers.GRU(16)
        self.top = keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(1)])

    def call(self, inputs, training=False):
        """Scores, [rows, 1]."""
        codes = self.ids(inputs["history"])
        states = self.interests(self.items(codes), mask=ops.not_equal(codes, 0))
        target = ops.concatenate(
            [self.items(self.ids(inputs["item_id"])), self.kinds(self.categories(inputs["category"]))], axis=-1
        )
        attention = ops.einsum("bld,bd->bl", self.project(states), target)
        attention = ops.softmax(ops.where(ops.not_equal(codes, 0), attention, -1e9))
        final = self.evolution(states * attention[:, :, None])
        return self.top(ops.concatenate([final, target, final * target], axis=-1), training=training)


def make(items):
    """Returns the model, called once."""
    model = Dien(items)
    model(
        {"history": tf.zeros([2, 12], tf.int64), "item_id": tf.zeros([2], tf.int64), "category": tf.constant(["", ""])}
    )
    return model


def save(model, folder):
    """Writes a SavedModel."""
    spec = {
        "history": tf.TensorSpec([None, 12], tf.int64),
        "item_id": tf.TensorSpec([None], tf.int64),
        "category": tf.TensorSpec([None], tf.string),
    }
    model.export(folder, input_signature=[spec], verbose=False)
