"""The explanation of a scorer: its graphs before and after the passes, what each pass did, and the total costs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from export_tools.graphs.chosen import Chosen
from export_tools.graphs.report import Node
from tfserving_ext.errors import NannError
from tfserving_ext.ops._scorer import PassReport

# The example request. Its costs make nodes comparable that run at different times.
ITEMS, BATCH = 4096, 256


class Costs(NamedTuple):
    """Total costs of a scorer's graph.

    Attributes:
      nodes_per_batch: number of nodes that depend on items and run for every batch.
      per_item: multiply-adds of these nodes per item.
      per_user: multiply-adds of the nodes that depend on the user alone; `user_runs` says how often they run.
      user_runs: "batch" or "request".
      at_export: multiply-adds of the folded nodes, which run once per item of the index.
      request: multiply-adds of the example request.
    """

    nodes_per_batch: int
    per_item: float
    per_user: float
    user_runs: str
    at_export: float
    request: float


class Explanation(NamedTuple):
    """The result of `explain`.

    Attributes:
      at_export: whether the passes ran at export; if so, `after` is what the SavedModel holds.
      note: where `after` comes from, or why there is none.
      report: what each pass did, in order; empty if no record of it was kept.
      before: nodes of the model's own scorer, inputs first; None if the SavedModel does not hold it.
      after: nodes of the scorer that searches run, and those folded at export; None if nothing was rewritten.
      items: number of items that the example request scores.
      batch: number of items in one batch.
      chosen: the variant that the export ships; None if its manifest does not name it.
    """

    at_export: bool
    note: str
    report: tuple[PassReport, ...]
    before: list[Node] | None
    after: list[Node] | None
    items: int = ITEMS
    batch: int = BATCH
    chosen: Chosen | None = None

    def graphs(self) -> dict[str, list[Node]]:
        """Returns the nodes of the graphs that exist, by "before" and "after", in this order."""
        return {name: nodes for name, nodes in (("before", self.before), ("after", self.after)) if nodes is not None}

    def request_cost(self, node: Node) -> float:
        """Returns the multiply-adds of a node in the example request."""
        if node.runs == "export":
            return 0.0
        if node.of_items:
            return node.multiply_adds * self.items
        return node.multiply_adds * (1 if node.runs == "request" else math.ceil(self.items / self.batch))

    def costs(self, nodes: Sequence[Node]) -> Costs:
        """Returns the total costs of one of the graphs."""
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
        """Returns the nodes that compute, by multiply-adds in the example request and then elements, largest first."""
        found = [node for node in nodes if node.computes and node.runs != "export"]
        return sorted(found, key=lambda node: (self.request_cost(node), node.of_items, node.elements), reverse=True)

    def facts(self) -> dict[str, Any]:
        """Returns the whole explanation as values that JSON can hold."""
        found: dict[str, Any] = {
            "at_export": self.at_export,
            "note": self.note,
            "request": {"items": self.items, "batch": self.batch},
            "report": [report._asdict() for report in self.report],
            "variants": None if self.chosen is None else self.chosen._asdict(),
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
        """Returns the part, 0 to 1, that a node has of the example request's multiply-adds."""
        return self.request_cost(node) / (self.costs(nodes).request or 1.0)


def recorded_report(scorer: Mapping[str, Any]) -> tuple[PassReport, ...]:
    """Reads the report of the passes from a manifest's entry `scorer`.

    Raises:
      NannError: the entry is not in the form that `nann export` writes.
    """
    try:
        report = tuple(PassReport(**entry) for entry in scorer["report"])
        numbers = [number for entry in report for number in entry[1:6]]
        if not report or not all(isinstance(number, (int, float)) for number in numbers):
            raise ValueError("there is no report, or one of its counts is not a number")
        if not all(isinstance(word, str) for entry in report for word in (entry.name, entry.reason)):
            raise TypeError("a name is not text")
        int(scorer["row_dim"])
    except (KeyError, TypeError, ValueError) as error:
        raise NannError(
            "the manifest's entry `scorer` is not in the form that `nann export` writes; export again"
        ) from error
    return report


def one_line(scorer: Mapping[str, Any]) -> str:
    """Returns a manifest's entry `scorer` as one line, for `nann inspect`."""
    report = recorded_report(scorer)
    first, last = report[0], report[-1]
    folded = f", rows of {scorer['row_dim']} in the index" if scorer.get("folded") else ""
    return (
        f"{first.multiply_adds_before:,.0f} -> {last.multiply_adds_after:,.0f} multiply-adds per item, "
        f"{first.nodes_before} -> {last.nodes_after} nodes per batch{folded}; see `nann explain`"
    )
