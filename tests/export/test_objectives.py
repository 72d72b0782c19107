"""Exports whose score is a weighted sum of several, against the Keras model's own predictions."""

from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from typer.testing import CliRunner

from export_tools import Defaults, ExportOptions, SourceOptions, export, inspect, reuse, verify
from export_tools.inspect import summary
from export_tools.sources import open_source
from tfserving_ext.cli import app
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.retrieval import BestFirst
from tfserving_ext.serving.models import load_servable

ITEMS, DIM, K, USERS = 90, 8, 12, 3
IDS = np.random.default_rng(0).permutation(1000)[:ITEMS]
TABLE = np.random.default_rng(1).normal(size=[ITEMS, DIM]).astype(np.float32)
TASTES = np.random.default_rng(2).normal(size=[USERS, DIM]).astype(np.float32)
WIDE = Defaults(k=K, best_first=BestFirst(pool=ITEMS))


@pytest.fixture(scope="module")
def ranker():
    keras.utils.set_random_seed(3)
    taste, item = keras.Input([DIM], name="taste"), keras.Input([DIM], name="item_embedding")
    tower = layers.Dense(8)(layers.Dense(64, activation="relu")(item))  # Wide enough to be folded.
    hidden = layers.Dense(16, activation="relu")(layers.Concatenate()([taste, tower]))
    heads = {name: layers.Dense(1, activation=kind, name=name)(hidden) for name, kind in HEADS.items()}
    return keras.Model([taste, item], heads)


HEADS = {"click": "sigmoid", "buy": "tanh", "stay": None}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(IDS, TABLE, tmp_path_factory.mktemp("objectives") / "index", Hnsw(threads=1))


@pytest.fixture(scope="module")
def exported(ranker, index, tmp_path_factory):
    root = tmp_path_factory.mktemp("objectives")
    ranker.save(root / "ranker.keras")
    return export(
        root / "ranker.keras",
        index.folder,
        root / "1",
        WIDE,
        SourceOptions(objectives={"buy": 5.0, "click": 1.0}),
        ExportOptions(assume="passes+fold"),
    )


@pytest.fixture(scope="module")
def served(exported):
    return load_servable(exported)


@pytest.fixture(scope="module")
def scores(ranker):
    """The model's own scores, [USERS, ITEMS, 2]: buy, click."""
    found = [ranker.predict([np.repeat(taste[None], ITEMS, 0), TABLE], verbose=0) for taste in TASTES]
    return np.stack([np.concatenate([one["buy"], one["click"]], axis=1) for one in found])


@pytest.mark.parametrize("weights", [None, [[0, 1]], [[1, 0], [0.3, -2], [0, 1]]])
@pytest.mark.parametrize("name", ["retrieve", "retrieve_surrogate", "retrieve_rounds", "retrieve_trace"])
def test_answers_are_ranked_by_the_weights_of_the_request(served, scores, weights, name):
    given = {} if weights is None else {"weights": np.float32(weights)}
    answer = served.signature(name).run({"taste": TASTES, **given})
    used = np.broadcast_to(np.float32([[5, 1]] if weights is None else weights), [USERS, 2])
    total = np.einsum("bnt,bt->bn", scores, used)
    for user in range(USERS):
        order = np.argsort(-total[user], kind="stable")[:K]
        np.testing.assert_array_equal(answer["item_ids"][user], IDS[order])
        np.testing.assert_allclose(answer["scores"][user], total[user, order], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(answer["objectives"][user], scores[user, order], rtol=1e-4, atol=1e-5)


def test_inspect_tells_the_objectives(exported):
    found = inspect(exported)
    assert "objectives buy (5), click (1)" in summary(found)
    assert found["manifest"]["source"]["description"]["objectives"] == {"buy": 5.0, "click": 1.0}
    assert found["signatures"]["retrieve"]["inputs"]["weights"] == {"type": "float32 [?, 2]", "default": [[5.0, 1.0]]}


@pytest.mark.slow
def test_an_export_verifies_and_keeps_its_objectives(exported, served, index, tmp_path):
    """Also with another index, and exported again."""
    assert verify(exported)["coverage"] > 0.99
    wanted = served.signature("retrieve").run({"taste": TASTES})
    options = ExportOptions(measure=False)
    for again in (
        reuse(exported, index.folder, tmp_path / "2"),
        export(exported, index.folder, tmp_path / "3", WIDE, options=options),
    ):
        found = load_servable(again).signature("retrieve").run({"taste": TASTES})
        np.testing.assert_array_equal(found["item_ids"], wanted["item_ids"])
        np.testing.assert_allclose(found["objectives"], wanted["objectives"], rtol=1e-4, atol=1e-5)


class Module(tf.Module):
    """A model whose `score` returns all its scores in one tensor."""

    features: ClassVar = {"taste": tf.TensorSpec([None, DIM], tf.float32)}

    def user(self, features):
        return (features["taste"],)

    def score(self, user, items):
        return tf.stack([tf.einsum("bd,bnd->bn", user[0], items), tf.reduce_sum(items, axis=-1)], axis=-1)


@pytest.mark.slow
def test_a_score_of_one_tensor_has_objectives_by_position(index, tmp_path):
    source, options = SourceOptions(objectives={"near": 1, "large": 0}), ExportOptions(rewrite=False)
    saved = export(Module(), index.folder, tmp_path / "1", WIDE, source, options)
    answer = load_servable(saved).signature("retrieve").run({"taste": TASTES, "weights": np.float32([[1, 2]])})
    total = TASTES @ TABLE.T + 2 * TABLE.sum(axis=1)
    np.testing.assert_array_equal(answer["item_ids"], IDS[np.argsort(-total, axis=1)[:, :K]])


def test_wrong_weights_are_refused(served):
    run = served.signature("retrieve").run
    for weights, words in [
        ([[1, 2]] * 2, "weights must have one row per user, or one row for all"),
        ([[1]], r"weights must have the shape \[\?, 2\]"),
        ([[1, np.nan]], "weights holds NaN"),
    ]:
        with pytest.raises(Exception, match=words):
            run({"taste": TASTES, "weights": np.float32(weights)})


class Weighted(Module):
    """A model that has a feature of its own called weights."""

    features: ClassVar = {"taste": tf.TensorSpec([None, DIM], tf.float32), "Weights": tf.TensorSpec([None], tf.float32)}


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (Module, {"objectives": {"a": 1.0, "b": 1.0}, "output": "a"}, "only one can be given"),
        (Module, {"objectives": {"a": 1.0}}, "names 'a' alone; name two or more"),
        (Module, {"objectives": {"a": 0.0, "b": 0.0}}, "not all of them 0"),
        (Module, {"objectives": dict.fromkeys("abc", 1.0)}, r"it must return a dict with these keys, or a tensor"),
        (Weighted, {"objectives": {"a": 1.0, "b": 1.0}}, "a feature is called 'weights'"),
    ],
)
def test_objectives_that_the_model_has_not_are_refused(index, tmp_path, model, options, words):
    with pytest.raises(NannError, match=words):
        export(model(), index.folder, tmp_path / "1", WIDE, SourceOptions(**options), ExportOptions(rewrite=False))


def test_outputs_of_an_archive_must_be_scores(ranker, tmp_path):
    ranker.save(tmp_path / "ranker.keras")
    with pytest.raises(NannError, match="has no output 'like'; its outputs are"):
        open_source(tmp_path / "ranker.keras", objectives={"click": 1.0, "like": 1.0})


@pytest.mark.slow
def test_the_command_takes_weights(ranker, index, tmp_path):
    ranker.save(tmp_path / "ranker.keras")
    command = ["export", str(tmp_path / "ranker.keras"), str(index.folder), "-o", str(tmp_path / "1"), "--no-rewrite"]
    ran = CliRunner().invoke(app, [*command, "--objective", "click", "--objective", "buy=5"])
    assert ran.exit_code == 0, ran.output
    assert inspect(tmp_path / "1")["manifest"]["source"]["description"]["objectives"] == {"click": 1.0, "buy": 5.0}
    refused = CliRunner().invoke(app, [*command, "--objective", "buy=many"])
    assert refused.exit_code != 0 and "it must be NAME or NAME=WEIGHT" in str(refused.exception or refused.output)
