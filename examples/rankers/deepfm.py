"""DeepFM: factorization machine and deep network over the same embeddings (Guo et al., 2017). Subclassed."""

import keras
import tensorflow as tf
from keras import layers, ops

FIELDS = {
    "user_id": "int64",
    "country": "string",
    "hour": "int64",
    "item_id": "int64",
    "category": "string",
    "brand": "string",
}
BINS = 512


class DeepFM(keras.Model):
    """Called with a dict of tensors, one per field."""

    def __init__(self):
        super().__init__()
        self.hashes = {name: layers.Hashing(BINS) for name in FIELDS}
        self.first = {name: layers.Embedding(BINS, 1) for name in FIELDS}
        self.second = {name: layers.Embedding(BINS, 8) for name in FIELDS}
        self.deep = [layers.Dense(32, activation="relu"), layers.BatchNormalization(), layers.Dense(1)]

    def call(self, inputs, training=False):
        """Scores, [rows]."""
        codes = {name: self.hashes[name](inputs[name]) for name in FIELDS}
        linear = sum(self.first[name](codes[name]) for name in FIELDS)
        fields = ops.stack([self.second[name](codes[name]) for name in FIELDS], axis=1)
        pairs = ops.square(ops.sum(fields, axis=1)) - ops.sum(ops.square(fields), axis=1)
        hidden = ops.reshape(fields, [-1, 8 * len(FIELDS)])
        for layer in self.deep:
            hidden = layer(hidden, training=training) if isinstance(layer, layers.BatchNormalization) else layer(hidden)
        return ops.squeeze(linear + 0.5 * ops.sum(pairs, axis=1, keepdims=True) + hidden, -1)


def make(items):
    """Returns the model, called once."""
    model = DeepFM()
    model({name: tf.zeros([2], kind) if kind != "string" else tf.constant(["", ""]) for name, kind in FIELDS.items()})
    return model


def save(model, folder):
    """Writes a SavedModel with one signature, by TensorFlow's own saver."""

    @tf.function(input_signature=[{name: tf.TensorSpec([None], kind, name) for name, kind in FIELDS.items()}])
    def serve(inputs):
        return {"score": model(inputs)}

    tf.saved_model.save(model, folder, signatures=serve)
