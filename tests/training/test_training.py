import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Rules
from tfserving_ext.errors import NannError
from tfserving_ext.index import Index, build_index
from tfserving_ext.models import NannAttentionConfig, TwoSidedConfig
from tfserving_ext.training import TrainingConfig, check_match, extract, fit, load_model


def changed(path, at: int, value: int) -> None:
    """Writes another id: ids are looked up by bisection, and -1 means none. First contact, line 4."""
    ids = np.load(path)
    ids[at] = value
    np.save(path, ids)


@pytest.mark.slow
def test_training_lowers_the_loss(world, tmp_path):
    start = fit(world.data, tmp_path / "start", TrainingConfig(steps=1, batch_size=64, negatives=50, epsilon=0))
    end = fit(world.data, tmp_path / "end", TrainingConfig(steps=150, batch_size=64, negatives=50, epsilon=0))
    assert end["softmax_loss"] < start["softmax_loss"] - 0.3


def test_a_saved_model_scores_as_before(world):
    first, again = load_model(world.model), load_model(world.model)
    features = {"item_id": tf.constant(first.item_ids), "category_id": tf.constant(first.item_categories)}
    np.testing.assert_array_equal(first.model.item(features).numpy(), again.model.item(features).numpy())
    np.testing.assert_array_equal(np.load(world.embeddings / "item_embs.npy"), first.model.item(features).numpy())
    np.testing.assert_array_equal(np.load(world.embeddings / "item_ids.npy"), first.item_ids)


@pytest.mark.slow
def test_starts_from_another_kinds_item_embeddings(world, tmp_path):
    quick = TrainingConfig(steps=3, batch_size=16, negatives=10)
    fit(world.data, tmp_path / "two_sided", quick, TwoSidedConfig())
    still = dataclasses.replace(quick, steps=1, learning_rate=0)
    report = fit(world.data, tmp_path / "model", still, start_from=tmp_path / "two_sided")
    start, model = (load_model(tmp_path / name).model for name in ("two_sided", "model"))
    for name in ("item_table", "category_table"):
        np.testing.assert_array_equal(*(np.asarray(getattr(one, name)) for one in (start, model)))
    for mine, theirs in zip(
        model.item_network.trainable_variables, start.item_network.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert report["start_from"]["model"] == "two_sided"
    with pytest.raises(NannError, match=r"embedding_dim of 32, this model has 8; they must be the same"):
        fit(world.data, tmp_path / "new", quick, NannAttentionConfig(embedding_dim=8), tmp_path / "two_sided")
    convert(world.csv, tmp_path / "data", Rules(min_item_count=20, validation=0.1, test=0.2))
    with pytest.raises(NannError, match=r"two_sided knows \d+ items, the data has \d+; they must be the same"):
        fit(tmp_path / "data", tmp_path / "new", quick, start_from=tmp_path / "two_sided")
    with pytest.raises(NannError, match="nowhere is not a trained model"):
        fit(world.data, tmp_path / "new", quick, start_from=tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


def _edit_json(folder, **fields):
    manifest = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**manifest, **fields}))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "model.json").unlink(), "is not a trained model"),
        (lambda folder: (folder / "model.json").write_text("{"), "is not valid JSON"),
        (lambda folder: _edit_json(folder, format="other"), "'other'"),
        (lambda folder: _edit_json(folder, format_version=99), "version 99"),
        (
            lambda folder: _edit_json(folder, model="other_sided"),
            "'other_sided', this release knows 'nann_attention', 'dnn', 'two_sided'",
        ),
        (lambda folder: _edit_json(folder, model=["two_sided"]), "the model is ['two_sided']"),
        (lambda folder: _edit_json(folder, model="two_sided"), "no usable config"),
        (lambda folder: _edit_json(folder, config={}), "no usable config"),
        (lambda folder: np.save(folder / "item_ids.npy", np.arange(3)), "item categories"),
        (
            lambda folder: changed(folder / "item_ids.npy", 3, -1),
            "item_ids.npy[3] is -1, after ",
        ),
        (lambda folder: changed(folder / "item_ids.npy", 0, -1), "item_ids.npy[0] is -1, the mark for 'no item'"),
        (lambda folder: changed(folder / "category_ids.npy", 1, 0), "category_ids.npy[1] is 0, after "),
        (lambda folder: np.save(folder / "category_ids.npy", np.ones(12)), "category_ids.npy is float64 [12]"),
        (lambda folder: (folder / "weights.index").unlink(), "weights.index does not exist"),
        (
            lambda folder: tf.train.Checkpoint(x=tf.Variable(1.0)).write(str(folder / "weights")),
            "belong to another model",
        ),
        (lambda folder: os.truncate(folder / "weights.data-00000-of-00001", 100), "damaged"),
    ],
)
def test_refuses_a_checkpoint_of_another_model(world, tmp_path, break_it, words):
    folder = shutil.copytree(world.model, tmp_path / "model")
    break_it(folder)
    with pytest.raises(NannError) as error:
        load_model(folder)
    assert words in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.slow
def test_a_dot_product_that_is_started_from_stays_as_it_is(world, tmp_path):
    """Inside the attention model, a two-sided model gives the initial score, and only the new layers learn."""
    quick = TrainingConfig(steps=4, batch_size=16, negatives=10)
    fit(world.data, tmp_path / "two_sided", quick, TwoSidedConfig(history_length=20))
    sizes = NannAttentionConfig(history_length=40, attention_length=20, matches=3, pools=8)
    users = tf.constant(world.sequences.cases("test", 1, 40).histories[:3])
    rows = tf.range(1, 30)
    categories = tf.constant(world.sequences.category_rows_of(rows.numpy()))
    scores = {}
    for steps in (1, 4):
        still = dataclasses.replace(quick, steps=steps, learning_rate=0 if steps == 1 else 0.01)
        fit(world.data, tmp_path / "model", still, sizes, start_from=tmp_path / "two_sided")
        for name in ("two_sided", "model"):
            model = load_model(tmp_path / name).model
            histories = users[:, -model.config.history_length :]
            user = model.user_from_rows(histories, tf.constant(world.sequences.category_rows_of(histories.numpy())))
            scores[name, steps] = model.score(user, model.item_from_rows(rows, categories)[None]).numpy()
        for part in ("item_table", "category_table"):
            np.testing.assert_array_equal(
                *(np.asarray(getattr(load_model(tmp_path / name).model, part)) for name in ("two_sided", "model"))
            )
    np.testing.assert_allclose(scores["model", 1], scores["two_sided", 1], atol=1e-4)
    assert np.abs(scores["model", 4] - scores["two_sided", 4]).max() > 1e-3


@pytest.mark.slow
def test_refuses_an_index_of_another_training(world, tmp_path):
    fit(world.data, tmp_path / "model", TrainingConfig(steps=5, batch_size=32, negatives=20, seed=1))
    extract(tmp_path / "model", tmp_path / "embeddings")
    arrays = (np.load(tmp_path / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
    other = build_index(*arrays, tmp_path / "index")
    check_match(load_model(tmp_path / "model"), other)
    with pytest.raises(NannError, match="was not built from this model's embeddings"):
        check_match(load_model(tmp_path / "model"), Index.open(world.index))
