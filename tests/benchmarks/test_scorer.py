"""What the benchmark of scorers makes of its times."""

import pytest

from benchmarks.scorer.report import print_table, summarise
from benchmarks.suite.page_tables import scorers


def model(shipped: str, over_xla: list[float], over_better: list[float]) -> dict:
    return {
        "batches": [64, 128, 512],
        "us": {"xla": [40.0, 60.0, 200.0], "tensorflow": [30.0, 66.0, 220.0], shipped: [20.0, 30.0, 100.0]},
        "xla_refuses": {},
        "baseline": "xla",
        "shipped": shipped,
        "speedups": over_xla,
        "speedups_over_tensorflow": [1.5, 2.2, 2.2],
        "speedups_over_better": over_better,
        "prepare_us": {"passes": 12.0},
        "row_bytes": {"passes": 256},
        "multiply_adds_before": 2000.0,
        "multiply_adds_after": 1000.0,
        "peak_gflops": [190.0, 210.0, 200.0],
        "shares_of_peak": [0.03, 0.04, 0.05],
    }


@pytest.fixture
def figures():
    models = {
        "nann_attention": model("passes", [2.0, 2.5, 3.0], [1.5, 2.0, 2.5]),
        "dnn": model("passes, xla", [0.9, 1.4, 1.1], [0.8, 1.3, 1.05]),
    }
    return {"models": models, "search": None, "costs": {"multiply_add": 0.00912, "byte": 0.07}}


def test_the_summary_has_the_lowest_of_all_models_and_batches(figures):
    summary = summarise(figures)
    assert (summary["speedup_min"], summary["speedup_median"], summary["search_speedup"]) == (2.0, 2.5, None)
    assert (summary["lowest_speedup_median"], summary["median_min"], summary["least"]) == (1.1, 1.05, 0.8)
    assert (summary["peak_gflops"], summary["nanoseconds_per_multiply_add"]) == (210.0, 0.0091)
    dnn = summary["model"]["dnn"]
    assert dnn["speedup_over_better"] == {"64": 0.8, "128": 1.3, "512": 1.05}
    assert dnn["share_of_peak"] == {"64": 0.03, "128": 0.04, "512": 0.05}
    assert (dnn["speedup_median"], dnn["speedup_over_better_median"], dnn["shipped"]) == (1.1, 1.05, "passes, xla")


def test_the_table_of_a_model_shows_the_better_and_the_peak(figures, capsys):
    print_table("dnn", figures["models"]["dnn"])
    rows = [" ".join(line.replace("│", " ").split()) for line in capsys.readouterr().out.splitlines()]
    assert "over the better 0.80 1.30 1.05" in rows
    assert any(row.endswith("3% 4% 5%") for row in rows)


def test_the_page_shows_what_a_run_has(figures):
    figures["summary"] = summarise(figures)
    assert "| dnn | 2,000 | 1,000 | passes, xla | 1.10 | 0.90 | 2.20 | 1.05 | 0.80 | 3 / 4 / 5 |" in scorers(figures)
    assert "% of peak at 64, 128, 512 items |" in scorers(figures)
    for one in figures["summary"]["model"].values():
        del one["share_of_peak"], one["speedup_over_better_median"], one["speedup_over_better_min"]
    assert "| dnn | 2,000 | 1,000 | passes, xla | 1.10 | 0.90 | 2.20 |\n" in scorers(figures)
