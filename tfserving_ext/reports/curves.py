"""Plots of load tests: curves over time, load or percentile, and a bar of parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from tfserving_ext.reports.drawing import (
    FONT,
    GLYPHS,
    MARKERS,
    PAGE,
    SERIES,
    Axis,
    Plot,
    Series,
    Span,
    legend,
    svg,
)

# From this ratio of the largest to the smallest value, an axis is logarithmic; otherwise it starts at 0.
LOG_FROM = 30.0
_SPAN_COLOR = 6
_LEAST_LABELLED = 0.09  # Narrower parts of a bar have no room for a label.


def curve_plot(name: str, title: str, series: Sequence[Series], x: Axis, y: Axis, spans: Sequence[Span] = ()) -> Plot:
    """Plots lines over numbers; missing values of y (None) leave gaps.

    Args:
      name: a prefix for the ids in the SVG, unique in the page.
      title: the plot's title.
      series: the lines; their intervals may be None.
      x: the x axis, with the scale "linear" or "percentiles".
      y: the y axis, with the scale "linear", which starts at 0, or "log".
      spans: parts of the x axis to mark.
    """
    found = np.array([value for one in series for value in one.y if value is not None], float)
    positive = found[found > 0]
    is_log = y.scale == "log" and len(positive) > 0 and float(positive.max()) >= LOG_FROM * float(positive.min())

    def paint(axes: Any) -> None:
        for span in spans:
            _paint_span(axes, span)
        for one in series:
            _paint_line(axes, one, x.scale == "percentiles", is_log)
        if is_log:
            _log_axis(axes, "y", float(positive.max()) / float(positive.min()))
        else:
            axes.set_ylim(bottom=0)
        if x.scale == "percentiles":
            _percentile_axis(axes, max((value for one in series for value in one.x), default=0.0))
        else:
            whole = all(float(value).is_integer() for one in series for value in one.x)
            axes.xaxis.set_major_locator(MaxNLocator(7, integer=whole))
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)

    places = sorted({place for one in series for place in one.x})
    values = [dict(zip(one.x, one.y, strict=True)) for one in series]
    rows = [[x.text(at), *("" if line.get(at) is None else y.text(line[at]) for line in values)] for at in places]
    entries = [legend([one])[0] if one.marked else ("━", one.color % len(SERIES) + 1, one.label) for one in series]
    if spans:
        entries.append(("▮", _SPAN_COLOR + 1, spans[0].label))
    labels = ", ".join(one.label for one in series)
    description = f"{y.label} over {x.label}: {labels}. The table below has all points."
    columns = [x.label, *(one.label for one in series)]
    return Plot(title, svg(name, title, description, paint), entries, columns, rows)


def stacked_bar(name: str, title: str, unit: str, parts: Sequence[tuple[str, float]]) -> Plot:
    """Plots one bar of parts in their order, each labelled with its share.

    Args:
      name: a prefix for the ids in the SVG, unique in the page.
      title: the plot's title.
      unit: the unit of the values.
      parts: (label, value) of each part; values must not be negative.
    """
    total = sum(value for _, value in parts) or 1.0

    def paint(axes: Any) -> None:
        left = 0.0
        for number, (_, value) in enumerate(parts):
            color = SERIES[number % len(SERIES)]
            axes.barh([0], [value], left=left, height=0.8, color=color, edgecolor=PAGE, linewidth=0.8)
            if value >= _LEAST_LABELLED * total:
                axes.text(left + value / 2, 0, f"{100 * value / total:.0f} %", color=PAGE, ha="center", va="center")
            left += value
        axes.set_xlim(0, total)
        axes.set_ylim(-0.5, 0.5)
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False)
        axes.set_xlabel(unit)

    entries = [(GLYPHS[1], number % len(SERIES) + 1, label) for number, (label, _) in enumerate(parts)]
    rows = [[label, f"{value:.3f}", f"{100 * value / total:.1f} %"] for label, value in parts]
    description = f"{', '.join(f'{label} {value:.3f} {unit}' for label, value in parts)}."
    return Plot(title, svg(name, title, description, paint, 1.15), entries, ["", unit, "share"], rows)


def _paint_line(axes: Any, one: Series, percentiles: bool, is_log: bool) -> None:
    x = np.array([1 / (1 - value) if percentiles else value for value in one.x], float)
    y = np.array([np.nan if value is None else value for value in one.y], float)
    if is_log:
        y[y <= 0] = np.nan
    color, marker = SERIES[one.color % len(SERIES)], MARKERS[one.color % len(MARKERS)]
    if any(interval is not None for interval in one.intervals):
        ends = np.array([_ends(*pair) for pair in zip(one.intervals, y, strict=True)]).T
        axes.errorbar(x, y, np.abs(ends - y), fmt="none", color=color, elinewidth=1.1, capsize=2, alpha=0.4)
    axes.plot(x, y, marker=marker if one.marked else "none", color=color)
    for note, *place in zip(one.notes, x, y, strict=False):
        if note:
            axes.annotate(note, place, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=FONT)


def _paint_span(axes: Any, span: Span) -> None:
    color = SERIES[_SPAN_COLOR]
    if span.end is not None:
        axes.axvspan(span.begin, span.end, color=color, alpha=0.25, linewidth=0)
    axes.axvline(span.begin, color=color, linestyle=(0, (4, 3)), linewidth=1)


def _ends(interval: Sequence[float] | None, y: float) -> Sequence[float]:
    return (y, y) if interval is None else interval


def _log_axis(axes: Any, which: str, ratio: float) -> None:
    axis = getattr(axes, f"{which}axis")
    axes.set(**{f"{which}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 3000 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())


def _percentile_axis(axes: Any, largest: float) -> None:
    """Sets an axis with the ticks 0 %, 50 %, 90 %, 99 % and so on, as far as the lines go."""
    end = 1 / (1 - largest)
    decades = int(np.floor(np.log10(end) + 1e-9))
    places = [1.0, 2.0, *(10.0**n for n in range(1, decades + 1))]
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * (1 - 1 / max(value, 1)):.10g} %"))
    axes.set_xlim(1, max(end * 1.15, 10))
