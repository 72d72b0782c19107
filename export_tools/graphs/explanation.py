"""An explanation of a scorer: both graphs, what the passes did between them, and the sums of costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from export_tools.graphs.report import Node
from tfserving_ext.errors import NannError
from tfserving_ext.ops._scorer import PassReport

# What the example request is, by which nodes that run at different times are compared.
ITEMS, BATCH = 4096, 256


class Costs(NamedTuple):
    """Sums over a scorer's graph, of multiply-adds but for the first.

    Attributes:
      nodes_per_batch: nodes that depend on items and run for every batch.
      per_item: of them, per item.
      per_user: of what depends on the user alone; `user_runs` says how often.
      user_runs: "batch" or "request".
      at_export: of what is folded, once per item of the index.
      request: of the example request.
    """

    nodes_per_batch: int
    per_item: float
    per_user: float
    user_runs: str
    at_export: float
    request: float


class Explanation(NamedTuple):
    """What `explain` found.

    Attributes:
      at_export: whether the passes ran at export, so that `after` is what the SavedModel holds.
      note: where `after` is from, or why there is none.
      report: what each pass did, in order; empty where that was not kept.
      before: nodes of the model's own scorer, inputs first; None where the SavedModel does not hold it.
      after: nodes of what searches run, and of what was folded at export; None where nothing was rewritten.
      items: items scored by the example request.
      batch: items of one batch.
    """

    at_export: bool
    note: str
    report: tuple[PassReport, ...]
    before: list[Node] | None
    after: list[Node] | None
    items: int = ITEMS
    batch: int = BATCH

    def graphs(self) -> dict[str, list[Node]]:
        """The graphs that there are, `before` first."""
        return {name: nodes for name, nodes in (("before", self.before), ("after", self.after)) if nodes is not None}

    def request_cost(self, node: Node) -> float:
        """Multiply-adds of a node in the example request."""
        if node.runs == "export":
            return 0.0
        if node.of_items:
            return node.multiply_adds * self.items
        return node.multiply_adds * (1 if node.runs == "request" else math.ceil(self.items / self.batch))

    def costs(self, nodes: Sequence[Node]) -> Costs:
        """Sums over one of the graphs."""
        batched = [node for node in nodes if node.computes and node.runs == "batch" and node.of_items]
        user = [node for node in nodes if node.computes and not node.of_items]
        return Costs(
            len(batched),
            sum(node.multiply_adds for node in batched),
            sum(node.multiply_adds for node in user if node.runs != "export"),
            "request" if any(node.runs == "request" for node in user) else "batch",
            sum(node.multiply_adds for node in nodes if node.runs == "export" and node.of_items),
            sum(map(self.request_cost, nodes)),
        )

    def expensive(self, nodes: Sequence[Node]) -> list[Node]:
        """Nodes that compute, most multiply-adds of the example request first, then most elements."""
        found = [node for node in nodes if node.computes and node.runs != "export"]
        return sorted(found, key=lambda node: (self.request_cost(node), node.of_items, node.elements), reverse=True)

    def facts(self) -> dict[str, Any]:
        """All of it, for JSON."""
        found: dict[str, Any] = {
            "at_export": self.at_export,
            "note": self.note,
            "request": {"items": self.items, "batch": self.batch},
            "report": [report._asdict() for report in self.report],
        }
        for name, nodes in self.graphs().items():
            shown = [
                {
                    **node._asdict(),
                    "inputs": [edge._asdict() for edge in node.inputs],
                    "per": "item" if node.of_items else "user",
                    "share_of_request": self.share(node, nodes),
                }
                for node in nodes
            ]
            found[name] = {"costs": self.costs(nodes)._asdict(), "nodes": shown}
        return found

    def share(self, node: Node, nodes: Sequence[Node]) -> float:
        """A node's part of the example request's multiply-adds."""
        return self.request_cost(node) / (self.costs(nodes).request or 1.0)


def recorded_report(scorer: Mapping[str, Any]) -> tuple[PassReport, ...]:
    """The report in a manifest's entry `scorer`.

    Raises:
      NannError: it is not as `nann export` writes it.
    """
    try:
        report = tuple(PassReport(**entry) for entry in scorer["report"])
        numbers = [number for entry in report for number in entry[1:6]]
        if not report or not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError("no report, or one without figures")
        if not all(isinstance(word, str) for entry in report for word in (entry.name, entry.reason)):
            raise TypeError("a name that is no text")
        int(scorer["row_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise NannError("the manifest's entry `scorer` is not as `nann export` writes it; export again") from error
    return report


def one_line(scorer: Mapping[str, Any]) -> str:
    """What a manifest's entry `scorer` says, for `nann inspect`."""
    report = recorded_report(scorer)
    first, last = report[0], report[-1]
    folded = f", rows of {scorer['row_dim']} in the index" if scorer.get("folded") else ""
    return (
        f"{first.multiply_adds_before:,.0f} -> {last.multiply_adds_after:,.0f} multiply-adds per item, "
        f"{first.nodes_before} -> {last.nodes_after} nodes per batch{folded}; see `nann explain`"
    )
