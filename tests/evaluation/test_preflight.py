import dataclasses
import shutil

import numpy as np
import pytest

from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.preflight import Limits, preflight
from tfserving_ext.index import Index
from tfserving_ext.index.format import Layer, write_index
from tfserving_ext.retrieval import BestFirst, Rounds


def by_name(found):
    return {check["name"]: check for check in found["checks"]}


def rewritten(world, folder, layers=None, **changes):
    """The world's index with other edges."""
    index = Index.open(world.index)
    parts = {"item_ids": index.item_ids, "item_embeddings": index.embeddings(), "entry_points": index.entry_points}
    write_index(folder, **{**parts, **changes}, layers=layers or index.layers, parameters={"M": 8})
    return folder


def test_a_sound_index_passes_what_the_graph_decides(world):
    found = preflight(world.data, world.model, world.index, k=20, max_cases=20, builds=2)
    checks = by_name(found)
    for name in ("scores", "coverage", "recall-delta", "worst users", "unreachable items", "graph builds"):
        assert checks[name]["status"] == "PASS", checks[name]
        assert checks[name]["advice"] == ""
    assert found["verdict"] in ("PASS", "WARN")
    assert [build["seed"] for build in found["builds"]] == [12345, 1, 2]
    assert checks["graph builds"]["value"] == pytest.approx(np.ptp([build["coverage"] for build in found["builds"]]))


def test_worst_users_are_told_with_their_histories(world):
    found = preflight(world.data, world.model, world.index, BestFirst(2, 20), k=20, positions_per_user=3)
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
    found = preflight(world.data, world.model, broken, Rounds(), k=20, max_cases=10)
    checks = by_name(found)
    assert found["verdict"] == "FAIL"
    assert checks["coverage"]["status"] == checks["unreachable items"]["status"] == "FAIL"
    entries = len(np.unique(Index.open(world.index).entry_points))
    assert checks["unreachable items"]["value"] == pytest.approx((n - entries) / n)
    assert "--ef-construction" in checks["unreachable items"]["advice"]
    assert "unseeded" not in checks


def test_limits_decide(world):
    strict = dataclasses.replace(Limits(), scored_fraction=(0.0, 0.0), flatness=(0.0, 10.0**9))
    checks = by_name(preflight(world.data, world.model, world.index, k=20, max_cases=5, limits=strict))
    assert checks["items scored"]["status"] == "FAIL"
    assert checks["flatness"]["status"] == "WARN"
    assert "wanted: at most 0" in checks["flatness"]["text"]


def test_an_index_of_another_model_or_damaged_is_refused(world, tmp_path):
    index = Index.open(world.index)
    moved = rewritten(world, tmp_path / "other", item_embeddings=index.embeddings() + 1)
    with pytest.raises(NannError, match="was not built from this model's embeddings"):
        preflight(world.data, world.model, moved, k=20)
    damaged = shutil.copytree(world.index, tmp_path / "damaged")
    ids = np.fromfile(damaged / "item_ids.bin", np.int64)
    ids[0] -= 1
    ids.tofile(damaged / "item_ids.bin")
    with pytest.raises(NannError, match=r"item_ids\.bin does not have the checksum"):
        preflight(world.data, world.model, damaged, k=20)
    with pytest.raises(NannError, match="builds is -1; it must be 0 or more"):
        preflight(world.data, world.model, world.index, builds=-1)
