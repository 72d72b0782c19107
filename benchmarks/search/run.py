"""The searches against their peers: `make bench-search` (benchmarks/README.md has the results).

    python -m benchmarks.search.run --folder demo

Each part runs in a process of its own, because TensorFlow fixes its threads at its start. Compare ratios within one
part, as machines differ and are shared.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.search.asked import vs_fixed
from benchmarks.search.evaluations import scored_versus
from benchmarks.search.report import plot, print_tables
from tfserving_ext.artifacts import read_json, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.machine import provenance

FIFTH = "coverage_5th_percentile"
COUNTED_COVERAGE = 0.99  # The coverage at which evaluations are compared.


def bench_search(folder: Path, out: Path, quick: bool = False) -> dict[str, Any]:
    """Runs all parts.

    Args:
      folder: a demo's folder; files that the parts build are kept in its folder `bench`.
      out: JSON file for the raw results of all parts; a plot is drawn next to it.
      quick: fewer cases, one number of threads, a tenth of the large corpora.

    Returns:
      The summary (see `summarise`).

    Raises:
      NannError: an artefact or a library is missing, or a part failed.
    """
    for name in ("data", "model", "embeddings", "index"):
        if not (folder / name).exists():
            raise NannError(f"{folder / name} does not exist; make it with `nann demo --folder {folder}`")
    parts = {
        "neural": ("neural", "--threads", "1", "--builds", "3"),
        "neural_2_threads": ("neural", "--threads", "2", "--builds", "1", "--quick"),  # The first part has more cases.
        "asked": ("asked", "--builds", "3"),
        "large": ("large",),
        "reference": ("reference",),
        "metrics": ("metrics",),
    }
    if quick:
        del parts["neural_2_threads"]
    figures: dict[str, Any] = {"quick": quick, **provenance()}
    targets = {name: out.with_name(f"{out.stem}_{name}.json") for name in parts}
    for name, (module, *options) in parts.items():
        target = targets[name]
        command = [sys.executable, "-m", f"benchmarks.search.{module}", "--folder", str(folder), "-o", str(target)]
        if subprocess.run([*command, *options, *["--quick"] * quick], check=False).returncode != 0:
            raise NannError(f"the part {name} failed; its output is above")
        figures[name] = read_json(target)
    figures["summary"] = summarise(figures)
    write_json(out, figures)
    for target in targets.values():  # Kept until here, so that a part that fails loses no results of earlier ones.
        target.unlink()
    print_tables(figures)
    plot(figures, out.with_suffix(".svg"))
    return figures["summary"]


def summarise(figures: dict[str, Any]) -> dict[str, float]:
    """Summarises the results of all parts.

    Returns:
      coverage, coverage_lowest: coverage of best-first by default at k 200, mean and lowest over graph builds.
      rounds_coverage, scored_vs_rounds: coverage of the paper's rounds; items that it scores, over
        those that the rounds score.
      recall_default, recall_rerank, recall_lead_vs_rerank: recall-retrieval of the default search; of the two-sided
        model's top n reranked, for the largest n that takes no longer; and the first minus the second.
      recall_brute_force, recall_two_sided: recall of the two models by themselves.
      qps_vs_*: queries per second of the surrogate search over those of the peer, each at its fastest setting that
        covers at least 0.98, on one thread. USearch is measured with a metric written as its documentation shows, and
        with one tuned by hand; GUITAR's time is a lower bound (`peers/guitar.py`). qps_vs_guitar_high: the same at
        0.995.
      scored_vs_guitar, scored_vs_no_residuals: evaluations of the surrogate search over those of GUITAR, with two for
        each gradient, and over those of itself without the graph's residuals, at a coverage of 0.99.
      surrogate_coverage, surrogate_coverage_lowest, surrogate_5th_vs_best_first: coverage of the surrogate search at
        its default setting, mean and lowest over graph builds, and its 5th percentile over cases minus best-first's.
      coverage_asked_098: mean coverage, over cases and graph builds, where 0.98 is asked for, by a rule that was
        fitted on other users.
      evaluations_vs_fixed: evaluations for it, over those of the cheapest fixed setting of the same coverage: of
        best-first, or of the surrogate search after a number of evaluations or of steps;
        evaluations_vs_fixed_number: over those of the surrogate search after a number of evaluations.
      surrogate_scored_vs_best_first: items that it scores over those that best-first scores, both by default.
      surrogate_time_vs_best_first: its time over best-first's, each at its fastest setting that covers at least 0.995;
        surrogate_time_vs_best_first_1m: the same on the large corpus at 0.99.
      qps_1m_two_cores, qps_1m_two_cores_high: its queries per second on two cores on the large corpus, as twice those
        on one thread, at a coverage of 0.98 and of 0.99.
      overhead_share: the part of the surrogate search's time outside the model.
      dot_*: results of the walk under the dot product at a recall@10 of 0.95, on one thread.
      map_seconds, map_anonymous_mb: the cost of opening the large index.
    """
    neural, large = figures["neural"], figures["large"]
    builds, race = neural["builds"], neural["race"]
    ours, high = race["surrogate"]["ms_per_query"], neural["race_high"]
    default, asked = neural["settings"]["best_first"][0], figures["asked"]["asked"]["0.98"]
    rerank = _rerank_at(neural["settings"]["rerank"], default["ms_per_query"])
    brute = min(part["ms_per_query"] for name, part in large.items() if name.startswith("brute_force"))
    summary = {
        "coverage": np.mean([build["best_first"]["coverage"] for build in builds]),
        "coverage_lowest": min(build["best_first"]["coverage"] for build in builds),
        "rounds_coverage": np.mean([build["rounds"]["coverage"] for build in builds]),
        "scored_vs_rounds": sum(build["best_first"]["items_scored"] for build in builds)
        / sum(build["rounds"]["items_scored"] for build in builds),
        "recall_default": default["recall"],
        "recall_rerank": rerank["recall"],
        "recall_lead_vs_rerank": default["recall"] - rerank["recall"],
        "recall_brute_force": neural["model"]["recall_all"],
        "recall_two_sided": neural["model"]["two_sided_recall_all"],
        "qps_vs_usearch": race["usearch"]["ms_per_query"] / ours,
        "qps_vs_usearch_tuned": race["usearch_tuned"]["ms_per_query"] / ours,
        "qps_vs_tf_ops": race["tensorflow_ops"]["ms_per_query"] / ours,
        "qps_vs_rounds": race["rounds"]["ms_per_query"] / ours,
        "qps_vs_brute_force": race["brute_force"]["ms_per_query"] / ours,
        "qps_vs_best_first": race["best_first"]["ms_per_query"] / ours,
        "qps_vs_guitar": race["guitar"]["ms_per_query"] / ours,
        "qps_vs_guitar_high": high["guitar"]["ms_per_query"] / high["surrogate"]["ms_per_query"],
        "scored_vs_guitar": scored_versus(neural["evaluations"], "surrogate", "guitar", COUNTED_COVERAGE),
        "scored_vs_no_residuals": scored_versus(neural["evaluations"], "surrogate", "no_residuals", COUNTED_COVERAGE),
        "surrogate_coverage": np.mean([build["surrogate"]["coverage"] for build in builds]),
        "surrogate_coverage_lowest": min(build["surrogate"]["coverage"] for build in builds),
        "surrogate_5th_vs_best_first": np.mean(
            [build["surrogate"][FIFTH] - build["best_first"][FIFTH] for build in builds]
        ),
        "surrogate_scored_vs_best_first": sum(build["surrogate"]["items_scored"] for build in builds)
        / sum(build["best_first"]["items_scored"] for build in builds),
        "coverage_asked_098": asked["coverage"],
        "evaluations_vs_fixed": vs_fixed(asked),
        "evaluations_vs_fixed_number": vs_fixed(asked, ("a number of evaluations",)),
        "surrogate_time_vs_best_first": high["surrogate"]["ms_per_query"] / high["best_first"]["ms_per_query"],
        "surrogate_time_vs_best_first_1m": large["surrogate_high"]["ms_per_query"]
        / large["best_first_high"]["ms_per_query"],
        "qps_1m_two_cores": 2000 / large["surrogate"]["ms_per_query"],
        "qps_1m_two_cores_high": 2000 / large["surrogate_high"]["ms_per_query"],
        "qps_vs_brute_force_1m": brute / large["surrogate"]["ms_per_query"],
        "coverage_1m": large["surrogate"]["coverage"],
        "overhead_share": neural["overhead_share"],
        "dot_qps_vs_faiss": figures["metrics"]["dot_qps_vs_faiss"],
        "dot_qps_vs_hnswlib": figures["metrics"]["dot_qps_vs_hnswlib"],
        "map_seconds": large["map"]["seconds"],
        "map_anonymous_mb": large["map"]["anonymous_mb"],
    }
    return {name: round(float(value), 4) for name, value in summary.items()}


def _rerank_at(settings: list[dict[str, Any]], ms_per_query: float) -> dict[str, Any]:
    """Returns the most expensive setting that takes no longer, or the cheapest if all take longer."""
    in_time = [one for one in settings if one["ms_per_query"] <= ms_per_query]
    return max(in_time, key=lambda one: one["setting"]) if in_time else settings[0]


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/search.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases, in a few minutes.")] = False,
) -> None:
    """Measure the searches against their peers; the last line is the summary as JSON.

    Example: python -m benchmarks.search.run --folder demo --quick
    """
    with measuring(out):
        summary = bench_search(folder, out, quick)
    print_summary(summary)


if __name__ == "__main__":
    typer.run(main)
