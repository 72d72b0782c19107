"""Draws plots as SVG to embed in a page, without fonts and dates and in the page's colours (docs/adr/0015)."""

import dataclasses
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Matplotlib writes colours as numbers. These are placeholders for the page's colours, light or dark
# (templates/page.html.jinja).
TEXT, _LINE, PAGE = "#010101", "#020202", "#040404"
SERIES = tuple(f"#0300{number:02d}" for number in range(1, 9))
_PAGE_COLORS = {
    TEXT: "currentColor",
    _LINE: "var(--line)",
    PAGE: "var(--page)",
    **{c: f"var(--series-{n})" for n, c in enumerate(SERIES, 1)},
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")  # The markers as text, for legends.
# Width and height in inches, font size in points. The width fits a telephone, so that text keeps its size there.
_WIDTH, HEIGHT, FONT = 4.9, 3.1, 9.5
_RC: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "nann",
    "font.family": "DejaVu Sans",
    "font.size": FONT,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "text.color": TEXT,
    "text.parse_math": False,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_ID = re.compile(r'(\bid="|href="#|url\(#)')


@dataclasses.dataclass(frozen=True)
class Series:
    """One line of a plot.

    Attributes:
      label: the line's name.
      x: numbers, or the names of places on the axis.
      y: numbers.
      intervals: (low, high) of each y; empty for no intervals.
      color: the index of the colour, from 0; the same search has the same colour in all plots of a page.
      line: whether to join points at named places; points at numbers are always joined.
      marked: whether the points have markers; lines with very many points look better without.
      notes: a label for each point; empty for no labels.
    """

    label: str
    x: Sequence[Any]
    y: Sequence[float]
    intervals: Sequence[Sequence[float]] = ()
    color: int = 0
    line: bool = False
    marked: bool = True
    notes: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Axis:
    """An axis of a plot.

    Attributes:
      label: the axis's label.
      text: formats a value for the table.
      scale: "linear"; "log", which is logarithmic if the values span a wide range; or "percentiles", for values from 0
        to below 1, which spaces 90 %, 99 % and 99.9 % equally.
    """

    label: str
    text: Callable[[float], str] = "{:g}".format
    scale: str = "linear"


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of the x axis in which something happened.

    Attributes:
      label: a description of what happened, for the legend.
      begin: the start on the axis.
      end: the end on the axis; None if it did not end.
    """

    label: str
    begin: float
    end: float | None


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot for a page.

    Attributes:
      title: the plot's title.
      svg: the drawing, an `<svg>` element with a title and a description.
      legend: (glyph, number of the colour from 1, label) of each line.
      columns: the header of the table with the plotted values.
      rows: the rows of that table, as text.
    """

    title: str
    svg: str
    legend: list[tuple[str, int, str]]
    columns: list[str]
    rows: list[list[str]]


def svg(name: str, title: str, description: str, paint: Callable[[Any], None], height: float = HEIGHT) -> str:
    """Draws a plot.

    Args:
      name: a prefix for the ids in the SVG, unique in the page.
      title: the drawing's title.
      description: a text for people who cannot see the drawing.
      paint: draws on the given Matplotlib axes.
      height: the height in inches.

    Returns:
      An `<svg>` element.
    """
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
    texts = f"<title>{html.escape(title)}</title><desc>{html.escape(description)}</desc>"
    return f'<svg {view_box[0] if view_box else ""} role="img" aria-label="{html.escape(title)}">{texts}{body}'.strip()


def legend(series: Sequence[Series]) -> list[tuple[str, int, str]]:
    """Returns the entries of `Plot.legend` for these lines."""
    return [(GLYPHS[s.color % len(GLYPHS)], s.color % len(SERIES) + 1, s.label) for s in series]
