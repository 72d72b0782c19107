"""Draws an explanation: one HTML file that needs no network and no script, or one SVG."""

import html
from collections.abc import Sequence
from pathlib import Path

from export_tools.graphs.explanation import Explanation
from export_tools.graphs.layout import NODE_HEIGHT, NODE_WIDTH, Layout, Point, layered
from export_tools.graphs.report import Node
from export_tools.graphs.tables import RUNS, TOP, Table, clean, notes, tables
from tfserving_ext.artifacts import atomic_file
from tfserving_ext.outputs import PAGE_MARK, PICTURE_MARK

SVG = 'xmlns="http://www.w3.org/2000/svg" '
MARGIN, HEADING, LEGEND, LEGEND_WIDTH = 16.0, 34.0, 150.0, 430.0
LABEL_LENGTH = 25
ROLES = {
    "user": "depends on the user alone",
    "item": "depends on the item alone",
    "both": "depends on user and item",
    "weights": "depends on weights alone",
}
DASHED = "dashed: taken out of the batch, so it runs once per request or at export"
BAR = "bar: share of a request's multiply-adds"
NUMBERS = "n: items in a batch. Numbers in boxes: multiply-adds per item or user."

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1f2937; --soft: #6b7280; --line: #9ca3af;
  --user: #dbeafe; --user-edge: #2563eb; --item: #dcfce7; --item-edge: #15803d;
  --both: #ffedd5; --both-edge: #c2410c; --weights: #f3f4f6; --weights-edge: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --back: #111827; --text: #f3f4f6; --soft: #9ca3af; --line: #6b7280;
  --user: #1e3a6e; --user-edge: #93c5fd; --item: #14532d; --item-edge: #86efac;
  --both: #6b2f12; --both-edge: #fdba74; --weights: #374151; --weights-edge: #9ca3af; } }
svg text { font: 11px system-ui, sans-serif; fill: var(--text); }
svg .op { font-weight: 600; font-size: 12px; }
svg .heading { font-weight: 600; font-size: 15px; }
svg .label { fill: var(--text); opacity: .8; font-size: 10.5px; }
svg .shape { fill: var(--soft); font-size: 10px; stroke: var(--back); stroke-width: 3px; paint-order: stroke; }
svg .edge { fill: none; stroke: var(--line); stroke-width: 1.2px; }
svg .control { stroke-dasharray: 2 3; }
svg .arrow { fill: var(--line); }
svg .box { stroke-width: 1.2px; }
svg .once .box { stroke-dasharray: 5 3; }
""" + "".join(
    f"svg .{role} .box {{ fill: var(--{role}); stroke: var(--{role}-edge); }}\n"
    f"svg .{role} .bar {{ fill: var(--{role}-edge); }}\n"
    for role in ROLES
)

PAGE_STYLE = """
body { margin: 0 auto; padding: 16px; max-width: 2000px; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 20px; overflow-wrap: anywhere; } h2 { font-size: 15px; margin: 22px 0 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 3px 10px 3px 0; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--weights); }
th { color: var(--soft); font-weight: 500; } .words { text-align: left; }
.wide { white-space: normal; min-width: 14em; }
.legend { list-style: none; margin: 0; padding: 0; font-size: 13px; display: grid; gap: 4px; }
.legend svg { vertical-align: -2px; margin-right: 6px; }
.graphs { display: flex; flex-wrap: wrap; gap: 24px; align-items: flex-start; }
.graphs section { flex: 1 1 auto; min-width: 0; max-width: 100%; }
.graphs svg { display: block; height: auto; }
"""


def write_drawing(found: Explanation, path: Path, title: str, top: int = TOP) -> None:
    """Writes `path`, which ends in .html or .svg, whole or not at all."""
    made = _page(found, title, top) if path.suffix.lower() == ".html" else _picture(found, title)
    with atomic_file(path) as new:
        new.write_text(made, encoding="utf-8")


def _page(found: Explanation, title: str, top: int) -> str:
    graphs = []
    for name, nodes in found.graphs().items():
        place = layered({node.name: [edge.source for edge in node.inputs] for node in nodes}, _late(nodes))
        width, height = place.width + 2 * MARGIN, place.height + 2 * MARGIN
        size = f"width: 100%; min-width: {0.8 * width:.0f}px; max-width: {width:.0f}px"
        graphs.append(
            f'<section style="flex-basis: min(100%, {0.8 * width:.0f}px)"><h2>{_heading(name)}</h2>'
            f'<div class="scroll"><svg viewBox="0 0 {width:.0f} {height:.0f}" '
            f'width="{width:.0f}" height="{height:.0f}" style="{size}" role="img" aria-label="{_heading(name)}">\n'
            f"{_graph(found, nodes, place, name, MARGIN, MARGIN)}</svg></div></section>"
        )
    legend = "".join(
        f'<li><svg viewBox="-1 -1 30 15" width="30" height="15">{swatch}</svg> {_safe(words)}</li>'
        for swatch, words in _legend()
    )
    figures = "".join(_table(table) for table in tables(found, top))
    figures += "".join(f"<p>{_safe(note)}</p>\n" for note in notes(found))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"/>{PAGE_MARK}'
        f"<title>Scorer of {_safe(title)}</title>"
        f"<style>{STYLE}{PAGE_STYLE}</style></head>\n"
        f"<body><h1>Scorer of {_safe(title)}</h1><p>{_safe(found.note)}</p>\n"
        f'{figures}<h2>colours</h2><ul class="legend">{legend}</ul><p>{NUMBERS}</p>\n'
        f'<div class="graphs">{"".join(graphs)}</div></body></html>\n'
    )


def _picture(found: Explanation, title: str) -> str:
    left, bottom, parts = MARGIN, 0.0, []
    top = MARGIN + HEADING + LEGEND
    for name, nodes in found.graphs().items():
        place = layered({node.name: [edge.source for edge in node.inputs] for node in nodes}, _late(nodes))
        parts.append(f'<text class="heading" x="{left:.0f}" y="{top:.0f}">{_heading(name)}</text>')
        parts.append(_graph(found, nodes, place, name, left, top + MARGIN))
        left += place.width + 3 * MARGIN
        bottom = max(bottom, top + 2 * MARGIN + place.height)
    width = max(left, LEGEND_WIDTH + 2 * MARGIN)
    lines = [f'{swatch}<text x="36" y="11">{_safe(words)}</text>' for swatch, words in _legend()]
    lines.append(f'<text y="11">{NUMBERS}</text>')
    legend = "".join(
        f'<g transform="translate({MARGIN} {MARGIN + HEADING - 8 + 20 * number})">{line}</g>'
        for number, line in enumerate(lines)
    )
    return (
        f'<svg {SVG}viewBox="0 0 {width:.0f} {bottom:.0f}" width="{width:.0f}" height="{bottom:.0f}">'
        f"<!-- {PICTURE_MARK} --><style>{STYLE}</style>"
        f'<rect width="100%" height="100%" style="fill: var(--back)"/>'
        f'<text class="heading" x="{MARGIN}" y="{MARGIN + 10}">Scorer of {_safe(title)}: {_safe(found.note)}</text>'
        f"{legend}{''.join(parts)}</svg>\n"
    )


def _heading(name: str) -> str:
    return {"before": "before: the model's own scorer", "after": "after: what the search runs"}[name]


def _late(nodes: Sequence[Node]) -> set[str]:
    """Returns the nodes to place next to their consumers: those of the user. Nodes of the items follow their inputs."""
    return {node.name for node in nodes if not node.of_items}


def _graph(found: Explanation, nodes: Sequence[Node], place: Layout, name: str, left: float, top: float) -> str:
    largest = max((found.share(node, nodes) for node in nodes), default=0.0) or 1.0
    lines = [
        f'<g transform="translate({left:.1f} {top:.1f})"><defs><marker id="arrow-{name}" viewBox="0 0 8 8" refX="7" '
        f'refY="4" markerWidth="6" markerHeight="6" orient="auto"><path class="arrow" d="M0 0 8 4 0 8z"/>'
        "</marker></defs>"
    ]
    labels = {}
    for node in nodes:
        for edge in node.inputs:
            kind = "edge control" if edge.shape == "control" else "edge"
            path = _path(place.places[edge.source], place.bends[edge.source, node.name], place.places[node.name])
            title = f"<title>{_safe(edge.source)} to {_safe(node.name)}: {_safe(edge.shape)}</title>"
            lines.append(f'<path class="{kind}" d="{path}" marker-end="url(#arrow-{name})">{title}</path>')
            labels[edge.source, edge.shape] = place.places[edge.source]
    lines += [_node(found, node, nodes, place.places[node.name], largest) for node in nodes]
    row: dict[str, int] = {}
    for (source, shape), (x, y) in labels.items():
        number = row[source] = row.get(source, -1) + 1  # A node with several outputs has several labels.
        place_of = f'x="{x + NODE_WIDTH / 2 + 6:.1f}" y="{y + NODE_HEIGHT + 13 + 11 * number:.1f}"'
        lines.append(f'<text class="shape" {place_of}>{_safe(shape)}</text>')
    return "\n".join([*lines, "</g>"])


def _path(source: Point, bends: Sequence[Point], target: Point) -> str:
    x, y = source[0] + NODE_WIDTH / 2, source[1] + NODE_HEIGHT
    steps = [f"M{x:.1f} {y:.1f}"]
    for number, (next_x, next_y) in enumerate([*bends, (target[0] + NODE_WIDTH / 2, target[1])]):
        middle = (y + next_y) / 2
        steps.append(f"C{x:.1f} {middle:.1f} {next_x:.1f} {middle:.1f} {next_x:.1f} {next_y:.1f}")
        x, y = next_x, next_y
        if number < len(bends):
            y += NODE_HEIGHT
            steps.append(f"V{y:.1f}")
    return "".join(steps)


def _node(found: Explanation, node: Node, nodes: Sequence[Node], place: Point, largest: float) -> str:
    share = found.share(node, nodes)
    once = " once" if node.computes and node.runs != "batch" else ""
    cost = "?" if not node.known else f"{node.multiply_adds:,.0f}" if node.multiply_adds else ""
    per = "item" if node.of_items else "user"
    title = [f"{node.label}: {node.op} {node.shape}", f"{ROLES[node.depends]}, runs {RUNS[node.runs]}"]
    if node.computes:
        title.append(f"{node.multiply_adds:,.0f} multiply-adds and {node.elements:,.0f} elements per {per}")
        title.append(f"{share:.1%} of a request's multiply-adds")
    if node.added_by:
        title.append(f"added by {node.added_by}")
    title += [f"takes {weight}" for weight in node.weights]
    short = (
        node.label if len(node.label) <= LABEL_LENGTH else "\N{HORIZONTAL ELLIPSIS}" + node.label[1 - LABEL_LENGTH :]
    )
    round_ = "5" if node.computes else "19"
    bar = (
        f'<rect class="bar" x="0" y="{NODE_HEIGHT - 4}" width="{NODE_WIDTH * share / largest:.1f}" height="4" rx="2"/>'
    )
    return (
        f'<g class="node {node.depends}{once}" transform="translate({place[0]:.1f} {place[1]:.1f})">'
        f"<title>{_safe(chr(10).join(title))}</title>"
        f'<rect class="box" width="{NODE_WIDTH}" height="{NODE_HEIGHT}" rx="{round_}"/>{bar if share > 0.001 else ""}'
        f'<text class="op" x="9" y="15">{_safe(node.op if node.computes else node.label)}</text>'
        f'<text x="{NODE_WIDTH - 8}" y="15" text-anchor="end">{cost}</text>'
        f'<text class="label" x="9" y="29">{_safe(short if node.computes else node.op)}</text></g>'
    )


def _legend() -> list[tuple[str, str]]:
    """Returns the entries of the legend: swatches of 28 by 13 pixels, each with its meaning."""
    entries = [*ROLES.items(), ("both once", DASHED), ("both", BAR)]
    bar = '<rect class="bar" y="9" width="20" height="4"/>'
    return [
        (f'<g class="{kind}"><rect class="box" width="28" height="13" rx="3"/>{bar if words is BAR else ""}</g>', words)
        for kind, words in entries
    ]


def _table(table: Table) -> str:
    def cell(kind: str, head: str, text: str) -> str:
        words = ' class="words wide"' if head == "reason " else ' class="words"' if head.endswith(" ") else ""
        return f"<{kind}{words}>{_safe(text)}</{kind}>"

    heads = "".join(cell("th", head, head.strip()) for head in table.heads)
    rows = [
        "<tr>" + "".join(cell("td", head, text) for head, text in zip(table.heads, row, strict=True)) + "</tr>"
        for row in table.rows
    ]
    return f'<h2>{_safe(table.title)}</h2><div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>\n'


def _safe(text: str) -> str:
    return html.escape("\n".join(map(clean, text.split("\n"))))
