import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import HeldOut
from tfserving_ext.evaluation.checks import FAIL, PASS, WARN, Options, check_scored, judge_gain
from tfserving_ext.evaluation.preflight import Limits, preflight
from tfserving_ext.evaluation.subject import Setting
from tfserving_ext.index import Graph, Hnsw, Index, Layer, build_index, write_index
from tfserving_ext.models.checkpoint import save_model
from tfserving_ext.retrieval import BestFirst, Rounds
from tfserving_ext.training import extract, load_model


def by_name(found):
    return {check["name"]: check for check in found["checks"]}


def rewritten(world, folder, layers=None, **changes):
    """Returns the world's index with other edges."""
    index = Index.open(world.index)
    parts = {"item_ids": index.item_ids, "item_embeddings": index.embeddings(), "entry_points": index.entry_points}
    parts |= changes
    graph = Graph(parts.pop("entry_points"), layers or index.layers)
    write_index(folder, **parts, graph=graph, parameters={"M": 8})
    return folder


def test_a_sound_index_passes_what_the_graph_decides(world):
    found = preflight(world.data, world.model, world.index, held_out=HeldOut(60, max_cases=20), builds=2)
    checks = by_name(found)
    for name in ("scores", "coverage", "recall-delta", "worst users", "unreachable items", "graph builds"):
        assert checks[name]["status"] == "PASS", checks[name]
        assert checks[name]["advice"] == ""
    assert found["verdict"] in ("PASS", "WARN")
    assert [build["seed"] for build in found["builds"]] == [12345, 1, 2]
    assert found["builds"][0]["coverage"] == pytest.approx(checks["coverage"]["value"])  # At k, not at 50.
    assert checks["graph builds"]["value"] == pytest.approx(np.ptp([build["coverage"] for build in found["builds"]]))


def test_worst_users_are_listed_with_their_histories(world):
    found = preflight(world.data, world.model, world.index, BestFirst(2, 20), HeldOut(20, 3))
    worst = found["worst_users"]
    covered = [user["coverage"] for user in worst]
    assert covered == sorted(covered)
    assert covered[0] <= by_name(found)["worst users"]["value"]
    cases = world.sequences.cases("test", 3)
    for user in worst:
        own = cases.user_ids == user["user_id"]
        assert user["cases"] == own.sum()
        assert user["history_length"] == cases.positions[own].max()


def test_a_graph_without_edges_fails_and_says_what_to_change(world, tmp_path):
    n = len(Index.open(world.index).item_ids)
    empty = Layer(np.zeros(n + 1, np.int64), np.zeros(0, np.int32))
    broken = rewritten(world, tmp_path / "index", [empty, empty])
    found = preflight(world.data, world.model, broken, Rounds(), HeldOut(20, max_cases=10))
    checks = by_name(found)
    assert found["verdict"] == "FAIL"
    assert checks["coverage"]["status"] == checks["unreachable items"]["status"] == "FAIL"
    entries = len(np.unique(Index.open(world.index).entry_points))
    assert checks["unreachable items"]["value"] == pytest.approx((n - entries) / n)
    assert "build the graph again" in checks["unreachable items"]["advice"]
    assert "unseeded" not in checks


def test_limits_decide(world):
    strict = dataclasses.replace(Limits(), scored_fraction=(0.0, 0.0), flatness=(0.0, 10.0**9))
    checks = by_name(preflight(world.data, world.model, world.index, held_out=HeldOut(20, max_cases=5), limits=strict))
    assert checks["items scored"]["status"] == "FAIL"
    assert checks["flatness"]["status"] == "WARN"
    assert "wanted: at most 0" in checks["flatness"]["text"]


def test_an_index_of_another_model_or_damaged_is_refused(world, tmp_path):
    index = Index.open(world.index)
    moved = rewritten(world, tmp_path / "other", item_embeddings=index.embeddings() + 1)
    with pytest.raises(NannError, match="was not built from this model's embeddings"):
        preflight(world.data, world.model, moved, held_out=HeldOut(20))
    damaged = shutil.copytree(world.index, tmp_path / "damaged")
    ids = np.fromfile(damaged / "item_ids.bin", np.int64)
    ids[0] -= 1
    ids.tofile(damaged / "item_ids.bin")
    with pytest.raises(NannError, match=r"item_ids\.bin does not have the checksum"):
        preflight(world.data, world.model, damaged, held_out=HeldOut(20))
    with pytest.raises(NannError, match="builds is -1; it must be 0 or more"):
        preflight(world.data, world.model, world.index, builds=-1)


@pytest.mark.parametrize(
    ("interval", "users", "status", "words"),
    [
        ((0.01, 0.05), 30, PASS, ""),
        ((-0.01, 0.05), 30, WARN, "not significantly better than own history"),
        ((-0.05, -0.01), 30, FAIL, "significantly worse than own history"),
        ((-0.05, 0.0), 30, WARN, "not significantly better"),
        ((-0.05, -0.01), 9, WARN, "use more users"),
    ],
)
def test_a_model_that_is_significantly_worse_than_none_fails(interval, users, status, words):
    """Such a model fails, rather than warn that it is "not significantly better". First contact, line 26."""
    check = judge_gain(0.0, interval, users, "own history")
    assert check.status == status
    assert words in check.advice
    assert bool(check.advice) == (status != PASS)


def test_preflight_fails_a_model_without_training(world, tmp_path):
    """The same, from artefacts: users buy the same items again, which a model with random weights does not know."""
    trained = load_model(world.model)
    for variable in trained.model.trainable_variables:
        variable.assign(tf.random.stateless_normal(variable.shape, [3, 4]))
    save_model(tmp_path / "model", trained.model, trained.item_categories, {})
    extract(tmp_path / "model", tmp_path / "embeddings")
    arrays = (np.load(tmp_path / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
    build_index(*arrays, tmp_path / "index", Hnsw(threads=1))
    found = preflight(world.data, tmp_path / "model", tmp_path / "index", held_out=HeldOut(20, 3))
    check = by_name(found)["model"]
    assert check["status"] == FAIL, check


def advised(search, k=20, training=None, build=None):
    """Returns all advice that is given when every limit is broken."""
    return Options(Setting.deployed(search), k, training or {}, build or {})


def test_advice_is_never_what_is_done_already():
    """It does not advise to search from the history if that is done, nor a smaller --pool than k allows.

    First contact, line 26.
    """
    best_first = advised(BestFirst(16, 200), 200)
    assert "--pool above 200" in best_first.wider()
    assert "history" not in best_first.wider()
    assert "--search best_first" in advised(Rounds((1, 2, 3), (4, 5, 6))).wider()
    assert "--ef above 1,2,3, --rounds above 4,5,6" in advised(Rounds((1, 2, 3), (4, 5, 6))).wider()
    trained = advised(BestFirst(), training={"epsilon": 0.25, "learning_rate": 0.003, "clip_norm": 2.0})
    assert trained.flatter() == "train with an --epsilon above 0.25"
    assert trained.tamer() == "train it again with a --learning-rate below 0.003 or with a --clip-norm below 2"
    assert (
        advised(BestFirst()).tamer()
        == "train it again with a --learning-rate below the present one or with --clip-norm"
    )
    built = advised(BestFirst(), build={"M": 32, "efConstruction": 40})
    assert built.denser() == "--m above 32 or --ef-construction above 40"
    knn = advised(BestFirst(), build={"M": 32, "efConstruction": 40, "graph": "knn", "knn": {"K": 24}})
    assert knn.denser() == "--neighbors above 24"
    scored = SimpleNamespace(items_scored=np.array([90]))
    nothing = Limits(scored_fraction=(0.0, 2.0))
    for search, words in (
        (BestFirst(16, 200), "fewer answers than 200"),
        (BestFirst(16, 300), "a --pool below 300"),
        (Rounds((1, 2, 3), (4, 5, 6)), "--search best_first, or with --ef below 1,2,3"),
    ):
        assert words in check_scored(scored, 100, nothing, advised(search, 200)).advice
