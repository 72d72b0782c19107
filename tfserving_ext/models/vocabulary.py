"""Maps the data's own ids to rows of an embedding table."""

import keras
import numpy as np
import tensorflow as tf


class Vocabulary(keras.layers.Layer):
    """Maps ids to rows 1..n; row 0 is for missing and unknown ids.

    The sorted ids are a variable, not a constant, so that they are saved with the weights, however many they are, and
    do not become part of the graph.

    Attributes:
      ids: int64 [n].
    """

    def __init__(self, ids: np.ndarray, name: str) -> None:
        """Makes the vocabulary of `ids`, int64 [n], sorted and all different."""
        super().__init__(name=name, trainable=False)
        self.ids = tf.Variable(ids, dtype=tf.int64, trainable=False, shape=[len(ids)], name=f"{name}_ids")

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the rows of `ids`, int64 of any shape: int32 of that shape, 0 for an unknown id."""
        flat = tf.reshape(ids, [-1])
        place = tf.minimum(tf.searchsorted(self.ids, flat), self.ids.shape[0] - 1)
        known = tf.equal(tf.gather(self.ids, place), flat)
        return tf.reshape(tf.where(known, place + 1, 0), tf.shape(ids))
