"""A coverage that is asked for: is it found, and for fewer evaluations than with one fixed setting for all users?

The rule of each graph is fitted on the demo's validation users and judged on its test users, by counting alone:

    python -m benchmarks.search.asked --folder demo

Fixed settings are best-first, cut after a number of steps or with a larger pool, and the surrogate search, cut after a
number of evaluations or of steps instead of by what it expects.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Folder
from benchmarks.search.graphs import scored_at
from benchmarks.search.harness import make_workload
from benchmarks.search.neural import POSITIONS, build_graph
from benchmarks.search.peers.peer import Workload
from tfserving_ext.artifacts import write_json
from tfserving_ext.evaluation import HeldOut
from tfserving_ext.evaluation.coverage_rule import fit_rule
from tfserving_ext.evaluation.subject import Subject
from tfserving_ext.index.coverage_rule import CoverageRule
from tfserving_ext.progress import console, progress
from tfserving_ext.retrieval import NeuralTopK
from tfserving_ext.retrieval.metrics import coverage

K = 200
ASKED = (0.95, 0.98, 0.99, 0.995)
CASES, QUICK_CASES = 600, 200
BATCH = 100
COMPLETE = 1 - 1e-6  # An expected coverage at which only a limit ends a search.
# Parameters beyond k, from cheap to expensive.
FIXED: dict[str, tuple[dict[str, Any], ...]] = {
    "best-first": (
        *({"max_steps": steps} for steps in (3, 4, 5, 6, 7, 8, 10)),
        *({"pool": pool} for pool in (200, 250, 300, 400)),
    ),
    "a number of evaluations": tuple({"budget": budget} for budget in (375, 425, 450, 475, 500, 550, 600, 700, 850)),
    "a number of steps": tuple({"max_steps": steps} for steps in (4, 5, 6, 7, 8, 9, 11)),
}


def bench_asked(folder: Path, builds: int = 3, quick: bool = False) -> dict[str, Any]:
    """Fits and judges the rule on graphs of several seeds.

    Args:
      folder: a demo's folder, with `data`, `model`, `embeddings` and `index` in it.
      builds: how many graphs to build.
      quick: fewer cases.

    Returns:
      `asked`, for each of `ASKED` the means over graphs: `coverage`, `coverage_lowest`, `coverage_5th_percentile` and
      `items_scored`; `fixed`, for each kind of fixed setting, what it scores for the coverage that was found;
      `estimated`, the mean of the answers' own estimates; and the parameters of the benchmark.

    Raises:
      NannError: an artefact is missing.
    """
    cases = QUICK_CASES if quick else CASES
    indexes = [build_graph(folder, seed) for seed in range(1, builds + 1)]
    workload = make_workload(folder, indexes[0], cases, POSITIONS, K, 1)
    fitting = Subject(
        folder / "data",
        folder / "model",
        folder / "index",
        HeldOut(K, POSITIONS, QUICK_CASES if quick else 500, "validation"),
    )
    fitting.exact()  # Once for all graphs.
    graphs = []
    for index in indexes:
        rule = fit_rule(fitting.on(index))
        assert rule is not None
        graphs.append(_judge(dataclasses.replace(workload, index=index), rule))
    return {
        "k": K,
        "cases": len(workload.targets),
        "fitted_on_cases": len(fitting.cases),
        "builds": graphs,
        "asked": {str(asked): _over_graphs([graph[str(asked)] for graph in graphs]) for asked in ASKED},
    }


def _judge(workload: Workload, rule: CoverageRule) -> dict[str, Any]:
    """Measures one graph: what is found for each coverage asked, and what fixed settings score for as much."""
    neural = NeuralTopK(workload.index, workload.trained.model.score)
    points = {kind: [_run(neural, workload, kind, one)[0] for one in settings] for kind, settings in FIXED.items()}
    found = {}
    with progress("coverages asked for", len(ASKED)) as advance:
        for asked in ASKED:
            point, known = _run(neural, workload, "rule", rule.parameters(min(asked, rule.most)))
            told = rule.coverage_at(known.estimated_coverage.numpy())
            point["estimated"] = float(told[~known.fell_back.numpy()].mean())
            point["fixed"] = {kind: scored_at(points[kind], point["coverage"]) for kind in FIXED}
            found[str(asked)] = point
            advance()
    return {**found, "seed": workload.index.manifest["seed"], "rule": dataclasses.asdict(rule), "points": points}


def _run(neural: NeuralTopK, workload: Workload, kind: str, own: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Searches for all cases; returns coverage and evaluations, and what the surrogate search knew of itself."""
    seeds = workload.histories
    if kind == "best-first":
        answer, known = neural.best_first(workload.user, workload.k, seeds, **own), None
    else:
        given = {"expected_coverage": COMPLETE, **own}
        answer, known = neural.surrogate(workload.user, workload.k, seeds, **given)
    covered = coverage(answer.item_ids.numpy(), workload.exact)
    point = {
        **own,
        "coverage": float(covered.mean()),
        "coverage_5th_percentile": float(np.quantile(covered, 0.05)),
        "items_scored": float(answer.items_scored.numpy().mean()),
    }
    return point, known


def _over_graphs(points: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("coverage", "coverage_5th_percentile", "items_scored", "estimated")
    fixed = {}
    for kind in FIXED:
        scored = [point["fixed"][kind] for point in points]
        fixed[kind] = None if None in scored else float(np.mean(scored))
    return {
        **{name: float(np.mean([point[name] for point in points])) for name in names},
        "coverage_lowest": min(point["coverage"] for point in points),
        "fixed": fixed,
    }


def vs_fixed(point: dict[str, Any], kinds: tuple[str, ...] = tuple(FIXED)) -> float:
    """Returns the evaluations by the rule over those of the cheapest of these kinds of fixed settings."""
    return point["items_scored"] / min(scored for kind, scored in point["fixed"].items() if scored and kind in kinds)


def main(
    folder: Folder = Path("demo"),
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file.")] = Path("asked.json"),
    builds: Annotated[int, typer.Option(help="Graph builds.", min=1)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases.")] = False,
) -> None:
    """Ask the surrogate search for coverages, and count what it evaluates for them."""
    figures = bench_asked(folder, builds, quick)
    write_json(out, figures)
    for asked, point in figures["asked"].items():
        fixed = ", ".join(f"{scored:,.0f} with {kind}" for kind, scored in point["fixed"].items() if scored)
        console.print(
            f"asked {asked}: {point['coverage']:.4f} (lowest graph {point['coverage_lowest']:.4f}, 5th percentile "
            f"{point['coverage_5th_percentile']:.3f}, estimated {point['estimated']:.4f}) for "
            f"{point['items_scored']:,.0f} evaluations; for as much {fixed}; {vs_fixed(point):.3f} of the cheapest"
        )


if __name__ == "__main__":
    typer.run(main)
