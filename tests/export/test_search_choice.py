"""Which search `retrieve` runs: what was asked for, else what an evaluation or `nann tune` found on this index."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, ExportOptions, export, inspect
from export_tools.manifest import read_manifest
from export_tools.search_choice import with_search
from tests.export.sources import SIGNATURES
from tests.index.test_broken import edit_manifest
from tfserving_ext.artifacts import sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.index.format import FEATURE_FILES
from tfserving_ext.index.tuning import FORMAT, FORMAT_VERSION
from tfserving_ext.retrieval import Surrogate
from tfserving_ext.serving.models import load_servable

ITEMS, DIM, K = 3000, 16, 20


class Squashed:
    """A network of an item and a user, behind a sigmoid."""

    features = {"vector": tf.TensorSpec([None, DIM], tf.float32)}  # noqa: RUF012

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.hidden = tf.constant(rng.normal(size=[2 * DIM, 8]).astype(np.float32) / 4)
        self.out = tf.constant(rng.normal(size=[8, 1]).astype(np.float32))

    def user(self, features):
        return (features["vector"],)

    def score(self, user, items):
        users = tf.broadcast_to(user[0][:, None, :], tf.shape(items))
        return tf.sigmoid((tf.tanh(tf.concat([users, items], axis=-1) @ self.hidden) @ self.out)[..., 0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    embeddings = (rng.normal(size=[ITEMS, 6]) @ rng.normal(size=[6, DIM])).astype(np.float32)
    root = tmp_path_factory.mktemp("choice") / "index"
    build_index(np.arange(ITEMS) * 7, embeddings, root, Hnsw(threads=1))
    return root


@pytest.fixture
def index(folder, tmp_path):
    return Index.open(shutil.copytree(folder, tmp_path / "index"))


def evaluation(surrogate, best_first):
    names = ("coverage", "items_scored")
    return {
        "searches": {
            "surrogate": dict(zip(names, surrogate, strict=True)),
            "best_first": dict(zip(names, best_first, strict=True)),
        }
    }


def tuned(index, search, **parameters):
    write_json(
        index.folder / "tuning.json",
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "index_manifest_sha256": sha256(index.folder / "manifest.json"),
            "chosen": {"search": search, "parameters": parameters},
        },
    )


@pytest.mark.parametrize(
    ("figures", "search"),
    [
        (evaluation((0.990, 500), (0.994, 2000)), "surrogate"),
        (evaluation((0.988, 500), (0.994, 2000)), "best_first"),
        (evaluation((0.999, 2001), (0.994, 2000)), "best_first"),
        ({"searches": {"surrogate": {"coverage": 1.0, "items_scored": 1}}}, "best_first"),
        ({"recall_all": 0.5}, "best_first"),
        (None, "best_first"),
    ],
)
def test_an_evaluation_decides(index, figures, search, capsys):
    assert with_search(Defaults(), index, figures).search == search
    assert f"retrieve runs the search {search}" in capsys.readouterr().out


def test_tuning_decides_where_there_is_no_evaluation(index):
    found = {"frontier": 16, "pool": 30, "max_steps": 1000, "batch": 128, "expected_coverage": 0.6}
    tuned(index, "surrogate", **found)
    defaults = with_search(Defaults(), index, None)
    assert defaults.search == "surrogate" and defaults.surrogate == Surrogate(**found)
    assert with_search(Defaults(), index, evaluation((0.9, 9), (1.0, 99))).search == "best_first"
    tuned(index, "rounds", ef=[1], rounds=[1])
    assert with_search(Defaults(), index, None).search == "best_first"
    tuned(index, "surrogate", **found)
    edit_manifest(index, seed=99)  # The tuning is of another build now.
    assert with_search(Defaults(), index, None).search == "best_first"


def test_what_is_asked_for_is_taken(index):
    for search in ("surrogate", "best_first"):
        assert with_search(Defaults(search=search), index, evaluation((0.1, 9), (0.2, 9))).search == search
    with pytest.raises(NannError, match="search is 'beam', allowed are auto, surrogate, best_first"):
        with_search(Defaults(search="beam"), index, None)


def test_an_index_without_features_is_searched_best_first(index, tmp_path):
    for name in FEATURE_FILES:
        (index.folder / name).unlink()
    files = {name: facts for name, facts in index.manifest["files"].items() if name not in FEATURE_FILES}
    edit_manifest(index, format_version=1, files=files)
    saved_model = export(Squashed(), index.folder, tmp_path / "1", Defaults(k=K))
    assert set(inspect(saved_model)["signatures"]) == SIGNATURES - {"retrieve_surrogate"}
    with pytest.raises(NannError, match="no features for the surrogate search; build it again"):
        export(Squashed(), index.folder, tmp_path / "2", Defaults(k=K, search="surrogate"))


def test_each_signature_runs_its_search(index, tmp_path):
    write_json(tmp_path / "evaluation.json", evaluation((0.999, 500), (0.999, 2000)))
    saved_model = export(
        Squashed(),
        index.folder,
        tmp_path / "1",
        Defaults(k=K, surrogate=Surrogate(batch=32, expected_coverage=0.97)),
        options=ExportOptions(evaluation=tmp_path / "evaluation.json", measure=False),
    )
    assert read_manifest(saved_model)["defaults"]["search"] == "surrogate"
    servable = load_servable(saved_model)
    assert set(servable.signatures) == SIGNATURES
    vectors = np.random.default_rng(2).normal(size=[8, DIM]).astype(np.float32)
    seeds = np.random.default_rng(3).choice(ITEMS, [8, 10]) * 7
    asked = {"vector": vectors, "seeds": seeds}
    found = {name: servable.signature(name).run(asked) for name in sorted(SIGNATURES)}
    for name in ("retrieve_surrogate", "retrieve_trace"):
        for output in ("item_ids", "scores", "items_scored", "rounds"):
            np.testing.assert_array_equal(found["retrieve"][output], found[name][output])
    assert found["retrieve"]["items_scored"].mean() < 0.7 * found["retrieve_best_first"]["items_scored"].mean()
    shared = set(found["retrieve"])
    assert set(found["retrieve_best_first"]) == shared
    known = {"candidates", "prediction_error", "estimated_coverage", "fell_back"}
    assert set(found["retrieve_surrogate"]) == shared | known
    # retrieve has no input that a request without the surrogate search would lack.
    assert set(servable.signature("retrieve").proto.inputs) == set(
        servable.signature("retrieve_best_first").proto.inputs
    )
    own = {"batch": np.int32(8), "expected_coverage": np.float32(0.05)}
    less = servable.signature("retrieve_surrogate").run({**asked, **own})
    assert less["items_scored"].sum() < found["retrieve_surrogate"]["items_scored"].sum()
    json.dumps({name: value.tolist() for name, value in less.items()}, allow_nan=False)
