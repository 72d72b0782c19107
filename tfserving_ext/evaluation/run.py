"""Evaluates a model and its searches on held-out users."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext import __version__
from tfserving_ext.artifacts import atomic_file, sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.baselines import baseline_ranks
from tfserving_ext.evaluation.builds import build_figures, check_buildable, on_builds
from tfserving_ext.evaluation.cases import HeldOut, target_popularity
from tfserving_ext.evaluation.curves import sweep
from tfserving_ext.evaluation.figures import (
    MetricsContext,
    baseline_figures,
    group_figures,
    histogram_edges,
    recall_figures,
    search_figures,
)
from tfserving_ext.evaluation.intervals import LEVEL, RESAMPLES, Bootstrap
from tfserving_ext.evaluation.subject import Outcome, Setting, Subject
from tfserving_ext.extras import require
from tfserving_ext.outputs import check_beside, check_json
from tfserving_ext.retrieval.parameters import BestFirst, Rounds, Surrogate

FORMAT, FORMAT_VERSION = "nann-evaluation", 1
# The searches of an evaluation, by their names in its JSON.
SEARCHES: Mapping[str, BestFirst | Rounds] = MappingProxyType(
    {"surrogate": Surrogate(), "best_first": BestFirst(), "rounds": Rounds()}
)


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation.

    Attributes:
      curve_cases: also sweep the searches' parameters, on this many cases; None for no sweep.
      builds: also measure the searches on this many further graphs, built with other seeds.
      html: also write the report.
      resamples: number of resamples of the bootstrap.
      seed: seed of the bootstrap.
    """

    curve_cases: int | None = None
    builds: int = 0
    html: bool = True
    resamples: int = RESAMPLES
    seed: int = 0


HELD_OUT, OPTIONS = HeldOut(), EvaluationOptions()


def evaluate(
    data: str | os.PathLike[str],
    model: str | os.PathLike[str],
    index: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    searches: Mapping[str, BestFirst | Rounds] = SEARCHES,
    held_out: HeldOut = HELD_OUT,
    options: EvaluationOptions = OPTIONS,
) -> dict[str, Any]:
    """Measures recall, coverage and the scored fraction at k on held-out users (docs/evaluation.md).

    Example:
      >>> figures = nann.evaluate("data", "model", "index", "evaluation.json")
      >>> list(figures["searches"])
      ['surrogate', 'best_first', 'rounds']

    Args:
      data: a folder that `nann convert` wrote.
      model: a folder that `nann train` wrote.
      index: a folder that `nann index` wrote from the same model.
      target: a JSON file for the metrics, or None. The results of each case (`.npz`) and the report (`.html`) are
        written beside it, with the same name.
      searches: parameters of the searches to measure, by name; best-first and the surrogate search are seeded with the
        history. The latter is left out for an index without features. If there are none, only brute force is measured
        (the original's test_all).
      held_out: the cases, and k.
      options: see `EvaluationOptions`.

    Returns:
      The metrics: `recall_all`, `brute_force_ms_per_case`, a description of data, model and index, `baselines`,
      `groups`, and `searches` by name, each with `recall_retrieval`, `recall_delta`, `coverage`,
      `coverage_5th_percentile` over users, `items_scored`, `scored_fraction`, `ms_per_case`, its parameters, and
      `intervals` of these; with `options.builds`, also `builds` by search (see `build_figures`).

    Raises:
      NannError: the artefacts do not belong together, parameters do not fit, or a file cannot be written.
      ImportError: a report is requested, and the packages of the extra `reports` are missing.
    """
    files = None if target is None else _files(target, options.html)
    subject = Subject(data, model, index, held_out)
    check_buildable(subject.index, options.builds)
    settings = _settings(subject, searches)
    measured = _measured(subject, settings, options.builds)
    figures = _figures(subject, settings, measured, held_out, options)
    if options.curve_cases is not None:
        kinds: dict[type, Any] = {type(parameters): parameters for parameters in searches.values()}
        best_first, rounds = kinds.get(BestFirst, BestFirst()), kinds.get(Rounds, Rounds())
        bootstrap = {"resamples": options.resamples, "seed": options.seed}
        figures["curves"] = sweep(subject, best_first, rounds, options.curve_cases, **bootstrap)
    if files is not None:
        _write_cases(files["npz"], subject, measured)
        figures["cases_file"] = {"name": files["npz"].name, "sha256": sha256(files["npz"])}
        write_json(files["json"], figures)  # Written after the cases, so that these exist if the JSON does.
        if options.html:
            from tfserving_ext.evaluation.evaluation_report import write_report  # Matplotlib takes a second to import.

            write_report(files["html"], figures)
    return figures


def _settings(subject: Subject, searches: Mapping[str, BestFirst | Rounds]) -> dict[str, Setting]:
    """Returns the searches that the index allows, checked now rather than after minutes of brute force."""
    if not subject.index.has_features:
        searches = {name: one for name, one in searches.items() if not isinstance(one, Surrogate)}
    settings = {name: Setting.deployed(parameters) for name, parameters in searches.items()}
    for setting in settings.values():
        subject.neural.check(setting.parameters, subject.k)
    return settings


def _files(target: str | os.PathLike[str], html: bool) -> dict[str, Path]:
    """Returns the files to write, and checks before the minutes of an evaluation that they may be written."""
    files = beside(target)
    if html:
        require("reports")
    check_json(files["json"], "figures of `nann evaluate`", "format", FORMAT)
    check_beside(files["json"], files["npz"], *([files["html"]] if html else []))
    return files


@dataclasses.dataclass(frozen=True)
class _Measured:
    """The outcomes of brute force and the searches, the baselines' ranks, and the popularity of the targets."""

    exact: Outcome
    outcomes: Mapping[str, Outcome]
    by_build: Mapping[str, Mapping[int | None, Outcome]]
    baselines: Mapping[str, np.ndarray]
    popularity: np.ndarray


def _measured(subject: Subject, settings: Mapping[str, Setting], builds: int) -> _Measured:
    exact = subject.exact()[1]
    outcomes = subject.measure(settings)
    graphs: dict[int | None, dict[str, Outcome]] = {subject.index.manifest.get("seed"): outcomes}
    graphs |= dict(on_builds(subject, settings, builds))
    by_build = {name: {seed: found[name] for seed, found in graphs.items()} for name in settings} if builds else {}
    baselines = baseline_ranks(subject.sequences, subject.cases, subject.cases.histories.shape[1])
    return _Measured(exact, outcomes, by_build, baselines, target_popularity(subject.sequences, subject.cases))


def _figures(
    subject: Subject,
    settings: Mapping[str, Setting],
    measured: _Measured,
    held_out: HeldOut,
    options: EvaluationOptions,
) -> dict[str, Any]:
    """Returns all metrics except the curves."""
    cases, exact, outcomes, k = subject.cases, measured.exact, measured.outcomes, held_out.k
    bootstrap = Bootstrap(cases.user_ids, options.resamples, options.seed)
    context = MetricsContext(bootstrap, subject.cutoffs, exact.ranks, len(subject.index.item_ids))
    edges = histogram_edges(context, outcomes.values())
    recalls = recall_figures(context, exact.ranks)
    figures: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {"nann": __version__, "tensorflow": tf.__version__},
        "k": k,
        "cutoffs": list(subject.cutoffs),
        "cases": len(cases),
        "users": bootstrap.users,
        "items": context.items,
        "split": held_out.split,
        "positions_per_user": held_out.positions_per_user,
        "bootstrap": {"resamples": options.resamples, "level": LEVEL, "seed": options.seed},
        "model": _model_facts(subject),
        "index": _index_facts(subject),
        "recall_all": recalls[str(k)]["recall"],
        "recall_all_interval": recalls[str(k)]["interval"],
        "recall_all_at": recalls,
        "brute_force_ms_per_case": 1000 * exact.seconds / len(cases),
        "brute_force_nan_scores": exact.nan_scores,
        "baselines": {name: baseline_figures(context, ranks) for name, ranks in measured.baselines.items()},
        "searches": {name: search_figures(context, outcomes[name], settings[name], edges) for name in settings},
        "groups": {
            "history_length": group_figures(context, outcomes, cases.user_ids, cases.positions),
            "target_popularity": group_figures(context, outcomes, cases.user_ids, measured.popularity),
        },
    }
    if measured.by_build:
        figures["builds"] = {name: build_figures(context, found) for name, found in measured.by_build.items()}
    return figures


def beside(target: str | os.PathLike[str]) -> dict[str, Path]:
    """Returns the files of an evaluation by their kind: `json`, the target, and `npz` and `html` beside it.

    Raises:
      NannError: the target's name does not end in .json, so that two evaluations could share a file.
    """
    target = Path(target)
    if target.suffix != ".json":
        stem = target.with_suffix("") if target.suffix in (".npz", ".html") else target
        raise NannError(f"{target} would hold JSON, but its name does not end in .json; name it {stem}.json")
    return {"json": target, "npz": target.with_suffix(".npz"), "html": target.with_suffix(".html")}


def _model_facts(subject: Subject) -> dict[str, Any]:
    manifest = subject.trained.manifest
    return {name: manifest.get(name) for name in ("model", "config", "training")}


def _index_facts(subject: Subject) -> dict[str, Any]:
    manifest = subject.index.manifest
    names = ("metric", "M", "efConstruction", "seed", "graph", "knn", "dtype", "entry_points", "layers")
    return {name: manifest[name] for name in names if name in manifest} | {
        "edges": len(subject.index.layers[0].neighbors),
        "manifest_sha256": sha256(subject.index.folder / "manifest.json"),
    }


def _write_cases(path: Path, subject: Subject, measured: _Measured) -> None:
    """Writes the results of each case, from which paired intervals between evaluations are computed."""
    cases = subject.cases
    arrays: dict[str, Any] = {
        "user_ids": cases.user_ids,
        "positions": cases.positions,
        "target_ids": subject.targets,
        "target_popularity": measured.popularity,
        "cutoffs": np.array(subject.cutoffs, np.int32),
        "rank/brute_force": measured.exact.ranks,
    }
    arrays |= {f"rank/{name}": ranks.astype(np.int32) for name, ranks in measured.baselines.items()}
    for name, outcome in measured.outcomes.items():
        arrays |= {
            f"rank/{name}": outcome.ranks,
            f"coverage/{name}": outcome.coverage,
            f"items_scored/{name}": outcome.items_scored,
            f"rounds/{name}": outcome.rounds,
            f"search_us/{name}": outcome.search_us,
        }
    for name, builds in measured.by_build.items():
        arrays |= {
            f"builds/rank/{name}": np.stack([outcome.ranks for outcome in builds.values()], axis=1),
            f"builds/coverage/{name}": np.stack([outcome.coverage for outcome in builds.values()], axis=1),
        }
    with atomic_file(path) as new, new.open("wb") as file:
        np.savez_compressed(file, **arrays)


def summary(figures: dict[str, Any]) -> str:
    """Returns the metrics in words: a line, and further ones for each search, its builds, and each baseline."""
    k = figures["k"]
    recall_all = f"recall-all@{k} {_with_interval(figures['recall_all'], figures.get('recall_all_interval'))}"
    lines = [f"{figures['cases']:,} cases: {recall_all}"]
    for name, search in figures["searches"].items():
        lines.append(
            f"{name}: recall-retrieval@{k} {search['recall_retrieval']:.4f}, coverage@{k} {search['coverage']:.4f}, "
            f"{search['items_scored']:,.0f} items scored ({100 * search['scored_fraction']:.1f} %)"
        )
    for name, found in figures.get("builds", {}).items():
        each = ", ".join(f"{graph['coverage']:.4f}" for graph in found["graphs"])
        lines.append(f"{name} over {len(found['graphs'])} builds of the graph: coverage@{k} {each}")
    for name, at in figures.get("baselines", {}).items():
        low, high = at[str(k)]["difference_interval"]
        lines.append(
            f"{name.replace('_', ' ')}: recall@{k} {at[str(k)]['recall']:.4f}; the model is better by "
            f"{at[str(k)]['model_minus_baseline']:+.4f} ({low:+.4f} to {high:+.4f})"
        )
    return "\n          ".join(lines)


def _with_interval(value: float, interval: Any) -> str:
    return f"{value:.4f}" if interval is None else f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"


__all__ = ["FORMAT", "FORMAT_VERSION", "SEARCHES", "EvaluationOptions", "beside", "evaluate", "summary"]
