"""What is read from the figures of two graphs."""

import numpy as np

from benchmarks.search.graphs import summarise


def points(*pairs: tuple[float, float]) -> list[dict[str, float]]:
    return [{"items_scored": scored, "coverage": coverage} for scored, coverage in pairs]


def test_the_summary_has_means_over_seeds_and_ratios_to_hnsw():
    def build(scored, seconds, top=0.999):
        figures = {"points": points((scored, 0.97), (2 * scored, top)), "seconds": seconds}
        return {**figures, "edges": 10 * scored, "megabytes": 1.5}

    graphs = {"hnsw": [build(1000, 1.0), build(2000, 3.0)], "knn": [build(900, 5.0), build(600, 5.0, top=0.991)]}
    found = summarise({"made up": graphs})["made up"]
    expected = [np.interp(0.98, [0.97, 0.999], [scored, 2 * scored]) for scored in (1000, 2000)]
    assert found["hnsw"]["scored_0.98"] == round(np.mean(expected))
    assert found["hnsw"]["vs_hnsw_0.98"] == 1
    assert (found["hnsw"]["seconds"], found["hnsw"]["edges"]) == (2.0, 15000)
    assert found["knn"]["vs_hnsw_0.99"] == round(found["knn"]["scored_0.99"] / found["hnsw"]["scored_0.99"], 3)
    assert found["knn"]["scored_0.995"] is None
    assert found["knn"]["vs_hnsw_0.995"] is None
