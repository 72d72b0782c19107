"""Compares several evaluations: the paper's table, coverage by epsilon and by graph build, paired intervals.

Differences are taken from the first evaluation and are paired, so that they need the same cases, which are read from
the `.npz` files beside the JSON. No model is opened.
"""

import dataclasses
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.artifacts import read_json, sha256
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.evaluation_report import colors_of, title_of, write_page, write_report
from tfserving_ext.evaluation.figures import hits
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.run import FORMAT, FORMAT_VERSION
from tfserving_ext.outputs import check_page
from tfserving_ext.reports.drawing import Plot, Series
from tfserving_ext.reports.plots import line_plot

_SAME_CASES = ("user_ids", "positions", "target_ids")
_PARAMETERS = ("frontier", "pool", "max_steps", "ef", "rounds", "seeded")
# Entries of a training's report that may differ between models on one line over epsilon: options that do not matter
# here, and results.
_NOT_COMPARED = ("epsilon", "seed", "seconds", "histories_per_second", "softmax_loss", "sigmoid_loss",
                 "auxiliary_loss", "best_step", "validation_recall", "steps_done", "histories", "tensorboard",
                 "checkpoint_minutes")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation that `evaluate` wrote.

    Attributes:
      label: its name, which differs from the others'.
      figures: the content of the JSON file.
      cases: the arrays of the `.npz` file.
    """

    label: str
    figures: dict[str, Any]
    cases: dict[str, np.ndarray]

    @property
    def epsilon(self) -> float | None:
        """Length of the FGSM step that the model was trained with; None if that is not known."""
        training = self.figures["model"].get("training") or {}
        return training.get("epsilon")

    def same_cases(self, other: "Evaluation") -> bool:
        """Returns whether both evaluations have the same targets of the same users."""
        return all(np.array_equal(self.cases[name], other.cases[name]) for name in _SAME_CASES)

    def coverage(self, name: str) -> np.ndarray:
        """Returns a search's coverage at k of each case, averaged over the builds of the graph if there are several."""
        built = self.cases.get(f"builds/coverage/{name}")
        return self.cases[f"coverage/{name}"][:, -1] if built is None else built[:, :, -1].mean(axis=1)

    def hits(self, name: str) -> np.ndarray:
        """Returns the recall at k of each case for brute force, a search or a baseline."""
        return hits(self.cases[f"rank/{name}"], self.figures["k"])


def load(paths: Sequence[str | os.PathLike[str]]) -> list[Evaluation]:
    """Reads evaluations, each from its JSON file and the `.npz` file beside it.

    Raises:
      NannError: a file is missing or has another format, or the `.npz` file belongs to another run.
    """
    return [
        Evaluation(label, *_read(Path(path)))
        for label, path in zip(_labels([Path(path) for path in paths]), paths, strict=True)
    ]


def compare(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Compares evaluations.

    Returns:
      `k`; `rows`, one for each evaluation and search, with the metrics of the paper's table; `differences` from the
      first evaluation, each with `figure` (the metric), `search` or None, and `value` and `interval`, both None if the
      cases differ; `epsilons` and `builds`, the data of the plots.

    Raises:
      NannError: there is no evaluation, or their k differ.
    """
    if not evaluations:
        raise NannError("there are no evaluations to compare; give the JSON files that `nann evaluate -o` wrote")
    for each in evaluations[1:]:
        if each.figures["k"] != evaluations[0].figures["k"]:
            raise NannError(
                f"{each.label} has k {each.figures['k']}, {evaluations[0].label} has {evaluations[0].figures['k']}; "
                "compare evaluations with the same k"
            )
    return {
        "k": evaluations[0].figures["k"],
        "rows": [row for each in evaluations for row in _rows(each)],
        "differences": [part for each in evaluations[1:] for part in _differences(evaluations[0], each)],
        "epsilons": _by_epsilon(evaluations),
        "builds": _by_build(evaluations),
    }


def report(paths: Sequence[str | os.PathLike[str]], target: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes a page that compares several evaluations, or the report of a single one again.

    Args:
      paths: JSON files that `evaluate` wrote.
      target: the HTML file.

    Returns:
      The result of `compare`.

    Raises:
      NannError: as `load` and `compare` do; or the page cannot be written, or would replace a file that is not such a
        page.
    """
    check_page(target)
    evaluations = load(paths)
    found = compare(evaluations)
    if len(evaluations) == 1:
        write_report(target, evaluations[0].figures)
    else:
        write_page(target, "compare.html.jinja", found=found, plots=_plots(found), title_of=title_of)
    return found


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    figures = read_json(path)
    kind = (figures.get("format"), figures.get("format_version")) if isinstance(figures, dict) else (None, None)
    if kind != (FORMAT, FORMAT_VERSION):
        raise NannError(
            f"{path} has format {kind[0]!r} version {kind[1]!r}, this release reads {FORMAT!r} version "
            f"{FORMAT_VERSION}; evaluate again"
        )
    held = figures.get("cases_file") or {}
    cases = path.with_suffix(".npz")  # Not the name in the JSON file: both may have been renamed.
    if not cases.exists():
        raise NannError(f"{cases} does not exist; keep it beside {path.name}, which was written with it")
    if sha256(cases) != held.get("sha256"):
        raise NannError(f"{cases} is not what {path.name} was written with; evaluate again")
    try:
        with np.load(cases, allow_pickle=False) as arrays:
            return figures, dict(arrays)
    except (ValueError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise NannError(f"{cases} cannot be read: {error}") from error


def _labels(paths: Sequence[Path]) -> list[str]:
    """Returns file names without suffixes, with as many parent folders as are needed to make them different."""
    whole = [path.with_suffix("").absolute().parts for path in paths]
    for depth in range(1, max((len(parts) for parts in whole), default=1) + 1):
        labels = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({number})" for number, label in enumerate(labels, 1)]  # A file was given twice.


def _rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    figures = evaluation.figures
    shared = {
        "label": evaluation.label,
        "model": figures["model"].get("model"),
        "epsilon": evaluation.epsilon,
        "seed": figures["index"].get("seed"),
        "cases": figures["cases"],
        "recall_all": figures["recall_all"],
        "recall_all_interval": figures["recall_all_interval"],
    }
    names = ("recall_retrieval", "recall_delta", "coverage", "coverage_5th_percentile")
    shown = (*names, "scored_fraction", "ms_per_case", "intervals")
    rows = [
        {**shared, "search": name, **{figure: search[figure] for figure in shown}}
        for name, search in figures["searches"].items()
    ]
    return rows or [{**shared, "search": None}]


def _differences(first: Evaluation, other: Evaluation) -> list[dict[str, Any]]:
    paired = first.same_cases(other)
    bootstrap = Bootstrap(first.cases["user_ids"])
    compared = [("recall_all", None, first.hits("brute_force"), other.hits("brute_force"))]
    for name in first.figures["searches"]:
        if name in other.figures["searches"]:
            compared.append(("recall_retrieval", name, first.hits(name), other.hits(name)))
            covered = (each.cases[f"coverage/{name}"][:, -1] for each in (first, other))
            compared.append(("coverage", name, *covered))
    parts = []
    for figure, name, before, after in compared:
        value, interval = bootstrap.difference(after, before) if paired else (None, None)
        parts.append(
            {"label": other.label, "from": first.label, "figure": figure, "search": name}
            | {"value": value, "interval": interval}
        )
    return parts


def _by_epsilon(evaluations: Sequence[Evaluation]) -> dict[str, list[dict[str, Any]]]:
    """Returns the data of the paper's Figure 5, for every model that was evaluated with two epsilons or more.

    Each point is a mean over the evaluations with one epsilon. If all evaluations have the same cases, it also has
    intervals, and paired differences from the smallest epsilon.
    """
    models: dict[tuple[str, str], dict[float, list[Evaluation]]] = {}
    for each in evaluations:
        if each.epsilon is not None:
            models.setdefault(_apart_from_epsilon(each), {}).setdefault(float(each.epsilon), []).append(each)
    kinds = list(dict.fromkeys(models))
    return {
        _name_of(model, kinds): _epsilon_points(dict(sorted(by_epsilon.items())))
        for model, by_epsilon in models.items()
        if len(by_epsilon) > 1
    }


def _apart_from_epsilon(evaluation: Evaluation) -> tuple[str, str]:
    """Returns the model and the scale of epsilon in words, and everything else that may not differ along one line."""
    figures = evaluation.figures
    training = _asked_of(figures["model"]["training"])
    words = f"{figures['model'].get('model')}, {training.get('epsilon_scale', 'relative')}"
    asked = {
        name: {field: search[field] for field in _PARAMETERS if field in search}
        for name, search in figures["searches"].items()
    }
    return words, str((figures["model"].get("config"), sorted(training.items(), key=str), asked))


def _asked_of(training: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of a training's report, and of its start's, that may not differ along one line."""
    return {
        name: _asked_of(value) if isinstance(value, dict) else value
        for name, value in training.items()
        if name not in _NOT_COMPARED
    }


def _name_of(model: tuple[str, str], kinds: list[tuple[str, str]]) -> str:
    """Returns the name of a line of the plot, with a number if another line has the same words."""
    alike = [kind for kind in kinds if kind[0] == model[0]]
    return model[0] if len(alike) == 1 else f"{model[0]} ({alike.index(model) + 1})"


def _epsilon_points(by_epsilon: Mapping[float, list[Evaluation]]) -> list[dict[str, Any]]:
    groups = list(by_epsilon.values())
    paired = all(each.same_cases(groups[0][0]) for group in groups for each in group)
    bootstrap = Bootstrap(groups[0][0].cases["user_ids"])
    first: dict[str, np.ndarray] = {}
    points = []
    for epsilon, group in by_epsilon.items():
        names = [
            name for name in group[0].figures["searches"] if all(name in each.figures["searches"] for each in group)
        ]
        point: dict[str, Any] = {"epsilon": epsilon, "evaluations": len(group)}
        point |= {"recall_all": float(np.mean([each.figures["recall_all"] for each in group]))}
        point |= {"coverage": {name: float(np.mean([each.coverage(name).mean() for each in group])) for name in names}}
        if paired:
            means = {"recall_all": np.mean([each.hits("brute_force") for each in group], axis=0)}
            means |= {name: np.mean([each.coverage(name) for each in group], axis=0) for name in names}
            point["intervals"] = {name: bootstrap.interval(values) for name, values in means.items()}
            first = first or means
            point["differences"] = {
                name: bootstrap.difference(values, first[name]) for name, values in means.items() if name in first
            }
        points.append(point)
    return points


def _by_build(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Returns how coverage varies over graphs of one model with equal parameters, searches and cases, by search."""
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for each in evaluations:
        index = each.figures["index"]
        built = {name: index.get(name) for name in ("M", "efConstruction", "dtype")}
        built["K"] = (index.get("knn") or {}).get("K")  # None for HNSW's ground layer.
        for name, search in each.figures["searches"].items():
            asked = {field: search[field] for field in _PARAMETERS if field in search}
            same = str((each.figures["model"], built, asked, each.figures["split"]))
            groups.setdefault((name, same), []).append(each)
    builds = []
    for (name, _), group in groups.items():
        graphs = {each.figures["index"]["manifest_sha256"] for each in group}
        if len(graphs) > 1 and all(each.same_cases(group[0]) for each in group):
            covered = [each.figures["searches"][name]["coverage"] for each in group]
            builds.append(
                {"labels": [each.label for each in group], "search": name, "coverage": covered}
                | {"lowest": min(covered), "highest": max(covered), "range": max(covered) - min(covered)}
            )
    return builds


def _plots(found: Mapping[str, Any]) -> list[Plot]:
    k, plots = found["k"], []
    epsilons = found["epsilons"]
    if epsilons:
        recall = [
            Series(
                model,
                [f"{p['epsilon']:g}" for p in points],
                [p["recall_all"] for p in points],
                _intervals(points, "recall_all"),
                number,
                line=True,
            )
            for number, (model, points) in enumerate(epsilons.items())
        ]
        plots.append(line_plot("epsilon-recall", f"Recall-all@{k} by ε", recall, "ε", f"recall-all@{k}"))
        lines = [
            Series(
                f"{model}: {title_of(name)}",
                [f"{p['epsilon']:g}" for p in points],
                [p["coverage"].get(name, float("nan")) for p in points],
                _intervals(points, name),
                line=True,
            )
            for model, points in epsilons.items()
            for name in points[0]["coverage"]
        ]
        lines = [dataclasses.replace(line, color=number) for number, line in enumerate(lines)]
        plots.append(line_plot("epsilon-coverage", f"Coverage@{k} by ε", lines, "ε", f"coverage@{k}"))
    searches = list(dict.fromkeys(row["search"] for row in found["rows"] if row["search"]))
    colors = colors_of(searches)
    for figure, words in (("recall_retrieval", "Recall-retrieval"), ("coverage", "Coverage")):
        lines = []
        for name in searches:
            rows = [row for row in found["rows"] if row["search"] == name]
            intervals = [row["intervals"][figure] for row in rows]
            labels = _short([row["label"] for row in rows])
            lines.append(Series(title_of(name), labels, [row[figure] for row in rows], intervals, colors[name]))
        if lines:
            y_label = f"{words.lower()}@{k}"
            plots.append(line_plot(f"evaluations-{figure}", f"{words}@{k} by evaluation", lines, "", y_label))
    return plots


def _intervals(points: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """Returns the intervals of one metric; none unless every point has one."""
    found = [point.get("intervals", {}).get(name) for point in points]
    return [] if None in found else found


def _short(labels: Sequence[str], most: int = 14) -> list[str]:
    """Returns shortened labels for an axis: their ends if these differ, otherwise their beginnings with a number."""
    short = [label if len(label) <= most else f"…{label[-most:]}" for label in labels]
    if len(set(short)) == len(set(labels)):
        return short
    places = {label: place for place, label in enumerate(dict.fromkeys(labels), 1)}
    return [f"{label[: most - 3]}… {places[label]}" if len(label) > most else label for label in labels]
