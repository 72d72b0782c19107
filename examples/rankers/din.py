"""Deep interest network: attention of the candidate over the history (Zhou et al., 2018)."""

import keras
import numpy as np
from keras import layers, ops


def make(items):
    """Returns a functional model of a dict of inputs."""
    inputs = {
        "country": keras.Input([], dtype="string", name="country"),
        "history": keras.Input([12], dtype="int64", name="history"),
        "hour": keras.Input([], dtype="int64", name="hour"),
        "item_id": keras.Input([], dtype="int64", name="item_id"),
        "category": keras.Input([], dtype="string", name="category"),
        "brand": keras.Input([], dtype="string", name="brand"),
        "price": keras.Input([1], name="price"),
    }
    ids = layers.IntegerLookup(vocabulary=items["item_id"].to_numpy(), mask_token=0)
    embed = layers.Embedding(ids.vocabulary_size(), 16)
    codes = ids(inputs["history"])
    history, candidate = embed(codes), embed(ids(inputs["item_id"]))
    repeated = layers.RepeatVector(12)(candidate)
    pairs = layers.Concatenate()([history, repeated, history - repeated, history * repeated])
    weights = layers.Dense(1)(layers.Dense(24, activation="sigmoid")(pairs))
    seen = ops.expand_dims(ops.cast(ops.not_equal(codes, 0), "float32"), -1)
    interest = ops.sum(weights * seen * history, axis=1)

    def text(name):
        lookup = layers.StringLookup(vocabulary=sorted(set(items[name])) if name in items else ["DE", "FR", "JP", "US"])
        return layers.Embedding(lookup.vocabulary_size(), 6)(lookup(inputs[name]))

    price = layers.Normalization()
    price.adapt(np.log1p(items["price"].to_numpy())[:, None])
    joined = [interest, candidate, interest * candidate, *map(text, ("category", "brand", "country"))]
    joined += [price(ops.log1p(inputs["price"])), layers.Embedding(24, 4)(inputs["hour"])]
    hidden = layers.BatchNormalization()(layers.Concatenate()(joined))
    for width in (64, 32):
        hidden = layers.Dropout(0.2)(layers.PReLU()(layers.Dense(width)(hidden)))
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="ctr")(hidden))
