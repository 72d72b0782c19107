"""Several evaluations side by side: the paper's table, coverage by epsilon and by graph build, paired intervals.

Differences are from the first evaluation, and paired: they need the same cases, told from the `.npz` files beside the
figures. No model is opened.
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
# Of a training: what may differ between models that are compared by epsilon, besides what came out of it.
_NOT_COMPARED = ("epsilon", "seed", "seconds", "histories_per_second", "softmax_loss", "sigmoid_loss",
                 "auxiliary_loss", "best_step", "validation_recall", "steps_done", "histories", "tensorboard",
                 "checkpoint_minutes")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What `evaluate` wrote.

    Attributes:
      label: what tells it from the others.
      figures: the JSON.
      cases: the arrays of the `.npz`.
    """

    label: str
    figures: dict[str, Any]
    cases: dict[str, np.ndarray]

    @property
    def epsilon(self) -> float | None:
        """Length of the FGSM step that the model was trained with, where that is known."""
        training = self.figures["model"].get("training") or {}
        return training.get("epsilon")

    def same_cases(self, other: "Evaluation") -> bool:
        """Whether both asked for the same targets of the same users."""
        return all(np.array_equal(self.cases[name], other.cases[name]) for name in _SAME_CASES)

    def coverage(self, name: str) -> np.ndarray:
        """Coverage at k of each case by a search; the mean over builds of the graph, where there are several."""
        built = self.cases.get(f"builds/coverage/{name}")
        return self.cases[f"coverage/{name}"][:, -1] if built is None else built[:, :, -1].mean(axis=1)

    def hits(self, name: str) -> np.ndarray:
        """Recall at k of each case by brute force, a search or a baseline."""
        return hits(self.cases[f"rank/{name}"], self.figures["k"])


def load(paths: Sequence[str | os.PathLike[str]]) -> list[Evaluation]:
    """Reads evaluations with what their cases gave.

    Raises:
      NannError: a file is missing, of another format, or the `.npz` beside it is of another run.
    """
    return [
        Evaluation(label, *_read(Path(path)))
        for label, path in zip(_labels([Path(path) for path in paths]), paths, strict=True)
    ]


def compare(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Sets evaluations side by side.

    Returns:
      `k`; `rows`, one for each evaluation and search, with the figures of the paper's table; `differences`, each from
      the first evaluation: `figure`, `search` or None, `value`, `interval`, both None where the cases are others;
      `epsilons` and `builds`, what the plots show.

    Raises:
      NannError: no evaluation, or evaluations of different k.
    """
    if not evaluations:
        raise NannError("there are no evaluations to compare; give the JSON files that `nann evaluate -o` wrote")
    for each in evaluations[1:]:
        if each.figures["k"] != evaluations[0].figures["k"]:
            raise NannError(
                f"{each.label} has k {each.figures['k']}, {evaluations[0].label} has {evaluations[0].figures['k']}; "
                "compare answers of one length"
            )
    return {
        "k": evaluations[0].figures["k"],
        "rows": [row for each in evaluations for row in _rows(each)],
        "differences": [part for each in evaluations[1:] for part in _differences(evaluations[0], each)],
        "epsilons": _by_epsilon(evaluations),
        "builds": _by_build(evaluations),
    }


def report(paths: Sequence[str | os.PathLike[str]], target: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes one page of several evaluations, or the report of a single one anew.

    Returns:
      What `compare` gives.

    Raises:
      NannError: see `load` and `compare`, or the page cannot be written, or would replace what is no page of ours.
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
    cases = path.with_suffix(".npz")  # Also where both were renamed.
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
    """File names without their ends, with as many folders in front as tell them apart."""
    whole = [path.with_suffix("").absolute().parts for path in paths]
    for depth in range(1, max((len(parts) for parts in whole), default=1) + 1):
        labels = ["/".join(parts[-depth:]) for parts in whole]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({number})" for number, label in enumerate(labels, 1)]  # One file, given twice.


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
    told = (*names, "scored_fraction", "ms_per_case", "intervals")
    rows = [
        {**shared, "search": name, **{figure: search[figure] for figure in told}}
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
    """The paper's Figure 5, by model: means over the evaluations of one epsilon, where a model has two or more.

    Intervals, and paired differences from the least epsilon, where all are of the same cases.
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
    """The model and the scale of epsilon in words, and all that else may not differ along one line."""
    figures = evaluation.figures
    training = _asked_of(figures["model"]["training"])
    words = f"{figures['model'].get('model')}, {training.get('epsilon_scale', 'relative')}"
    asked = {
        name: {field: search[field] for field in _PARAMETERS if field in search}
        for name, search in figures["searches"].items()
    }
    return words, str((figures["model"].get("config"), sorted(training.items(), key=str), asked))


def _asked_of(training: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training, and of that of its start, what may not differ."""
    return {
        name: _asked_of(value) if isinstance(value, dict) else value
        for name, value in training.items()
        if name not in _NOT_COMPARED
    }


def _name_of(model: tuple[str, str], kinds: list[tuple[str, str]]) -> str:
    """A name for a line of the plot; numbered where another has the same words."""
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
    """How coverage varies over graphs of one model, built and searched alike and asked the same cases, by search."""
    groups: dict[tuple[str, str], list[Evaluation]] = {}
    for each in evaluations:
        built = {name: each.figures["index"].get(name) for name in ("M", "efConstruction", "dtype")}
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
    """The intervals of one figure, where every point has one; else none."""
    found = [point.get("intervals", {}).get(name) for point in points]
    return [] if None in found else found


def _short(labels: Sequence[str], most: int = 14) -> list[str]:
    """Labels for an axis: their ends, where these tell them apart."""
    short = [label if len(label) <= most else f"…{label[-most:]}" for label in labels]
    if len(set(short)) == len(set(labels)):
        return short
    places = {label: place for place, label in enumerate(dict.fromkeys(labels), 1)}
    return [f"{label[: most - 3]}… {places[label]}" if len(label) > most else label for label in labels]
