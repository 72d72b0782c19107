"""Checks of `nann explain` and `nann inspect` that must hold for every export."""

import xml.etree.ElementTree as ET
from pathlib import Path

from export_tools import explain, inspect
from export_tools.graphs.explanation import Explanation
from export_tools.graphs.tables import summary
from export_tools.inspect import summary as inspected
from export_tools.manifest import read_manifest


def sums_agree_with_the_report(found: Explanation) -> None:
    """Checks that the sums over the nodes shown are those that the passes report."""
    assert found.before is not None
    assert found.after is not None
    before, after = found.costs(found.before), found.costs(found.after)
    first, last = found.report[0], found.report[-1]
    assert (before.nodes_per_batch, before.per_item) == (first.nodes_before, first.multiply_adds_before)
    assert (after.nodes_per_batch, after.per_item) == (last.nodes_after, last.multiply_adds_after)


def check_explained(saved_model: Path, folder: Path, exact: bool = True) -> Explanation:
    """Checks the tables and the drawing of an export, and its line in `nann inspect`.

    Args:
      saved_model: the folder that `nann export` wrote.
      folder: a folder for the drawing.
      exact: False if the scorer uses the shapes of a user's tensors; the sums may then count other nodes.
    """
    drawing = folder / "explained.svg"
    found = explain(saved_model, drawing)
    recorded = read_manifest(saved_model).get("scorer")
    assert found.at_export == bool(recorded)
    if recorded:
        assert [entry._asdict() for entry in found.report] == recorded["report"]
    if exact:
        sums_agree_with_the_report(found)
    assert all(entry.name in summary(found) for entry in found.report)
    shown = [node for node in ET.parse(drawing).iter() if node.get("class", "").startswith("node ")]
    assert len(shown) == sum(map(len, found.graphs().values()))
    assert ("see `nann explain`" in inspected(inspect(saved_model))) == bool(recorded)
    return found
