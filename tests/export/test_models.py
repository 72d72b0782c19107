"""Any model of behaviour sequences can be exported, whatever its user tensors are."""

import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, export, verify
from tests.export.explained import check_explained
from tests.export.sources import SIGNATURES
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.models import NannAttentionConfig, TwoSidedConfig
from tfserving_ext.training import Recipe, TrainingConfig, extract, fit, load_model, train


def retrieve(served, history, pool):
    """Returns the best ten; the pool holds all items, so that the walk meets everything that is connected."""
    return served.signatures["retrieve"](
        item_history=tf.constant(history),
        category_history=tf.zeros([0, 0], tf.int64),
        k=tf.constant(10),
        frontier=tf.constant(16),
        pool=tf.constant(pool),
        max_steps=tf.constant(1000),
        exclude=tf.zeros([0, 0], tf.int64),
        budget=tf.constant(0, tf.int64),
        deadline_ms=tf.constant(0),
    )


@pytest.mark.slow
def test_a_two_sided_model_answers_with_the_largest_dot_products(world, tmp_path):
    fit(world.data, tmp_path / "model", TrainingConfig(steps=3, batch_size=16, negatives=10), TwoSidedConfig())
    extract(tmp_path / "model", tmp_path / "embeddings")
    ids, embeddings = (np.load(tmp_path / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
    build_index(ids, embeddings, tmp_path / "index", Hnsw(threads=1))
    target = export(tmp_path / "model", tmp_path / "index", tmp_path / "models" / "two_sided" / "1", Defaults(k=10))
    assert set(verify(target)["signatures"]) == SIGNATURES

    opened = Index.open(tmp_path / "index")
    history = opened.item_ids[np.array([[3, 44, 9], [100, 7, 7]])]
    trained = load_model(tmp_path / "model")
    (users,) = trained.model.user(
        {
            "item_history": tf.constant(history),
            "category_history": tf.gather(trained.item_categories, trained.model.items.rows(history) - 1),
        }
    )
    dots = users.numpy() @ opened.item_embeddings[: len(opened.item_ids)].T
    wanted = opened.item_ids[np.argsort(-dots, axis=1)[:, :10]]

    served = tf.saved_model.load(str(target))
    answer = retrieve(served, history, len(ids))
    np.testing.assert_array_equal(answer["item_ids"], wanted)
    np.testing.assert_allclose(answer["scores"], np.sort(-dots, axis=1)[:, :10] * -1, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_model_of_long_histories_answers_as_it_scores(world, tmp_path):
    """The model is as `nann train` makes it; a request of alibaba/nann carries fewer behaviours."""
    quick = TrainingConfig(steps=10, batch_size=16, negatives=20)
    sizes = NannAttentionConfig(history_length=80, attention_length=40, matches=3, pools=8)
    train(world.data, tmp_path / "model", Recipe(sizes, quick, quick))
    extract(tmp_path / "model", tmp_path / "embeddings")
    ids, embeddings = (np.load(tmp_path / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
    build_index(ids, embeddings, tmp_path / "index", Hnsw(threads=1))
    target = export(tmp_path / "model", tmp_path / "index", tmp_path / "models" / "nann" / "1", Defaults(k=10))
    check_explained(target, tmp_path)
    assert set(verify(target)["signatures"]) == SIGNATURES

    opened, trained = Index.open(tmp_path / "index"), load_model(tmp_path / "model")
    history = opened.item_ids[np.random.default_rng(0).integers(len(ids), size=[1, 70])]
    categories = tf.gather(trained.item_categories, trained.model.items.rows(history) - 1)
    items = tf.constant(opened.item_embeddings[: len(ids)])[None]

    def best(user):
        scores = trained.model.score(user, items)[0].numpy()
        order = np.argsort(-scores)[:10]
        return opened.item_ids[order], scores[order]

    served = tf.saved_model.load(str(target))
    answer = retrieve(served, history, len(ids))
    features = {"item_history": tf.constant(history), "category_history": categories}
    wanted, scores = best(trained.model.user(features))
    np.testing.assert_array_equal(answer["item_ids"][0], wanted)
    np.testing.assert_allclose(answer["scores"][0], scores, rtol=1e-4, atol=1e-5)

    rows, known = trained.model.items.rows(history), trained.model.categories.rows(categories)
    sent = trained.model.embed(rows, known)[:, -50:].numpy().astype(np.float16)
    answer = served.signatures["serving_default"](
        comm_seq=tf.constant(sent.reshape(1, -1)), level_topn=tf.constant([200, 500, 500, 500, 500, 10])
    )
    padded = np.concatenate([np.zeros([1, 30, 64]), sent], axis=1).astype(np.float32)
    wanted, _ = best(trained.model.user_from_sequence(tf.constant(padded)))
    np.testing.assert_array_equal(answer["top_k"][0], wanted)
