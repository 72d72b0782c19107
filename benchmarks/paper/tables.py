"""The tables of the paper's experiment in Markdown, made from the results of `nann evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfserving_ext.artifacts import read_json
from tfserving_ext.evaluation.compare import compare, load
from tfserving_ext.evaluation.evaluation_report import title_of

HEAD = """<!-- Written by `make bench-paper`; do not edit. docs/paper.md says what it means. -->

# The paper's experiment: all tables

"""
Rows = Sequence[Sequence[str]]


def figures_of(folder: Path) -> dict[str, Any]:
    """Reads what is kept of one run: its training, and its evaluations without histograms and groups."""
    model = read_json(folder / "model" / "model.json")
    training = model["training"]
    start = training.get("start_from", {}).get("training", {}).get("seconds", 0.0)
    found: dict[str, Any] = {
        "name": folder.name,
        "model": model["model"],
        **{name: training[name] for name in ("epsilon", "seed", "steps_done", "seconds")},
        "start_seconds": start,
        "jobs": read_json(folder / "jobs.json") if (folder / "jobs.json").exists() else None,
    }
    for name, file in (("evaluation", "evaluation.json"), ("on_builds", "epsilon.json")):
        if (folder / file).exists():
            figures = read_json(folder / file)
            kept = ("k", "cases", "users", "items", "recall_all", "recall_all_interval", "baselines", "builds")
            found[name] = {key: figures[key] for key in kept if key in figures}
            found[name]["searches"] = {
                search: {key: value for key, value in each.items() if key not in ("at", "coverage_histogram")}
                for search, each in figures["searches"].items()
            }
    return found


def tables(folder: Path, runs: Sequence[dict[str, Any]]) -> str:
    """Returns all tables, in Markdown.

    Args:
      folder: holds the folders of the runs.
      runs: the result of `figures_of` for each run.
    """
    by_name = {run["name"]: run for run in runs}
    return HEAD + "\n".join(
        [_equal_time(folder, by_name), _paper(list(by_name.values())), _by_epsilon(folder, list(by_name.values()))]
    )


def _equal_time(folder: Path, runs: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, run in runs.items():
        if not name.startswith("attention_seed"):
            continue
        long, start = runs[f"two_sided_long_seed{run['seed']}"], runs[f"two_sided_seed{run['seed']}"]
        own = _baseline(run, "own_history")
        rows.append(
            [
                str(run["seed"]),
                *(_recall(each) for each in (run, long, start)),
                *(_recall_above(folder, run, each) for each in (long, start)),
                _shown(own["model_minus_baseline"], own["difference_interval"], sign=True),
                *(_seconds(each) for each in (run, long)),
            ]
        )
    any_run = next(iter(runs.values()))["evaluation"]
    head = [
        "seed",
        "attention",
        "two-sided, as long",
        "two-sided, the start",
        "attention minus as long",
        "minus the start",
    ]
    head += ["minus own history", "seconds, attention", "seconds, two-sided"]
    return (
        f"## Equal wall time: recall-all@{any_run['k']}, {any_run['cases']:,} cases of {any_run['users']:,} "
        f"households, {any_run['items']:,} products\n\n{_table(head, rows)}\n"
        "Seconds are of the training with its start; of two at once each had one core. Differences are paired, with "
        "95 % intervals over households.\n"
    )


def _recall(run: dict[str, Any]) -> str:
    return _shown(run["evaluation"]["recall_all"], run["evaluation"]["recall_all_interval"])


def _recall_above(folder: Path, run: dict[str, Any], other: dict[str, Any]) -> str:
    evaluations = load([folder / each["name"] / "evaluation.json" for each in (other, run)])
    (found,) = [each for each in compare(evaluations)["differences"] if each["figure"] == "recall_all"]
    return _shown(found["value"], found["interval"], sign=True)


def _paper(runs: Sequence[dict[str, Any]]) -> str:
    rows = []
    for run in runs:
        if not run.get("evaluation", {}).get("searches"):
            continue
        for name, search in run["evaluation"]["searches"].items():
            rows.append(
                [
                    run["model"],
                    f"{run['epsilon']:g}",
                    title_of(name),
                    _shown(search["recall_retrieval"], search["intervals"]["recall_retrieval"]),
                    _shown(run["evaluation"]["recall_all"], run["evaluation"]["recall_all_interval"]),
                    f"{100 * search['recall_delta']:.2f} %",
                    f"{search['coverage']:.4f}",
                    f"{100 * search['scored_fraction']:.1f} %",
                ]
            )
    rows.sort(key=lambda row: (row[0], float(row[1])))
    baselines = next(run["evaluation"]["baselines"] for run in runs if run.get("evaluation", {}).get("searches"))
    k = str(next(run["evaluation"]["k"] for run in runs if "evaluation" in run))
    for name, at in baselines.items():
        recall = _shown(at[k]["recall"], at[k]["interval"])
        rows.append([title_of(name), "", "no model", recall, recall, "", "", ""])
    head = ["model", "ε", "search", "recall-retrieval", "recall-all", "recall-Δ", "coverage", "scored"]
    return f"## The paper's table 3, seed 0, at {k}\n\n" + _table(head, rows)


def _by_epsilon(folder: Path, runs: Sequence[dict[str, Any]]) -> str:
    paths = [folder / run["name"] / "epsilon.json" for run in runs if "on_builds" in run]
    evaluations = load(paths)
    found = compare(evaluations)
    (points,) = found["epsilons"].values()
    builds = {each.epsilon: each.figures["builds"] for each in evaluations}
    cases = evaluations[0].figures["cases"]
    rows = []
    for point in points:
        recall = _shown(point["recall_all"], point["intervals"]["recall_all"])
        difference = _difference(point, "recall_all")
        for name in point["coverage"]:
            graphs = [graph["coverage"] for graph in builds[point["epsilon"]][name]["graphs"]]
            scored = [graph["scored_fraction"] for graph in builds[point["epsilon"]][name]["graphs"]]
            rows.append(
                [
                    f"{point['epsilon']:g}",
                    recall,
                    difference,
                    title_of(name),
                    _shown(point["coverage"][name], point["intervals"][name]),
                    _difference(point, name),
                    ", ".join(f"{covered:.4f}" for covered in graphs),
                    f"{100 * sum(scored) / len(scored):.1f} %",
                ]
            )
    head = ["ε", "recall-all", "minus ε 0", "search", "coverage, mean of graphs", "minus ε 0", "each graph", "scored"]
    return f"## By ε: attention, seed 0, {cases:,} cases, {len(graphs)} graphs each, at {found['k']}\n\n" + _table(
        head, rows
    )


def _difference(point: dict[str, Any], name: str) -> str:
    value, interval = point["differences"][name]
    return _shown(value, interval, sign=True)


def _baseline(run: dict[str, Any], name: str) -> dict[str, Any]:
    figures = run["evaluation"]
    return figures["baselines"][name][str(figures["k"])]


def _seconds(run: dict[str, Any]) -> str:
    seconds = f"{run['seconds'] + run['start_seconds']:,.0f}"
    return seconds if run["jobs"] == 1 else f"{seconds}, {run['jobs'] or 'others'} at once"


def _shown(value: float, interval: Sequence[float], sign: bool = False) -> str:
    form = "+.4f" if sign else ".4f"
    low, high = interval
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def _table(head: Sequence[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
