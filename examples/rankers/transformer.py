"""Behaviour sequence transformer: the candidate at the end of the history, then attention (Chen et al., 2019)."""

import keras
from keras import layers, ops


def make(items):
    """Returns a functional model."""
    history = keras.Input([12], dtype="int64", name="history")
    age = keras.Input([1], name="age")
    item = keras.Input([1], dtype="int64", name="item_id")
    category = keras.Input([1], dtype="string", name="category")
    ids = layers.IntegerLookup(vocabulary=items["item_id"].to_numpy(), mask_token=0)
    kinds = layers.StringLookup(vocabulary=sorted(set(items["category"])))
    table = layers.Embedding(ids.vocabulary_size(), 16)
    codes = ops.concatenate([ids(history), ids(item)], axis=1)
    sequence = table(codes) + layers.Embedding(13, 16)(ops.arange(13))
    known = ops.not_equal(codes, 0)
    mixed = layers.MultiHeadAttention(2, 8)(sequence, sequence, attention_mask=known[:, None, :])
    sequence = layers.LayerNormalization()(sequence + layers.Dropout(0.1)(mixed))
    sequence = layers.LayerNormalization()(sequence + layers.Dense(16)(layers.Dense(32, activation="relu")(sequence)))
    kind = layers.Flatten()(layers.Embedding(kinds.vocabulary_size(), 6)(kinds(category)))
    joined = layers.Concatenate()([layers.Flatten()(sequence), kind, age / 50.0])
    hidden = layers.LeakyReLU()(layers.Dense(32)(joined))
    return keras.Model([history, age, item, category], layers.Dense(1)(hidden))
