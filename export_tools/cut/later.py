"""Items that come after a ranker was cut: their rows, and the vectors on which a new graph is built."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export_tools.cut.graph import PROBES, Graph
from export_tools.cut.items import Catalogue, Items
from export_tools.cut.ranker import Ranker, open_ranker
from export_tools.cut.rows import Part, balanced, checked_rows, run_tower
from tfserving_ext.errors import NannError


class ItemTower:
    """Computes the rows of items for an export that was made from a ranker as it is."""

    def __init__(self, manifest: Mapping[str, Any], exported: Path, ranker: str | os.PathLike[str]) -> None:
        """Opens the ranker.

        Args:
          manifest: the export's manifest.
          exported: its folder, for messages.
          ranker: the .keras archive or SavedModel from which it was made.

        Raises:
          NannError: the export was not made from a ranker by a table of items, or it was made from another one.
        """
        cut = cut_of(manifest)
        if cut is None:
            raise NannError(
                f"{exported} was not made from a ranker and a table of its items, so that nothing computes its items' "
                "embeddings from their features: give the column of embeddings"
            )
        self._ranker = open_ranker(Path(ranker), _output(manifest))
        if dict(self._ranker.files) != dict(manifest["source"]["files"]):
            raise NannError(f"{exported} was made from another model than {ranker}; its rows would mean nothing to it")
        held = [one for one in cut["row"] if one.get("texts")]
        if held:
            raise NannError(
                f"the scorer of {exported} takes text of the items, {held[0]['tensor']}, of which it holds a table: "
                "export the ranker again with the table of all items"
            )
        self._cut = cut
        self._graph: Graph | None = None

    def rows(self, table: Any, id_column: str) -> np.ndarray:
        """Returns what the exported scorer takes of items, float32 [m, dim].

        Args:
          table: a Polars data frame with the columns that the export was made from.
          id_column: its column with the items' ids.

        Raises:
          NannError: a column is missing or does not fit its input, the model fails or gives NaN or infinity, or an item
            has a number that the exported scorer has no place for.
        """
        cut, ranker = self._cut, self._ranker
        items = Items(table, id_column, cut["item_inputs"], set(ranker.specs) - set(cut["item_inputs"]))
        catalogue = Catalogue(items, ranker.specs)
        if self._graph is None:
            self._graph = inspected(ranker, catalogue)
        graph = self._graph
        users = {name: ranker.filled(1, PROBES[0][1], 1)[name] for name in cut["user_inputs"]}
        parts = [Part.of_facts(one, graph.tensors[one["tensor"]].dtype) for one in cut["row"]]
        values = run_tower(graph, [part.tensor for part in parts], catalogue, users)
        for part in parts:
            _check_within(part, values[part.tensor], catalogue)
        return checked_rows(parts, values, catalogue)


def inspected(ranker: Ranker, catalogue: Catalogue) -> Graph:
    """Returns the graph of a ranker, with what is known of its tensors from some items and made-up users."""
    sides = {name: "item" if name in catalogue.columns else "user" for name in ranker.specs}
    graph = Graph(ranker.traced(), ranker.specs, sides)
    graph.inspect([{**ranker.filled(*probe, 1), **catalogue.example(probe[0])} for probe in PROBES])
    return graph


def cut_of(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns a manifest's entry about the cut of a ranker; None if the export was not made from one."""
    return (manifest.get("source") or {}).get("description", {}).get("cut")


def vectors_of(manifest: Mapping[str, Any], rows: np.ndarray, exported: Path) -> np.ndarray:
    """Returns what a graph over rows is built on, [n, width], as when the export was made.

    Raises:
      NannError: it was built on something that rows do not hold.
    """
    cut = cut_of(manifest)
    if cut is None:
        return rows
    if [one["tensor"] for one in cut["row"]] != cut["graph_on"]:
        raise NannError(
            f"the graph of {exported} is built on {', '.join(cut['graph_on'])}, which its rows do not hold: export the "
            "ranker again with the table of its items as they are now (nann export RANKER --items ITEMS)"
        )
    return balanced(rows)[0]


def _output(manifest: Mapping[str, Any]) -> str | Sequence[str]:
    output = manifest["source"]["description"]["output"].split(", ")
    return output[0] if len(output) == 1 else tuple(output)


def _check_within(part: Part, values: np.ndarray, catalogue: Catalogue) -> None:
    """Raises NannError for a whole number beyond those that there were when the ranker was cut."""
    if part.dtype.is_floating:
        return
    whole = values.astype(np.int64)
    wrong = np.flatnonzero(((whole < part.least) | (whole > part.most)).any(axis=1))
    if len(wrong):
        raise NannError(
            f"item {catalogue.ids[wrong[0]]} has {whole[wrong[0]].tolist()} in {part.tensor}; the exported scorer "
            f"has places for {part.least} to {part.most}: export the ranker again with the table of all items"
        )
