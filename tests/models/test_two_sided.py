import numpy as np
import tensorflow as tf

from tfserving_ext.models import TwoSided, TwoSidedConfig

ITEM_IDS, CATEGORY_IDS = np.arange(10, 40), np.arange(3)
CONFIG = TwoSidedConfig(embedding_dim=4, history_length=6, pools=3, user_hidden=(5,))


def make() -> TwoSided:
    model = TwoSided(ITEM_IDS, CATEGORY_IDS, np.arange(30), CONFIG)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.3, size=variable.shape))
    return model


def features(histories: list[list[int]]) -> dict[str, tf.Tensor]:
    history = tf.constant(histories, tf.int64)
    return {"item_history": history, "category_history": tf.where((history >= 10) & (history < 40), history % 3, -1)}


def test_the_score_is_the_dot_product_of_the_towers():
    model = make()
    user = model.user(features([[10, 11, 12], [20, 21, 22]]))
    items = np.random.default_rng(1).normal(size=[2, 7, 8]).astype(np.float32)
    wanted = np.einsum("bd,bnd->bn", user[0].numpy(), items)
    np.testing.assert_allclose(model.score(user, tf.constant(items)), wanted, rtol=1e-5, atol=1e-6)
    shared = np.einsum("bd,nd->bn", user[0].numpy(), items[0])
    np.testing.assert_allclose(model.score(user, tf.constant(items[:1])), shared, rtol=1e-5, atol=1e-6)


def test_a_user_is_what_numpy_computes():
    """Pools are means with softmax weights, which depend on a behaviour's embedding and its place."""
    model = make()
    (vector,) = model.user(features([[13, 30, 17, 17]]))
    rows = model.items.rows(tf.constant([13, 30, 17, 17], tf.int64))
    categories = model.categories.rows(tf.constant([13 % 3, 30 % 3, 17 % 3, 17 % 3], tf.int64))
    sequence = model.embed(rows, categories).numpy()
    weights = {variable.path.split("/")[-2] + "/" + variable.name: variable.numpy() for variable in model.variables}
    logits = sequence @ weights["pool_dense/kernel"] + model.tower.recency.numpy()[2:]
    exponents = np.exp(logits - logits.max(axis=0))
    pooled = ((exponents / exponents.sum(axis=0)).T @ sequence).ravel()
    hidden = pooled @ weights["user_1_dense/kernel"] + weights["user_1_dense/bias"]
    hidden = np.where(hidden > 0, hidden, hidden * weights["user_1_prelu/alpha"])
    wanted = hidden @ weights["user_out/kernel"] + weights["user_out/bias"]
    np.testing.assert_allclose(vector[0], wanted, rtol=1e-4, atol=1e-5)


def test_padding_and_unknown_items_are_not_part_of_the_user():
    model = make()
    (alone,) = model.user(features([[15, 16]]))
    (padded,) = model.user(features([[-1, -1, 999, -1, 15, 16]]))
    np.testing.assert_allclose(padded, alone, rtol=1e-5)
