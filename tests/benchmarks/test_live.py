import numpy as np

from benchmarks.search.live import rows_of, summarise
from tfserving_ext.index import Hnsw, build_index


def test_rows_are_those_of_the_items_with_noise_of_the_size_asked(tmp_path):
    rows = np.random.default_rng(1).normal(size=[300, 16]).astype(np.float32)
    index = build_index(np.arange(300) * 5, rows, tmp_path / "index", Hnsw(threads=1))
    items = np.array([3, 9, 200])
    kept = rows_of(index, items, items * 5, 0, 0)
    np.testing.assert_array_equal(kept.item_ids, items * 5)
    np.testing.assert_array_equal(kept.values.reshape([3, 16]), rows[items])
    moved = rows_of(index, items, items * 5, 0.05, 7).values.reshape([3, 16]) - rows[items]
    assert 0.03 < moved.std() < 0.07


def test_the_summary_compares_speeds_and_takes_percentiles():
    speed = {"under": 95.0, "without": 100.0, "with_500_unindexed": 0.8, "with_4000_unindexed": 0.51234}
    coverage = {"coverage": 0.99444, "deleted_answers": 0, "items_scored": 3.0}
    assert summarise({"coverage": coverage, "freshness": [0.1] * 99 + [0.5], "speed": speed}) == {
        "live_coverage": 0.9944,
        "live_deleted_answers": 0,
        "freshness_p50_s": 0.1,
        "freshness_p99_s": 0.104,
        "qps_under_updates": 0.95,
        "qps_with_500_unindexed": 0.8,
        "qps_with_4000_unindexed": 0.512,
    }
