"""The data's own ids, and the rows of an embedding table that they own."""

import keras
import numpy as np
import tensorflow as tf


class Vocabulary(keras.layers.Layer):
    """Maps ids to rows 1..n; row 0 is for missing and unknown ids.

    The sorted ids are a variable, not a constant: they are saved with the weights, whatever their number, and never
    enter the graph.
    """

    def __init__(self, ids: np.ndarray, name: str) -> None:
        """Takes int64 [n], sorted and all different."""
        super().__init__(name=name, trainable=False)
        self.ids = tf.Variable(ids, dtype=tf.int64, trainable=False, shape=[len(ids)], name=f"{name}_ids")

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """The int32 rows of int64 `ids`, of any shape."""
        flat = tf.reshape(ids, [-1])
        place = tf.minimum(tf.searchsorted(self.ids, flat), self.ids.shape[0] - 1)
        known = tf.equal(tf.gather(self.ids, place), flat)
        return tf.reshape(tf.where(known, place + 1, 0), tf.shape(ids))
