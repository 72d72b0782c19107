import numpy as np
import pytest

from benchmarks.data.index_build import _summarise, bench_index_build
from benchmarks.data.index_builders import make_table
from tfserving_ext.errors import NannError


def test_both_tables_are_built_by_turns(world, tmp_path):
    found = bench_index_build(world.root, tmp_path, tmp_path / "log", items=2000, repeats=1)
    assert list(found["tables"]) == list(found["summary"]) == ["demo", "synthetic"]
    assert found["summary"]["demo"]["items"] == len(world.sequences.item_ids)
    assert found["summary"]["synthetic"]["items"] == 2000
    for one in found["summary"].values():
        assert all(value > 0 for value in one.values())
    assert "2,000 items" in (tmp_path / "log").read_text()


def test_ratios_are_of_the_least_times_and_the_largest_peaks():
    def spent(seconds, peak_gb):
        return {"seconds": seconds, "peak_gb": peak_gb}

    turns = [
        {"index": spent(3.0, 0.5), "faiss": spent(2.5, 0.2)},
        {"index": spent(2.4, 0.6), "faiss": spent(2.0, 0.4)},
        {"index": spent(9.0, 0.4), "faiss": spent(8.0, 0.3)},
    ]
    found = _summarise({"items": 1200, "dim": 8, "turns": turns})
    assert (found["seconds"], found["items_per_second"], found["seconds_vs_faiss"]) == (2.4, 500.0, 1.2)
    assert (found["peak_gb"], found["peak_vs_faiss"]) == (0.6, 1.5)


def test_the_made_up_table_has_clusters(tmp_path):
    make_table(tmp_path / "one", 3000, 16)
    make_table(tmp_path / "other", 3000, 16)
    one, other = (np.load(tmp_path / name / "item_embs.npy") for name in ("one", "other"))
    assert one.shape == (3000, 16) and one.dtype == np.float32
    np.testing.assert_array_equal(one, other)
    distances = np.linalg.norm(one[:500, None] - one[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.median(distances.min(axis=1)) < np.median(distances) / 2


def test_a_build_that_fails_says_where_its_words_are(world, tmp_path):
    (tmp_path / "demo" / "embeddings").mkdir(parents=True)
    with pytest.raises(NannError, match="embeddings does not exist; make it with `nann demo"):
        bench_index_build(tmp_path / "demo", tmp_path, tmp_path / "log", items=200, repeats=1)
    (tmp_path / "demo" / "embeddings" / "item_embs.npy").write_bytes(b"no table")
    with pytest.raises(NannError, match=r"`nann index` ended with exit code 1; its output is in .*log"):
        bench_index_build(tmp_path / "demo", tmp_path, tmp_path / "log", items=200, repeats=1)
    assert "item_ids.npy does not exist" in (tmp_path / "log").read_text()
