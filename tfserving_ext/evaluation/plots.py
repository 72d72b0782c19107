"""Plots of an evaluation as SVG that goes into a page: no fonts, no dates, colours of the page (adr/0015)."""

import dataclasses
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

# Matplotlib writes colours as numbers; these stand for the page's own, light or dark (templates/page.html.jinja).
_TEXT, _LINE = "#010101", "#020202"
_SERIES = tuple(f"#0300{number:02d}" for number in range(1, 9))
_PAGE_COLORS = {
    _TEXT: "currentColor",
    _LINE: "var(--line)",
    **{c: f"var(--series-{n})" for n, c in enumerate(_SERIES, 1)},
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# The same in text, for legends.
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")
# Inches, and points for text: as wide as a telephone, so that text keeps its size there.
_WIDTH, _HEIGHT, _FONT = 4.9, 3.1, 9.5
_RC: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "nann",
    "font.family": "DejaVu Sans",
    "font.size": _FONT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "text.color": _TEXT,
    "text.parse_math": False,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_ID = re.compile(r'(\bid="|href="#|url\(#)')


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a plot.

    Attributes:
      label: its name.
      x: numbers, or names of places on the axis.
      y: numbers.
      intervals: (low, high) of each y, or none.
      color: its place among the colours, from 0; the same search has the same colour in all plots of a page.
      line: whether points at named places are joined; those at numbers always are.
    """

    label: str
    x: Sequence[Any]
    y: Sequence[float]
    intervals: Sequence[Sequence[float]] = ()
    color: int = 0
    line: bool = False


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot for a page.

    Attributes:
      title: what it shows.
      svg: the drawing, an `<svg>` element with a title and a description.
      legend: (glyph, number of the colour from 1, label) of each line.
      columns: heads of the table of what is drawn.
      rows: its rows, as text.
    """

    title: str
    svg: str
    legend: list[tuple[str, int, str]]
    columns: list[str]
    rows: list[list[str]]


def line_plot(
    name: str,
    title: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    percent_x: bool = False,
    log_x: bool = False,
    reference: tuple[str, float] | None = None,
) -> Plot:
    """Lines through points with their intervals.

    Args:
      name: prefix of the ids in the SVG, one of its own in a page.
      title: what the plot shows.
      series: the lines; x are numbers, or names where they should stand evenly apart.
      x_label: of the axis.
      y_label: of the axis.
      percent_x: x are parts of 1, told in per cent.
      log_x: the axis is logarithmic; zeros then lie at its left end.
      reference: a horizontal line, its label and place.
    """
    named = any(isinstance(x, str) for one in series for x in one.x)
    names = list(dict.fromkeys(x for one in series for x in one.x)) if named else []

    def paint(axes: Any) -> None:
        shift = 0.16 if named and not any(one.line for one in series) else 0.0
        for place, one in enumerate(series):
            places = [names.index(value) for value in one.x] if named else [100 * v if percent_x else v for v in one.x]
            x = np.asarray(places, float) + shift * (place - (len(series) - 1) / 2)
            color = _SERIES[one.color % len(_SERIES)]
            if one.intervals:
                spread = np.abs(np.asarray(one.intervals, float).T - np.asarray(one.y, float))
                axes.errorbar(x, one.y, spread, fmt="none", color=color, elinewidth=1.1, capsize=2, alpha=0.4)
            style = "-" if one.line or not named else "none"
            axes.plot(x, one.y, linestyle=style, marker=MARKERS[one.color % len(MARKERS)], color=color)
        if reference is not None:
            axes.axhline(reference[1], color=_TEXT, linestyle=(0, (4, 3)), linewidth=1)
            axes.annotate(
                reference[0], (0.99, reference[1]), xycoords=("axes fraction", "data"), xytext=(0, 3),
                textcoords="offset points", fontsize=_FONT - 1, ha="right",
            )  # fmt: skip
        if named:
            axes.set_xticks(range(len(names)), names)
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.grid(visible=False, axis="x")
        elif log_x:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif all(float(value).is_integer() for one in series for value in one.x) and not percent_x:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    rows = []
    for one in series:
        for place, (x, y) in enumerate(zip(one.x, one.y, strict=True)):
            interval = f"{one.intervals[place][0]:.4f} to {one.intervals[place][1]:.4f}" if one.intervals else ""
            rows.append([one.label, f"{100 * x:.2f} %" if percent_x else _text(x), f"{y:.4f}", interval])
    description = f"{y_label} over {x_label}: {', '.join(one.label for one in series)}. The table below has all points."
    return Plot(title, _svg(name, title, description, paint), _legend(series), ["", x_label, y_label, "interval"], rows)


def dot_plot(
    name: str, title: str, x_label: str, rows: Sequence[tuple[str, float, Sequence[float] | None, int]]
) -> Plot:
    """One point with its interval a row: (label, value, interval or None, colour)."""

    def paint(axes: Any) -> None:
        for place, (_, value, interval, color) in enumerate(rows):
            shade = _SERIES[color % len(_SERIES)]
            if interval is not None:
                axes.plot(interval, [place, place], color=shade, linewidth=1.4, alpha=0.7)
            axes.plot([value], [place], marker=MARKERS[color % len(MARKERS)], color=shade, markersize=6.5)
            axes.annotate(f"{value:.4f}", (value, place), xytext=(0, 5), textcoords="offset points", ha="center",
                          fontsize=_FONT - 1.5)  # fmt: skip
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.75)
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x_label)

    table = [[label, f"{value:.4f}", _interval(interval)] for label, value, interval, _ in rows]
    description = f"{x_label} of {', '.join(label for label, *_ in rows)}. The table below has all values."
    height = 0.75 + 0.4 * len(rows)
    return Plot(title, _svg(name, title, description, paint, height), [], ["", x_label, "interval"], table)


def histogram(
    name: str, title: str, x_label: str, y_label: str, edges: Sequence[float], counts: Sequence[Series]
) -> Plot:
    """Bars side by side over the bins that hold anything; the y of a series are its counts."""
    filled = np.flatnonzero(np.sum([one.y for one in counts], axis=0))
    first = int(filled[0]) if len(filled) else 0

    def paint(axes: Any) -> None:
        width = (edges[1] - edges[0]) / (len(counts) + 0.4)
        for place, one in enumerate(counts):
            left = np.asarray(edges[first:-1]) + width * (place + 0.2)
            axes.bar(left, one.y[first:], width, align="edge", color=_SERIES[one.color % len(_SERIES)])
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
    return Plot(title, _svg(name, title, description, paint), _legend(counts), columns, rows)


def _svg(name: str, title: str, description: str, paint: Callable[[Any], None], height: float = _HEIGHT) -> str:
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        paint(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue()
    text = _METADATA.sub("", text[text.index("<svg") :])
    text = text.replace("xlink:href", "href")
    text = _ID.sub(lambda match: match[0] + name + "-", text)  # The ids of several plots in a page must differ.
    for color, page_color in _PAGE_COLORS.items():
        text = text.replace(color, page_color)
    head, _, body = text.partition(">")
    view_box = re.search(r'viewBox="[^"]*"', head)
    told = f"<title>{html.escape(title)}</title><desc>{html.escape(description)}</desc>"
    return f'<svg {view_box[0] if view_box else ""} role="img" aria-label="{html.escape(title)}">{told}{body}'.strip()


def _legend(series: Sequence[Series]) -> list[tuple[str, int, str]]:
    return [(GLYPHS[s.color % len(GLYPHS)], s.color % len(_SERIES) + 1, s.label) for s in series]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _interval(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
