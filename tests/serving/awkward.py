"""A model whose scores a request can make infinite or NaN, an index smaller than k, and requests for both."""

from typing import ClassVar

import numpy as np
import tensorflow as tf

ITEMS, DIM = 7, 4  # Fewer items than the requests ask for.
LAYERS = 3
IDS = np.arange(ITEMS) * 11 + 100
TABLE = np.random.default_rng(2).normal(size=[ITEMS, DIM]).astype(np.float32)
# All inputs, as a REST client must send them.
FULL = {
    "k": 10,
    "frontier": 4,
    "pool": 20,
    "max_steps": 1000,
    "budget": 0,
    "deadline_ms": 0,
    "seeds": [[]],
    "exclude": [[]],
}
USERS = np.random.default_rng(3).normal(size=[3, DIM]).astype(np.float32)
FEATURES = {"vector": USERS, "age": np.ones([3, 1], np.float32), "factor": np.ones([3], np.float32)}


class Awkward(tf.Module):
    """Scores by dot products, plus the logarithm of `factor`: with 0 all scores are -infinity, with -1 all are NaN.

    `age` may be NaN, which counts as 0.
    """

    features: ClassVar = {
        "vector": tf.TensorSpec([None, DIM]),
        "age": tf.TensorSpec([None, 1]),
        "factor": tf.TensorSpec([None]),
    }

    def user(self, features):
        age = tf.where(tf.math.is_finite(features["age"]), features["age"], 0.0)
        return features["vector"], age, tf.math.log(features["factor"])[:, None]

    def score(self, user, items):
        vector, age, logarithm = user
        return tf.einsum("bd,bnd->bn", vector, items) + age + logarithm


def columns(**changes):
    return {"signature_name": "retrieve", "inputs": {**FULL, **FEATURES, **changes}}


def rows(users=3, **changes):
    """The same request in row form; `changes` hold a value for every user."""
    parameters = {
        key: np.squeeze(value, 0).tolist() if isinstance(value, list) else value for key, value in FULL.items()
    }
    instances = [
        {**parameters, **{key: value[user].tolist() for key, value in FEATURES.items()}} for user in range(users)
    ]
    for key, values in changes.items():
        for instance, value in zip(instances, values, strict=True):
            instance[key] = value
    return {"signature_name": "retrieve", "instances": instances}


def ordered(users):
    """Ids and scores of all items, best first, in NumPy; an age of 1 is added to each score."""
    scores = users @ TABLE.T + 1
    order = np.argsort(-scores, axis=1)
    return IDS[order], np.take_along_axis(scores, order, axis=1)


def check_short(answer, users=USERS):
    """Checks the answer to a request for ten items of an index that has seven."""
    ids, scores = ordered(users)
    answer = {key: np.asarray(value) for key, value in answer.items()}
    np.testing.assert_array_equal(answer["item_ids"], np.pad(ids, [(0, 0), (0, 3)], constant_values=-1))
    np.testing.assert_allclose(answer["scores"][:, :ITEMS], scores, rtol=1e-5)
    assert (answer["scores"][:, ITEMS:].astype(np.float32) == np.finfo(np.float32).min).all()
    assert answer["num_results"].tolist() == [ITEMS] * len(users)
    assert answer["nan_scores"].tolist() == [0] * len(users)
