"""A query against the titles of items: words are split and looked up inside the model."""

import keras
from keras import layers


def make(items):
    """Returns a functional model of a dict of inputs."""
    query = keras.Input([], dtype="string", name="query")
    country = keras.Input([], dtype="string", name="country")
    title = keras.Input([], dtype="string", name="title")
    price = keras.Input([1], name="price")
    words = layers.TextVectorization(output_sequence_length=8)
    words.adapt(items["title"].to_list())
    table = layers.Embedding(words.vocabulary_size(), 16, mask_zero=True)
    asked = layers.GlobalAveragePooling1D()(table(words(query)))
    offered = layers.GlobalAveragePooling1D()(table(words(title)))
    prices = layers.Normalization()
    prices.adapt(items["price"].to_numpy()[:, None])
    place = layers.Embedding(8, 4)(layers.Hashing(8)(country))
    joined = layers.Concatenate()([asked, offered, layers.Multiply()([asked, offered]), prices(price), place])
    hidden = layers.Dense(32, activation="relu")(joined)
    return keras.Model({"query": query, "country": country, "title": title, "price": price}, layers.Dense(1)(hidden))
