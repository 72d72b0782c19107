"""Plots of evaluations: lines, dots and bars."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from tfserving_ext.reports.drawing import FONT, MARKERS, SERIES, TEXT, Plot, Series, legend, svg


def line_plot(
    name: str,
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    log_percent: bool = False,
    reference: tuple[str, float] | None = None,
) -> Plot:
    """Plots lines through points with their intervals.

    Args:
      name: a prefix for the ids in the SVG, unique in the page.
      title: the plot's title.
      series: the lines; x are numbers, or names, which are evenly spaced.
      x_label: the label of the x axis.
      y_label: the label of the y axis.
      log_percent: whether x are fractions to show in per cent on a logarithmic axis; zeros are at its left end.
      reference: the label and the y of a horizontal line; None for no line.
    """
    named = any(isinstance(x, str) for one in series for x in one.x)
    names = list(dict.fromkeys(x for one in series for x in one.x)) if named else []

    def paint(axes: Any) -> None:
        shift = 0.16 if named and not any(one.line for one in series) else 0.0
        for place, one in enumerate(series):
            x = [names.index(value) for value in one.x] if named else [100 * v if log_percent else v for v in one.x]
            _paint_line(axes, one, np.asarray(x, float) + shift * (place - (len(series) - 1) / 2), named)
        if reference is not None:
            axes.axhline(reference[1], color=TEXT, linestyle=(0, (4, 3)), linewidth=1)
            axes.annotate(
                reference[0], (0.99, reference[1]), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", fontsize=FONT - 1, ha="right",
            )  # fmt: skip
        if named:
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.grid(visible=False, axis="x")
        elif log_percent:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif all(float(value).is_integer() for one in series for value in one.x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    rows = []
    for one in series:
        for place, (x, y) in enumerate(zip(one.x, one.y, strict=True)):
            interval = _interval(one.intervals[place] if one.intervals else None)
            rows.append([one.label, f"{100 * x:.2f} %" if log_percent else _text(x), f"{y:.4f}", interval])
    description = f"{y_label} over {x_label}: {', '.join(one.label for one in series)}. The table below has all points."
    return Plot(title, svg(name, title, description, paint), legend(series), ["", x_label, y_label, "interval"], rows)


def _paint_line(axes: Any, one: Series, x: np.ndarray, named: bool) -> None:
    color = SERIES[one.color % len(SERIES)]
    if one.intervals:
        spread = np.abs(np.asarray(one.intervals, float).T - np.asarray(one.y, float))
        axes.errorbar(x, one.y, spread, fmt="none", color=color, elinewidth=1.1, capsize=2, alpha=0.4)
    style = "-" if one.line or not named else "none"
    axes.plot(x, one.y, linestyle=style, marker=MARKERS[one.color % len(MARKERS)], color=color)


def dot_plot(
    name: str, title: str, x_label: str, rows: Sequence[tuple[str, float, Sequence[float] | None, int]]
) -> Plot:
    """Plots one point with its interval in each row; a row is (label, value, interval or None, colour)."""

    def paint(axes: Any) -> None:
        for place, (_, value, interval, color) in enumerate(rows):
            shade = SERIES[color % len(SERIES)]
            if interval is not None:
                axes.plot(interval, [place, place], color=shade, linewidth=1.4, alpha=0.7)
            axes.plot([value], [place], marker=MARKERS[color % len(MARKERS)], color=shade, markersize=6.5)
            axes.annotate(f"{value:.4f}", (value, place), xytext=(0, 5), textcoords="offset points", ha="center",
                          fontsize=FONT - 1.5)  # fmt: skip
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x_label)

    table = [[label, f"{value:.4f}", _interval(interval)] for label, value, interval, _ in rows]
    description = f"{x_label} of {', '.join(label for label, *_ in rows)}. The table below has all values."
    height = 0.75 + 0.4 * len(rows)
    return Plot(title, svg(name, title, description, paint, height), [], ["", x_label, "interval"], table)


def histogram(
    name: str, title: str, x_label: str, y_label: str, edges: Sequence[float], counts: Sequence[Series]
) -> Plot:
    """Plots counts as bars side by side, from the first bin that is not empty.

    Args:
      name: a prefix for the ids in the SVG, unique in the page.
      title: the plot's title.
      x_label: the label of the x axis.
      y_label: the label of the y axis.
      edges: the edges of the bins, evenly spaced; one more than there are bins.
      counts: the bars; the y of each series are its counts by bin.
    """
    filled = np.flatnonzero(np.sum([one.y for one in counts], axis=0))
    first = int(filled[0]) if len(filled) else 0

    def paint(axes: Any) -> None:
        width = (edges[1] - edges[0]) / (len(counts) + 0.4)
        for place, one in enumerate(counts):
            left = np.asarray(edges[first:-1]) + width * (place + 0.2)
            axes.bar(left, one.y[first:], width, align="edge", color=SERIES[one.color % len(SERIES)])
        axes.set_xlim(edges[first], edges[-1])
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    rows = [
        [f"{edges[bin_]:g} to {edges[bin_ + 1]:g}", *(f"{one.y[bin_]:,.0f}" for one in counts)]
        for bin_ in range(first, len(edges) - 1)
    ]
    description = f"{y_label} by {x_label}: {', '.join(one.label for one in counts)}. The table below has all bins."
    columns = [x_label, *(one.label for one in counts)]
    return Plot(title, svg(name, title, description, paint), legend(counts), columns, rows)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
