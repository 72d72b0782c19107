"""Multi-gate mixture of experts with two outputs, click and buy (Ma et al., 2018)."""

import keras
from keras import layers, ops


def make(items):
    """Returns a functional model with a dict of outputs."""
    inputs = {
        "user_id": keras.Input([], dtype="int64", name="user_id"),
        "hour": keras.Input([], dtype="int64", name="hour"),
        "item_id": keras.Input([], dtype="int64", name="item_id"),
        "brand": keras.Input([], dtype="string", name="brand"),
        "price": keras.Input([], name="price"),
    }
    ids = layers.IntegerLookup(vocabulary=items["item_id"].to_numpy())
    brands = layers.StringLookup(vocabulary=sorted(set(items["brand"])))
    prices = layers.Discretization(bin_boundaries=[10.0, 20.0, 40.0, 80.0, 160.0])
    joined = layers.Concatenate()(
        [
            layers.Embedding(500, 12)(inputs["user_id"]),
            layers.CategoryEncoding(24, output_mode="one_hot")(ops.expand_dims(inputs["hour"], -1)),
            layers.Embedding(ids.vocabulary_size(), 12)(ids(inputs["item_id"])),
            layers.Embedding(brands.vocabulary_size(), 4)(brands(inputs["brand"])),
            layers.Embedding(6, 4)(prices(inputs["price"])),
        ]
    )
    experts = ops.stack([layers.Dense(16, activation="relu")(joined) for _ in range(4)], axis=1)
    outputs = {}
    for name in ("click", "buy"):
        gate = layers.Dense(4, activation="softmax")(joined)
        mixed = ops.sum(ops.expand_dims(gate, -1) * experts, axis=1)
        outputs[name] = layers.Dense(1, activation="sigmoid", name=name)(layers.Dense(8, activation="relu")(mixed))
    return keras.Model(inputs, outputs)
