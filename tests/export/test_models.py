"""Any model of behaviour sequences exports, whatever its user is made of."""

import numpy as np
import tensorflow as tf

from export_tools import Defaults, export, verify
from tfserving_ext.index import Index, build_index
from tfserving_ext.models import TwoSidedConfig
from tfserving_ext.training import TrainingConfig, extract, load_model, train


def test_a_two_sided_model_answers_with_the_largest_dot_products(world, tmp_path):
    train(world.data, tmp_path / "model", TrainingConfig(steps=3, batch_size=16, negatives=10), TwoSidedConfig())
    extract(tmp_path / "model", tmp_path / "embeddings")
    ids, embeddings = (np.load(tmp_path / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
    build_index(ids, embeddings, tmp_path / "index", threads=1)
    target = export(tmp_path / "model", tmp_path / "index", tmp_path / "models" / "two_sided" / "1", Defaults(k=10))
    assert set(verify(target)["signatures"]) == {"serving_default", "retrieve", "retrieve_rounds"}

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
    answer = served.signatures["retrieve"](
        item_history=tf.constant(history),
        category_history=tf.zeros([0, 0], tf.int64),
        k=tf.constant(10),
        frontier=tf.constant(16),
        pool=tf.constant(len(ids)),  # Nothing is cut off: the walk meets all that is connected.
        exclude=tf.zeros([0, 0], tf.int64),
        budget=tf.constant(0, tf.int64),
        deadline_ms=tf.constant(0),
    )
    np.testing.assert_array_equal(answer["item_ids"], wanted)
    np.testing.assert_allclose(answer["scores"], np.sort(-dots, axis=1)[:, :10] * -1, rtol=1e-4, atol=1e-5)
