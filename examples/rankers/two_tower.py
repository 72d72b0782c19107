"""Two towers, joined by a network in place of a dot product."""

import keras
from keras import layers, ops


def make(items):
    """Returns a functional model that nests two others."""
    history, country = (
        keras.Input([None], dtype="int64", name="history"),
        keras.Input([], dtype="string", name="country"),
    )
    item, category, price = (
        keras.Input([], dtype="int64", name="item_id"),
        keras.Input([], dtype="string", name="category"),
        keras.Input([], name="price"),
    )
    ids = layers.IntegerLookup(vocabulary=items["item_id"].to_numpy(), mask_token=0)
    table = layers.Embedding(ids.vocabulary_size(), 16, mask_zero=True)
    place = layers.StringLookup(vocabulary=["DE", "FR", "JP", "US"], output_mode="one_hot")
    taste = layers.GlobalAveragePooling1D()(table(ids(history)))
    user = layers.Dense(24)(layers.Dense(48, activation="relu")(layers.Concatenate()([taste, place(country)])))
    user_tower = keras.Model([history, country], layers.LayerNormalization()(user), name="user_tower")

    kinds = layers.StringLookup(vocabulary=sorted(set(items["category"])), output_mode="multi_hot")
    own = layers.Embedding(ids.vocabulary_size(), 16)
    features = [own(ids(item)), kinds(ops.expand_dims(category, -1)), ops.expand_dims(ops.log(1.0 + price), -1)]
    vector = layers.Dense(24)(layers.Dense(48, activation="relu")(layers.Concatenate()(features)))
    item_tower = keras.Model([item, category, price], layers.LayerNormalization()(vector), name="item_tower")

    both = [user_tower([history, country]), item_tower([item, category, price])]
    joined = layers.Concatenate()([*both, layers.Multiply()(both)])
    score = layers.Dense(1)(layers.Dense(32, activation="gelu")(joined))
    return keras.Model([history, country, item, category, price], score)
