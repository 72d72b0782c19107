"""Wide & deep: crosses of features for a linear model, beside a deep network (Cheng et al., 2016)."""

import keras
from keras import layers, ops


def make(items):
    """Returns a functional model of a dict of inputs."""
    kinds = {"user_id": "int64", "country": "string", "item_id": "int64", "category": "string", "brand": "string"}
    inputs = {name: keras.Input([1], dtype=kind, name=name) for name, kind in kinds.items()}
    cross = layers.HashedCrossing(200)
    crossed = cross((inputs["country"], inputs["category"]))
    brand = layers.StringLookup(vocabulary=sorted(set(items["brand"])), output_mode="one_hot")(inputs["brand"])
    wide = layers.Dense(1)(brand) + layers.Flatten()(layers.Embedding(200, 1, embeddings_initializer="normal")(crossed))
    deep = layers.Concatenate()(
        [layers.Flatten()(layers.Embedding(300, 8)(layers.Hashing(300)(each))) for each in inputs.values()]
    )
    for width in (48, 24):
        deep = layers.BatchNormalization()(layers.Dense(width, activation="relu")(deep))
    return keras.Model(inputs, ops.sigmoid(wide + layers.Dense(1)(deep)))
