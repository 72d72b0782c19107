import json
import sys
from pathlib import Path

import pytest

from benchmarks.search import run as search
from benchmarks.search.report import plot, print_tables
from benchmarks.search.run import bench_search, summarise
from tfserving_ext.errors import NannError


def one(setting, ms, coverage=0.99, recall=0.3, **more):
    return {"setting": setting, "cases": 8, "coverage": coverage, "recall": recall, "ms_per_query": ms, **more}


def build(coverage, scored, paper_scored):
    return {
        "seed": 1,
        "surrogate": one([64, 0.9], 3, coverage + 0.005, items_scored=scored / 4, coverage_5th_percentile=0.96),
        "best_first": one([16, 200, 1000], 5, coverage, items_scored=scored, coverage_5th_percentile=0.95),
        "rounds": one([[50], [1]], 9, items_scored=paper_scored),
    }


@pytest.fixture
def figures():
    settings = {
        "surrogate": [one([64, 0.9], 3.0, recall=0.32), one([64, 0.5], 2.0)],
        "best_first": [one([16, 200, 1000], 6.0, recall=0.32), one([24, 200, 4], 4.0)],
        "rounds": [one([[50], [1]], 30.0)],
        "tensorflow_ops": [one([[50], [1]], 40.0)],
        "brute_force": [one("xla", 80.0), one("tensorflow", 90.0)],
        "usearch": [one(200, 1000.0)],
        "usearch_tuned": [one(200, 40.0)],
        "rerank": [one(250, 2.0, recall=0.29), one(500, 5.5, recall=0.31), one(1000, 9.0, recall=0.33)],
        "guitar": [one(["alpha", 1.1, 16], 3.0)],
        "no_residuals": [one([64, 0.9], 4.0)],
    }
    points = {"surrogate": (100, 300), "no_residuals": (400, 400), "guitar": (500, 1100), "best_first": (900, 1200)}
    neural = {
        "threads": 1,
        "k": 200,
        "items": 600,
        "cases": 8,
        "settings": settings,
        "race": {name: {**ones[-1], "ms_per_query": ones[-1]["ms_per_query"] / 2} for name, ones in settings.items()},
        "race_high": {
            "surrogate": one([64, 0.9], 1.5),
            "best_first": one([16, 200, 1000], 3.0),
            "guitar": one(["share", 0.3, 32], 2.4),
        },
        "evaluations": {
            name: [
                {"setting": 1, "coverage": 0.985, "items_scored": low},
                {"setting": 2, "coverage": 0.995, "items_scored": high},
            ]
            for name, (low, high) in points.items()
        },
        "builds": [build(0.99, 100, 1000), build(0.97, 200, 1000)],
        "overhead_share": 0.07,
        "model": {"recall_all": 0.325, "two_sided_recall_all": 0.33},
    }
    large = {
        "items": 1000,
        "k": 200,
        "surrogate": one([64, 0.5], 1.0, coverage=0.985, items_scored=300.0),
        "surrogate_high": one([64, 0.9], 1.25, coverage=0.992, items_scored=400.0),
        "best_first": one([16, 200, 1000], 2.0, coverage=0.995, items_scored=900.0),
        "best_first_high": one([16, 200, 1000], 2.5, coverage=0.995, items_scored=900.0),
        "brute_force_xla": one("xla", 500.0),
        "brute_force_tensorflow": one("tensorflow", 400.0),
        "map": {"seconds": 0.1, "anonymous_mb": 4.0},
    }
    metrics = {"dot_qps_vs_faiss": 1.3, "dot_qps_vs_hnswlib": 1.1}
    reference = {"dnn": {"best_first": {"coverage": 0.98, "items_scored": 900.0, "fell_back": 0.0}}}
    fixed = {"best-first": 800.0, "a number of evaluations": 500.0, "a number of steps": None}
    asked = {"asked": {"0.98": {"coverage": 0.981, "items_scored": 450.0, "fixed": fixed}}}
    return {"neural": neural, "asked": asked, "large": large, "reference": reference, "metrics": metrics}


def test_the_summary_is_worked_out_from_the_parts(figures):
    summary = summarise(figures)
    assert (summary["coverage"], summary["coverage_lowest"]) == (0.98, 0.97)
    assert summary["scored_vs_rounds"] == 0.15
    assert summary["qps_vs_usearch"] == 500.0
    assert summary["qps_vs_usearch_tuned"] == 20.0
    assert summary["qps_vs_brute_force"] == 45.0
    assert summary["qps_vs_best_first"] == 2.0
    assert (summary["qps_vs_guitar"], summary["qps_vs_guitar_high"]) == (1.5, 1.6)
    # At a coverage of 0.99, half-way between the two settings.
    assert (summary["scored_vs_guitar"], summary["scored_vs_no_residuals"]) == (0.25, 0.5)
    assert summary["qps_vs_brute_force_1m"] == 400.0
    assert (summary["surrogate_coverage"], summary["surrogate_coverage_lowest"]) == (0.985, 0.975)
    assert summary["surrogate_5th_vs_best_first"] == 0.01
    assert summary["surrogate_scored_vs_best_first"] == 0.25
    assert (summary["surrogate_time_vs_best_first"], summary["surrogate_time_vs_best_first_1m"]) == (0.5, 0.5)
    assert (summary["qps_1m_two_cores"], summary["qps_1m_two_cores_high"]) == (2000, 1600)
    assert summary["coverage_1m"] == 0.985
    assert (summary["coverage_asked_098"], summary["evaluations_vs_fixed"]) == (0.981, 0.9)
    assert summary["evaluations_vs_fixed_number"] == 0.9
    # 500 candidates are the most that take no longer than the 6 ms of the best-first search.
    assert summary["recall_rerank"] == 0.31
    assert summary["recall_lead_vs_rerank"] == pytest.approx(0.01)
    assert (summary["dot_qps_vs_faiss"], summary["map_anonymous_mb"]) == (1.3, 4.0)


def test_a_rerank_that_is_never_in_time_is_taken_at_its_cheapest(figures):
    figures["neural"]["settings"]["rerank"] = [one(250, 7.0, recall=0.1), one(500, 8.0, recall=0.2)]
    assert summarise(figures)["recall_rerank"] == 0.1


def test_the_parts_run_on_their_own_and_the_summary_is_the_answer(figures, world, tmp_path, monkeypatch, capsys):
    """The process of each part writes its results, and no other file is left."""
    asked = []

    class Done:
        returncode = 0

    def run(command, check):
        assert command[:2] == [sys.executable, "-m"] and not check
        part = command[2].removeprefix("benchmarks.search.")
        asked.append((part, "--quick" in command))
        target = command[command.index("-o") + 1]
        Path(target).write_text(json.dumps(figures[part]))
        return Done

    monkeypatch.setattr(search.subprocess, "run", run)
    monkeypatch.setattr(search, "provenance", dict)
    out = tmp_path / "search.json"
    assert bench_search(world.root, out, quick=True) == summarise(figures)
    assert asked == [("neural", True), ("asked", True), ("large", True), ("reference", True), ("metrics", True)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search.json", "search.svg"]
    assert json.loads(out.read_text())["summary"]["coverage"] == 0.98
    shown = capsys.readouterr().out
    assert "usearch, numba metric" in shown
    assert "best-first (ours): 900 for 0.98, 1,050 for 0.99, 1,200 for 0.995" in " ".join(shown.split())
    Done.returncode = 1
    with pytest.raises(NannError, match="the part neural failed"):
        bench_search(world.root, out)
    assert json.loads(out.read_text())["summary"]["coverage"] == 0.98


def test_tables_and_plot_show_every_search(figures, tmp_path, capsys):
    print_tables(figures)
    shown = capsys.readouterr().out
    plot(figures, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    for title in ("best-first (ours)", "brute force", "two-sided model, reranked"):
        assert title in shown
        assert title in drawn


def test_says_what_is_missing(tmp_path):
    with pytest.raises(NannError, match=r"data does not exist; make it with `nann demo --folder"):
        bench_search(tmp_path, tmp_path / "out.json")
