import json

import pytest

from tfserving_ext.bench.search import bench_search
from tfserving_ext.errors import NannError


def test_figures_are_those_of_the_builds(world, tmp_path, capsys):
    summary = bench_search(world.root, tmp_path / "raw.json", builds=2, cases=20, positions=1, k=20)
    raw = json.loads((tmp_path / "raw.json").read_text())
    assert raw["summary"] == summary == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["seed"] for run in raw["runs"]] == [1, 2]
    coverage = [run["searches"]["best_first"]["coverage"] for run in raw["runs"]]
    assert summary["coverage"] == round(sum(coverage) / 2, 4)
    assert summary["coverage_lowest"] == round(min(coverage), 4)
    scored = [[run["searches"][name]["items_scored"] for run in raw["runs"]] for name in ("best_first", "rounds")]
    assert summary["scored_vs_rounds"] == round(sum(scored[0]) / sum(scored[1]), 4)


def test_says_what_is_missing(tmp_path):
    with pytest.raises(NannError, match=r"data does not exist; make it with `nann demo --folder"):
        bench_search(tmp_path)
