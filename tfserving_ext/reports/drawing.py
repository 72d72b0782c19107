"""Drawings as SVG that goes into a page: no fonts, no dates, colours of the page (adr/0015)."""

import dataclasses
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Matplotlib writes colours as numbers; these stand for the page's own, light or dark (templates/page.html.jinja).
TEXT, _LINE, PAGE = "#010101", "#020202", "#040404"
SERIES = tuple(f"#0300{number:02d}" for number in range(1, 9))
_PAGE_COLORS = {
    TEXT: "currentColor",
    _LINE: "var(--line)",
    PAGE: "var(--page)",
    **{c: f"var(--series-{n})" for n, c in enumerate(SERIES, 1)},
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# The same in text, for legends.
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")
# Inches, and points for text: as wide as a telephone, so that text keeps its size there.
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
      label: its name.
      x: numbers, or names of places on the axis.
      y: numbers.
      intervals: (low, high) of each y, or none.
      color: its place among the colours, from 0; the same search has the same colour in all plots of a page.
      line: whether points at named places are joined; those at numbers always are.
      marked: whether the points have marks; lines of very many look better without.
      notes: a word for each point, or none.
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
      label: what is along it.
      text: a value as text, for the table.
      scale: "linear"; "log", which is logarithmic where the values reach far; or "percentiles" for parts of 1 below 1,
        which gives 90 %, 99 % and 99.9 % equal room.
    """

    label: str
    text: Callable[[float], str] = "{:g}".format
    scale: str = "linear"


@dataclasses.dataclass(frozen=True)
class Span:
    """A part of the x axis in which something happened.

    Attributes:
      label: what, for people who do not see the drawing.
      begin: on the axis.
      end: on the axis; None where it did not end.
    """

    label: str
    begin: float
    end: float | None


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


def svg(name: str, title: str, description: str, paint: Callable[[Any], None], height: float = HEIGHT) -> str:
    """Draws.

    Args:
      name: prefix of the ids, one of its own in a page.
      title: what the drawing shows.
      description: the same at length, for people who do not see it.
      paint: takes the axes.
      height: in inches.

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
    told = f"<title>{html.escape(title)}</title><desc>{html.escape(description)}</desc>"
    return f'<svg {view_box[0] if view_box else ""} role="img" aria-label="{html.escape(title)}">{told}{body}'.strip()


def legend(series: Sequence[Series]) -> list[tuple[str, int, str]]:
    """What `Plot.legend` is for these lines."""
    return [(GLYPHS[s.color % len(GLYPHS)], s.color % len(SERIES) + 1, s.label) for s in series]
