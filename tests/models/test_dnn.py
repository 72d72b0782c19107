import numpy as np
import tensorflow as tf

from tfserving_ext.models import Dnn, DnnConfig

CONFIG = DnnConfig(embedding_dim=4, history_length=6, pools=3, score_hidden=(7, 5))


def make() -> Dnn:
    model = Dnn(np.arange(10, 40), np.arange(3), np.arange(30), CONFIG)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.3, size=variable.shape))
    return model


def test_the_score_is_what_numpy_computes():
    """The score is the dot product of the user's vector and e_v plus a network over both."""
    model = make()
    rng = np.random.default_rng(1)
    vectors, items = (rng.normal(size=shape).astype(np.float32) for shape in ([2, 8], [2, 7, 8]))
    weights = {variable.path.split("/")[-2] + "/" + variable.name: variable.numpy() for variable in model.variables}

    def by_hand(items):
        hidden = np.concatenate([np.broadcast_to(vectors[:, None], items.shape), items], axis=-1)
        for layer in ("score_1", "score_2"):
            hidden = hidden @ weights[f"{layer}_dense/kernel"] + weights[f"{layer}_dense/bias"]
            hidden = np.where(hidden > 0, hidden, hidden * weights[f"{layer}_prelu/alpha"])
        return np.einsum("bd,bnd->bn", vectors, items) + (hidden @ weights["score_out/kernel"])[..., 0]

    user = (tf.constant(vectors),)
    np.testing.assert_allclose(model.score(user, tf.constant(items)), by_hand(items), rtol=1e-4, atol=1e-5)
    shared = np.broadcast_to(items[:1], items.shape)
    np.testing.assert_allclose(model.score(user, tf.constant(items[:1])), by_hand(shared), rtol=1e-4, atol=1e-5)
