"""Writes an evaluation as one self-contained HTML page: plots, and the tables that they are drawn from."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfserving_ext.reports import page
from tfserving_ext.reports.drawing import Plot, Series
from tfserving_ext.reports.plots import dot_plot, histogram, line_plot

_TEMPLATES = Path(__file__).with_name("templates")
TITLES = {
    "surrogate": "surrogate, from the history",
    "best_first": "best-first, from the history",
    "best_first_unseeded": "best-first, from the entry points",
    "rounds": "the paper's rounds",
    "rounds_seeded": "the paper's rounds, from the history",
    "most_popular": "most popular",
    "own_history": "own history, then most popular",
    "own_history_in_window": "own history in window, then most popular",
}
_COLORS = {"surrogate": 4, "best_first": 0, "rounds": 1, "best_first_unseeded": 2, "rounds_seeded": 3}


def title_of(name: str) -> str:
    """Returns the title of a search or a baseline."""
    return TITLES.get(name, name.replace("_", " "))


def colors_of(names: Sequence[str]) -> dict[str, int]:
    """Returns the number of a colour for each search: known searches have their own, others get the next free one."""
    free = iter(number for number in range(len(_COLORS), len(_COLORS) + len(names)))
    return {name: _COLORS[name] if name in _COLORS else next(free) for name in names}


def write_report(path: str | os.PathLike[str], figures: Mapping[str, Any]) -> None:
    """Writes the page of one evaluation, whole or not at all.

    Args:
      path: the file.
      figures: the result of `evaluate`.

    Raises:
      NannError: the file cannot be written.
    """
    write_page(path, "report.html.jinja", figures=figures, plots=_plots(figures), title_of=title_of)


def write_page(path: str | os.PathLike[str], template: str, **values: Any) -> None:
    """Writes a page from a template of this package; see `page.write_page`.

    Raises:
      NannError: the file cannot be written.
    """
    page.write_page(path, _TEMPLATES, template, **values)


def _plots(figures: Mapping[str, Any]) -> dict[str, Plot]:
    """Returns the plots that the evaluation has data for, by their place in the page."""
    k, searches = figures["k"], figures["searches"]
    colors = colors_of(list(searches))
    plots = {"recall": _recall(figures, colors)}
    if searches:
        edges = next(iter(searches.values()))["coverage_histogram"]["edges"]
        plots["histogram"] = histogram(
            "histogram",
            f"Users by their coverage@{k}",
            f"coverage@{k}",
            "users",
            edges,
            [
                Series(title_of(name), edges[:-1], search["coverage_histogram"]["users"], color=colors[name])
                for name, search in searches.items()
            ],
        )
    for group, words in (
        ("history_length", "behaviours before the target"),
        ("target_popularity", "the target's count in training"),
    ):
        plots |= _groups(figures, group, words, colors)
    if "curves" in figures:
        plots |= _curves(figures["curves"], k)
    return plots


def _recall(figures: Mapping[str, Any], colors: Mapping[str, int]) -> Plot:
    k = str(figures["k"])
    rows: list[tuple[str, float, Sequence[float] | None, int]] = [
        ("brute force", figures["recall_all"], figures["recall_all_interval"], 7)
    ]
    for name, search in figures["searches"].items():
        rows.append((title_of(name), search["recall_retrieval"], search["intervals"]["recall_retrieval"], colors[name]))
    for name, at in figures["baselines"].items():
        rows.append((title_of(name), at[k]["recall"], at[k]["interval"], 6))
    short = [(_wrapped(label), *rest) for label, *rest in rows]
    return dot_plot("recall", f"Recall@{k}", f"recall@{k}", short)  # type: ignore[arg-type]


def _wrapped(label: str, width: int = 20) -> str:
    """Breaks a label into lines, so that it leaves room for the plot on a narrow page."""
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _groups(figures: Mapping[str, Any], group: str, words: str, colors: Mapping[str, int]) -> dict[str, Plot]:
    k, groups = figures["k"], figures["groups"][group]
    places = [_range(each) for each in groups]
    recall = [
        Series("brute force", places, [g["recall_all"] for g in groups], [g["recall_all_interval"] for g in groups], 7)
    ]
    covered: list[Series] = []
    for name in figures["searches"]:
        found = [g["searches"][name] for g in groups]
        for series, figure in ((recall, "recall_retrieval"), (covered, "coverage")):
            values, intervals = [f[figure] for f in found], [f[f"{figure}_interval"] for f in found]
            series.append(Series(title_of(name), places, values, intervals, colors[name]))
    plots = {f"recall_by_{group}": line_plot(f"recall-{group}", f"Recall@{k} by {words}", recall, words, f"recall@{k}")}
    if covered:
        plots[f"coverage_by_{group}"] = line_plot(
            f"coverage-{group}", f"Coverage@{k} by {words}", covered, words, f"coverage@{k}"
        )
    return plots


def _range(group: Mapping[str, Any]) -> str:
    low, high = group["low"], group["high"]
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _curves(curves: Mapping[str, Any], k: int) -> dict[str, Plot]:
    """Returns the paper's Figure 3, as two plots, and its Figure 7."""

    def lines(figure: str, x: str, y: str) -> list[Series]:
        found = curves[figure]
        colors = colors_of(list(found))
        return [
            Series(
                title_of(name),
                [point[x] for point in points],
                [point[y] for point in points],
                [point["intervals"][y] for point in points],
                colors[name],
            )
            for name, points in found.items()
        ]

    plots = {}
    for y, words in (("recall_retrieval", "recall-retrieval"), ("coverage", "coverage")):
        plots[f"{y}_by_scored_fraction"] = line_plot(
            f"fraction-{y}",
            f"{words.capitalize()}@{k} over the scored fraction",
            lines("by_scored_fraction", "scored_fraction", y),
            "items scored, % of all",
            f"{words}@{k}",
            log_percent=True,
            reference=("recall-all", curves["recall_all"]) if y == "recall_retrieval" else None,
        )
    plots["coverage_by_round"] = line_plot(
        "rounds", f"Coverage@{k} by rounds", lines("by_round", "rounds", "coverage"), "rounds", f"coverage@{k}"
    )
    return plots
