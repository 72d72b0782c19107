import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.models import NannAttention, NannAttentionConfig

ITEM_IDS = np.array([10, 20, 35, 70, 90])
CATEGORY_IDS = np.array([3, 8])
LENGTH = 6


@pytest.fixture(
    params=[
        {"mask_padding": True, "matches": 0, "pools": 0},
        {"mask_padding": False, "matches": 0, "pools": 0},
        {"mask_padding": True, "matches": 3, "attention_length": 4},
        {"mask_padding": False, "matches": 3, "pools": 0},
        {"mask_padding": True, "matches": 0, "pools": 2},
    ],
    ids=["masked", "unmasked", "masked-matches", "unmasked-matches", "pools"],
)
def model(request):
    config = NannAttentionConfig(embedding_dim=4, history_length=LENGTH, **request.param)
    made = NannAttention(ITEM_IDS, CATEGORY_IDS, np.array([1, 5, 2, 9, 3]), config)
    rng = np.random.default_rng(0)
    for variable in made.trainable_variables:  # Zero biases and equal slopes would hide errors.
        variable.assign(variable + rng.normal(scale=0.1, size=variable.shape))
    if made.config.matches:
        made.match_norm.moving_mean.assign(rng.normal(size=made.item_dim))
        made.match_norm.moving_variance.assign(rng.uniform(0.5, 2, size=made.item_dim))
    return made


def reference_score(model, sequence, items):
    """Computes one user's score in NumPy from embedded behaviours [L, d] and items [N, d]: the paper's, and matches."""

    def network(layers, x):
        for layer in layers:
            weights = [np.asarray(weight) for weight in layer.get_weights()]
            if "prelu" in layer.name:
                x = np.where(x > 0, x, weights[0] * x)
            else:
                x = x @ weights[0] + (weights[1] if len(weights) > 1 else 0)
        return x

    last = sequence[-model.config.attended :]
    keys = network(model.key_network.layers, last)
    queries = network(model.query_network.layers, items)
    logits = queries @ keys.T / np.sqrt(keys.shape[1])
    logits += model.recency.numpy()
    if model.config.mask_padding:
        logits = np.where((last != 0).any(axis=1)[None, :], logits, -1e9)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    seen = [weights / weights.sum(axis=1, keepdims=True) @ last]
    if model.config.matches:
        present = (sequence != 0).any(axis=1)
        embeddings = model.item_network(sequence).numpy()
        norm = model.match_norm
        scale = np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        mine, theirs = ((x - norm.moving_mean.numpy()) / scale for x in (items, embeddings))
        cosines = mine @ theirs.T / np.linalg.norm(mine, axis=1)[:, None] / np.linalg.norm(theirs, axis=1)
        gates = np.exp(model.sharpness.numpy() * (cosines - 1)) * present
        seen.append(np.log1p(gates @ np.exp(model.match_recency.numpy())))
    scores = network(model.score_network.layers, np.concatenate([*seen, items], axis=1))[:, 0]
    if model.config.pools:
        mask = np.where((last != 0).any(axis=1) | (not model.config.mask_padding), 0, -1e9)
        scores += items @ model.tower(tf.constant(last[None]), tf.constant(mask[None], tf.float32)).numpy()[0]
    return scores


def histories(*rows):
    return {
        "item_history": tf.constant(rows, tf.int64),
        "category_history": tf.where(tf.constant(rows, tf.int64) > 0, tf.constant(3, tf.int64), 0),
    }


@pytest.mark.medium
def test_scores_equal_the_formula(model):
    rng = np.random.default_rng(1)
    features = {
        "item_history": tf.constant([[0, 0, 10, 35, 20, 90], [70, 70, 10, 35, 20, 90]], tf.int64),
        "category_history": tf.constant([[0, 0, 3, 8, 3, 8], [8, 3, 3, 8, 3, 8]], tf.int64),
    }
    items = rng.normal(size=[2, 7, model.item_dim]).astype(np.float32)
    user = model.user(features)
    rows = (model.items.rows(features["item_history"]), model.categories.rows(features["category_history"]))
    sequences = model.embed(*rows)
    scores = model.score(user, tf.constant(items)).numpy()
    for row in range(2):
        expected = reference_score(model, sequences[row].numpy(), items[row])
        np.testing.assert_allclose(scores[row], expected, rtol=1e-4, atol=1e-5)


def test_items_shared_by_all_users_score_as_if_repeated(model):
    user = model.user(histories([10, 20, 35, 70, 90, 10], [0, 0, 0, 0, 0, 70]))
    items = tf.random.stateless_normal([1, 5, model.item_dim], [1, 2])
    np.testing.assert_allclose(
        model.score(user, items).numpy(), model.score(user, tf.repeat(items, 2, axis=0)).numpy(), rtol=1e-5, atol=1e-6
    )


def test_padding_beside_a_history_changes_nothing_when_masked():
    config = NannAttentionConfig(embedding_dim=4, history_length=LENGTH, recency=False, matches=0, pools=0)
    model = NannAttention(ITEM_IDS, CATEGORY_IDS, config=config)
    assert not any("recency" in variable.name for variable in model.trainable_variables)
    items = tf.random.stateless_normal([1, 5, model.item_dim], [1, 2])
    short = model.user(histories([10, 20]))
    padded = model.user(histories([0, 10, 0, 0, 20, 0]))
    np.testing.assert_allclose(model.score(short, items).numpy(), model.score(padded, items).numpy(), rtol=1e-5)


def test_unknown_ids_count_as_missing(model):
    known = model.user(histories([0, 0, 0, 0, 10, 90]))
    rows = model.items.rows(tf.constant([-5, 0, 9, 10, 11, 90, 91, 2**62], tf.int64))
    assert rows.numpy().tolist() == [0, 0, 0, 1, 0, 5, 0, 0]
    features = {
        "item_history": tf.constant([[11, 2**62, -1, 0, 10, 90]], tf.int64),
        "category_history": tf.constant([[4, 9, -1, 0, 3, 3]], tf.int64),
    }
    values = model.user(features)[1][0].numpy()
    np.testing.assert_array_equal(values[-2:], known[1][0, -2:].numpy())
    assert not values[:-2].any()


@pytest.mark.medium
@pytest.mark.parametrize("length", [0, 1, LENGTH, LENGTH + 5])
def test_takes_the_last_behaviours_of_any_length(model, length):
    rng = np.random.default_rng(length)
    history = rng.choice(ITEM_IDS, size=[2, length])
    user = (
        model.user(histories(*history))
        if length
        else model.user({"item_history": tf.zeros([2, 0], tf.int64), "category_history": tf.zeros([2, 0], tf.int64)})
    )
    last = history[:, -LENGTH:]
    padded = np.concatenate([np.zeros([2, LENGTH - last.shape[1]], np.int64), last], axis=1)
    rows = model.items.rows(tf.constant(padded, tf.int64))
    expected = model.embed(rows, tf.where(rows > 0, 1, 0))
    np.testing.assert_array_equal(user[1].numpy(), expected[:, -model.config.attended :].numpy())
    assert np.isfinite(model.score(user, tf.ones([2, 3, model.item_dim])).numpy()).all()


def test_first_coordinate_starts_as_the_log_frequency():
    counts = np.array([1, 100, 5, 2, 30])
    model = NannAttention(ITEM_IDS, CATEGORY_IDS, counts)
    start = np.asarray(model.item_table)[1:, 0]
    assert np.argsort(start).tolist() == np.argsort(counts).tolist()
    assert not np.asarray(model.item_table)[0].any()
