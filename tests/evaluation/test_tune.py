import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export_tools import Defaults, ExportOptions, export
from tfserving_ext.artifacts import read_json, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import HeldOut
from tfserving_ext.evaluation.tune import choose, grid, options, pareto, promising, tune
from tfserving_ext.index import Index
from tfserving_ext.index.tuning import read_tuning
from tfserving_ext.retrieval import BestFirst, Rounds

HELD_OUT = HeldOut(20, max_cases=500, split="validation")
CANDIDATES = [BestFirst(4, 20), BestFirst(16, 20), BestFirst(16, 60), Rounds((10, 20, 20), (1, 1, 1)), Rounds()]
small = st.integers(0, 4)


def beats(one, other):
    pairs = [(-one["coverage"], -other["coverage"]), *((one[key], other[key]) for key in ("items_scored", "ms"))]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@given(st.lists(st.tuples(small, small, small), max_size=12))
def test_no_row_of_the_table_is_dominated_and_every_other_is(values):
    rows = [{"coverage": c, "items_scored": s, "ms": m} for c, s, m in values]
    kept = pareto(rows)
    table = [rows[place] for place in kept]
    assert not any(beats(one, other) for one in rows for other in table)
    for place, row in enumerate(rows):
        assert place in kept or row in table or any(beats(one, row) for one in table)
    assert len({tuple(row.values()) for row in table}) == len(table)
    assert [row["coverage"] for row in table] == sorted((row["coverage"] for row in table), reverse=True)


@given(st.lists(st.tuples(small, small, small), max_size=12))
def test_rows_left_out_early_are_beaten_by_rows_that_stay(values):
    rows = [{"coverage": c, "items_scored": s, "ms": 1.2**m} for c, s, m in values]
    left = [rows[place] for place in promising(rows)]
    for row in rows:
        assert row in left or any(beats(one, row) and one["ms"] * 1.25 < row["ms"] for one in left)


def row(coverage, ms):
    parameters = {"frontier": 16, "pool": int(1000 * coverage)}
    return {"search": "best_first", "parameters": parameters, "coverage": coverage, "ms": ms, "ms_p95": 2 * ms}


def test_the_chosen_row_meets_the_requirements():
    table = [row(0.99, 4.0), row(0.98, 3.0), row(0.9, 1.0)]
    assert choose(table, coverage=0.98) == table[1]
    assert choose(table, latency_ms=7.0) == table[1]
    assert choose(table, coverage=0.5, latency_ms=9.0) == table[2]
    with pytest.raises(NannError, match=r"coverage is 0\.995; the most that 3 settings reach is 0\.9900"):
        choose(table, coverage=0.995)
    with pytest.raises(NannError, match=r"coverage is 0.99; the most that 2 settings .* --pool 980"):
        choose(table, coverage=0.99, latency_ms=7.0)
    with pytest.raises(NannError, match=r"latency_ms is 1; the fastest of 3 .* 2.00 ms at coverage 0.9000"):
        choose(table, latency_ms=1)
    for wanted, words in [({"coverage": 1.5}, "above 0 and at most 1"), ({"latency_ms": 0.0}, "must be above 0")]:
        with pytest.raises(NannError, match=words):
            choose(table, **wanted)


def test_the_grid_fits_the_index_and_the_answer():
    for k in (20, 200, 1000):
        settings = grid(k, 2)
        assert all(setting.pool >= k for setting in settings if isinstance(setting, BestFirst))
        assert all(setting.ef[-1] >= k for setting in settings if isinstance(setting, Rounds))
    assert not any(isinstance(setting, Rounds) for setting in grid(20, 1))


@pytest.fixture
def index(world, tmp_path):
    return shutil.copytree(world.index, tmp_path / "index")


@pytest.mark.slow
def test_the_table_lies_in_the_index_which_stays_as_it_was(world, index, tmp_path, monkeypatch):
    monkeypatch.setattr("tfserving_ext.evaluation.tune.ROUGH_CASES", 3)
    before = {path.name: path.read_bytes() for path in index.iterdir()}
    found = tune(world.data, world.model, index, coverage=0.5, held_out=HELD_OUT, candidates=CANDIDATES)
    assert read_json(index / "tuning.json") == read_tuning(index)
    assert {path.name: path.read_bytes() for path in index.iterdir() if path.name != "tuning.json"} == before
    assert found["tried"] == len(CANDIDATES)
    assert found["cases"] > 3
    assert found["chosen"] in found["table"]
    assert not any(beats(one, other) for one in found["table"] for other in found["table"])
    assert max(line["coverage"] for line in found["table"]) > 0.9
    assert options(found["chosen"]).startswith("--")
    # Later stages accept the index with this file.
    Index.open(index, checksums=True)
    export(world.model, index, tmp_path / "model", Defaults(k=20), options=ExportOptions(measure=False))


def test_a_table_of_another_build_is_refused(index):
    with pytest.raises(NannError, match="make one with `nann tune`"):
        read_tuning(index)
    write_json(index / "tuning.json", {"format": "nann-tuning", "format_version": 9})
    with pytest.raises(NannError, match="format"):
        read_tuning(index)
    write_json(index / "tuning.json", {"format": "nann-tuning", "format_version": 1, "index_manifest_sha256": "0"})
    with pytest.raises(NannError, match="another build of the index"):
        read_tuning(index)


def test_requirements_that_cannot_be_met_are_refused_and_the_table_stays(world, index):
    with pytest.raises(NannError, match="the fastest of"):
        tune(
            world.data,
            world.model,
            index,
            latency_ms=1e-6,
            held_out=replace(HELD_OUT, max_cases=4),
            candidates=CANDIDATES[:2],
        )
    assert read_tuning(index)["chosen"] is None
    with pytest.raises(NannError, match="k is 100000, allowed are 1 to"):
        tune(world.data, world.model, index, held_out=HeldOut(100_000))
    assert np.isfinite([line["ms"] for line in read_tuning(index)["table"]]).all()
