"""The numbers of an explanation as tables, for both the terminal and HTML."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from export_tools.graphs.chosen import Chosen
from export_tools.graphs.explanation import Explanation
from export_tools.graphs.report import Node

TOP = 8
RUNS = {"batch": "every batch", "request": "once per request", "export": "at export"}


class Table(NamedTuple):
    """A table: its title, column heads and rows. A column whose head ends in a space holds words, aligned left."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]


def clean(text: str) -> str:
    """Replaces characters that a terminal or XML does not take; names and reasons may come from an untrusted model."""
    return re.sub(r"[^\t\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)


def tables(found: Explanation, top: int = TOP) -> list[Table]:
    """Returns all tables: sums, variants, passes, and the most expensive nodes before and after."""
    made = [_sums(found)]
    if found.chosen is not None and (found.chosen.us_per_batch or found.chosen.refused):
        made.append(_variants(found.chosen))
    if found.report:
        made.append(_passes(found))
    for name, nodes in found.graphs().items():
        words = "the model's own scorer" if name == "before" else "what the search runs"
        rows = [_node(found, node, nodes) for node in found.expensive(nodes)[:top]]
        heads = ("op ", "node ", "shape ", "multiply-adds", "per ", "runs ", "share")
        made.append(Table(f"most expensive nodes {name} ({words}), by a request's multiply-adds", heads, rows))
    return made


def _sums(found: Explanation) -> Table:
    costs = {name: found.costs(nodes) for name, nodes in found.graphs().items()}
    kinds: list[tuple[str, list[str]]] = [
        ("multiply-adds per item", [_number(one.per_item) for one in costs.values()]),
        ("nodes per batch", [_number(one.nodes_per_batch) for one in costs.values()]),
        (
            "multiply-adds per user",
            [f"{_number(one.per_user)} {RUNS[one.user_runs] if one.per_user else ''}" for one in costs.values()],
        ),
    ]
    if any(one.at_export for one in costs.values()):
        kinds.append(("folded at export, per item", [_number(one.at_export) for one in costs.values()]))
    request = f"a request of {found.items:,} items, {found.batch:,} a batch"
    kinds.append((request, [_number(one.request) for one in costs.values()]))
    rows = [(kind, *(value.strip() for value in values)) for kind, values in kinds]
    return Table("sums", (" ", *costs), rows)


def _variants(chosen: Chosen) -> Table:
    measured = chosen.us_per_batch
    sizes = list(next(iter(measured.values()), {}))
    rows: list[tuple[str, ...]] = [
        (
            clean(name),
            *(_number(us[size]) for size in sizes),
            _number(chosen.ns_per_item[name]),
            "ships" if name == chosen.name else "",
        )
        for name, us in measured.items()
    ]
    rows += [
        (clean(name), *("" for _ in sizes), "", f"left out: {clean(reason)}") for name, reason in chosen.refused.items()
    ]
    heads = ("variant ", *(f"{clean(size)} items" for size in sizes), "ns per item", " ")
    return Table(f"variants of the scorer, microseconds per batch, on {clean(chosen.processor)}", heads, rows)


def _passes(found: Explanation) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            clean(entry.name),
            _number(entry.rewrites),
            _number(entry.nodes_before),
            _number(entry.nodes_after),
            _number(entry.multiply_adds_before),
            _number(entry.multiply_adds_after),
            clean(entry.reason),
        )
        for entry in found.report
    ]
    heads: tuple[str, ...] = (
        "pass ",
        "rewrites",
        "nodes per batch",
        "after",
        "multiply-adds per item",
        "after",
        "reason ",
    )
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return Table("what the passes did, in order", heads, rows)


def _node(found: Explanation, node: Node, nodes: Sequence[Node]) -> tuple[str, ...]:
    share = found.share(node, nodes)
    cost = "?" if not node.known else _number(node.multiply_adds) if node.multiply_adds else "-"
    per = "item" if node.of_items else "user"
    return (clean(node.op), clean(node.label), node.shape, cost, per, RUNS[node.runs], f"{share:.1%}")


def _number(value: float) -> str:
    return f"{value:,.0f}"


def summary(found: Explanation, top: int = TOP) -> str:
    """Returns the tables as text for the terminal."""
    lines = [clean(found.note)]
    for table in tables(found, top):
        lines += ["", table.title]
        rows = [tuple(head.strip() for head in table.heads), *table.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(table.heads))]
        for row in rows:
            cells = [
                cell.ljust(width) if head.endswith(" ") else cell.rjust(width)
                for cell, width, head in zip(row, widths, table.heads, strict=True)
            ]
            lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines + [f"\n{note}" for note in notes(found)])


def notes(found: Explanation) -> list[str]:
    """Returns notes on what the numbers leave out."""
    nodes = [node for nodes in found.graphs().values() for node in nodes]
    unknown = list(dict.fromkeys(clean(node.label) for node in nodes if not node.known))
    return [f"left out of all numbers, as their shapes are not known: {', '.join(unknown)}"] if unknown else []
