"""DCN-v2: crosses of all features beside a deep network (Wang et al., 2021)."""

import keras
from keras import layers


def make(items):
    """Returns a functional model with a list of inputs."""
    user, country = keras.Input([1], dtype="int64", name="user_id"), keras.Input([1], dtype="string", name="country")
    age = keras.Input([1], name="age")
    item, category = keras.Input([1], dtype="int64", name="item_id"), keras.Input([1], dtype="string", name="category")
    brand, price = keras.Input([1], dtype="string", name="brand"), keras.Input([1], name="price")

    def embed(layer, size, value):
        return layers.Flatten()(layers.Embedding(size, 8)(layer(value)))

    prices, ages = layers.Normalization(), layers.Normalization(mean=40.0, variance=200.0)
    prices.adapt(items["price"].to_numpy()[:, None])
    first = layers.Concatenate()(
        [
            embed(layers.Hashing(64), 64, user),
            embed(layers.StringLookup(vocabulary=["DE", "FR", "JP", "US"]), 5, country),
            ages(age),
            embed(layers.IntegerLookup(vocabulary=items["item_id"].to_numpy()), items.height + 1, item),
            embed(layers.StringLookup(vocabulary=sorted(set(items["category"]))), 9, category),
            embed(layers.Hashing(16), 16, brand),
            prices(price),
        ]
    )
    cross = first
    for _ in range(3):
        cross = layers.Add()([layers.Multiply()([first, layers.Dense(first.shape[-1])(cross)]), cross])
    deep = layers.Dense(32, activation="relu")(layers.Dense(64, activation="relu")(first))
    score = layers.Dense(1)(layers.Concatenate()([cross, deep]))
    return keras.Model([user, country, age, item, category, brand, price], score)
