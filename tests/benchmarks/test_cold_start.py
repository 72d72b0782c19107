import shutil

import numpy as np
import pytest

from benchmarks.serving import cold_start
from benchmarks.serving.cold_start import bench_cold_start, sizes_mb
from tfserving_ext.errors import NannError


@pytest.mark.slow
def test_starts_with_and_without_warm_up(world, tmp_path):
    before = {path: path.read_bytes() for path in world.saved_model.rglob("*") if path.is_file()}
    found = bench_cold_start(world.root, tmp_path, repeats=1)
    assert {path: path.read_bytes() for path in before} == before
    assert list(found["summary"]) == ["with_warm_up", "without_warm_up"]
    for one in found["summary"].values():
        assert 0 < one["serving_seconds"] < one["answered_seconds"]
        assert one["first_to_later"] == pytest.approx(one["first_ms"] / one["later_ms"], rel=0.01)
        assert one["import_seconds"] > 0 < one["load_seconds"]
    left = sorted(path.name for path in (tmp_path / "nann" / "1").rglob("*") if "warmup" in path.name)
    assert left == []


def test_sizes_are_those_of_the_files(world):
    sizes = sizes_mb(world.saved_model)
    total = sum(path.stat().st_size for path in world.saved_model.rglob("*") if path.is_file())
    assert sizes["total"] == pytest.approx(total / 1e6, abs=1e-3)
    assert sizes["graph"] == pytest.approx((world.saved_model / "saved_model.pb").stat().st_size / 1e6, abs=1e-3)
    assert sum(size for name, size in sizes.items() if name != "total") == pytest.approx(sizes["total"], abs=2e-3)


def test_answers_that_differ_between_starts_are_told(world, tmp_path, monkeypatch):
    number = iter(range(10))

    def start_server(base_path, histories):
        timed = {"serving_seconds": 1.0, "answered_seconds": 2.0, "first_ms": 3.0}
        return timed, [np.array([[next(number)]])] * len(histories)

    monkeypatch.setattr(cold_start, "_start_server", start_server)
    monkeypatch.setattr(cold_start, "_start_process", lambda export, histories: {"load_seconds": 1.0})
    with pytest.raises(NannError, match="answer the same requests differently"):
        bench_cold_start(world.root, tmp_path, repeats=1)


def test_says_what_is_missing(world, tmp_path):
    with pytest.raises(NannError, match=r"1 does not exist; make it with `nann demo"):
        bench_cold_start(tmp_path / "none", tmp_path)
    copied = shutil.copytree(world.saved_model, tmp_path / "demo" / "models" / "nann" / "1")
    shutil.rmtree(copied / "assets.extra")
    with pytest.raises(NannError, match="has no warm-up records"):
        bench_cold_start(tmp_path / "demo", tmp_path)
