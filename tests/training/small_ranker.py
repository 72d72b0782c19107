"""A small ranker of made-up items, with strings on both sides, whose parts can also be called by hand."""

import keras
import numpy as np
import polars as pl
import tensorflow as tf
from keras import layers

ITEMS = 30
TABLE = pl.DataFrame({"item_id": np.arange(ITEMS) + 100, "kind": [f"k{n % 4}" for n in range(ITEMS)]})

# Usual embeddings are so small at first that the divergence is lost in rounding.
WIDE = keras.initializers.RandomNormal(stddev=1.0, seed=7)


def parts(activation=None, seed=1):
    """The layers of a small ranker, to be called by hand or as a model."""
    keras.utils.set_random_seed(seed)
    kinds = layers.StringLookup(vocabulary=sorted(set(TABLE["kind"])))
    ids = layers.IntegerLookup(vocabulary=TABLE["item_id"].to_numpy())
    return {
        "kinds": kinds,
        "ids": ids,
        "own": layers.Embedding(ITEMS + 1, 4, embeddings_initializer=WIDE),
        "of_kind": layers.Embedding(5, 3, embeddings_initializer=WIDE),
        "item": layers.Dense(5, activation="tanh", name="item_vector"),
        "place": layers.StringLookup(vocabulary=["DE", "FR"]),
        "of_place": layers.Embedding(3, 5, embeddings_initializer=WIDE),
        "hidden": layers.Dense(7, activation="tanh", kernel_regularizer="l2"),
        "score": layers.Dense(1, activation=activation, name="score"),
    }


def vectors(made, rows):
    both = [made["own"](made["ids"](rows["item_id"])), made["of_kind"](made["kinds"](rows["kind"]))]
    return made["item"](layers.concatenate(both))


def scores(made, rows, items):
    user = layers.concatenate([made["of_place"](made["place"](rows["country"])), rows["age"]])
    return made["score"](made["hidden"](layers.concatenate([items, user])))


def ranker(made):
    inputs = {
        "item_id": keras.Input([], dtype="int64", name="item_id"),
        "kind": keras.Input([], dtype="string", name="kind"),
        "country": keras.Input([], dtype="string", name="country"),
        "age": keras.Input([1], name="age"),
    }
    return keras.Model(inputs, scores(made, inputs, vectors(made, inputs)))


def batch(rows=16, seed=0):
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, ITEMS, rows)
    given = {
        "item_id": TABLE["item_id"].to_numpy()[chosen],
        "kind": TABLE["kind"].to_numpy()[chosen].astype(str),
        "country": rng.choice(["DE", "FR", "US"], rows),
        "age": rng.normal(size=[rows, 1]).astype(np.float32),
    }
    given = {name: tf.constant(value) for name, value in given.items()}
    return given, tf.constant(rng.integers(0, 2, [rows, 1]), tf.float32), tf.constant(rng.random([rows]), tf.float32)


def data(rows=64):
    given, clicked, weights = batch(rows)
    return tf.data.Dataset.from_tensor_slices((given, clicked, weights)).batch(16)
