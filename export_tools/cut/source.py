"""Makes a source and an index of a ranker as it is and a table of items."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.cut.choose import Cut, choose
from export_tools.cut.explain import lines, summary
from export_tools.cut.graph import PROBES, Graph
from export_tools.cut.items import Catalogue, Items
from export_tools.cut.later import inspected
from export_tools.cut.ranker import Ranker, open_ranker
from export_tools.cut.rows import Part, Rows, Scorer, compute_rows
from export_tools.rows import write_table
from export_tools.signatures.keys import takes_numbers
from export_tools.sources import Source
from export_tools.sources.objectives import check_objectives, weighted
from tfserving_ext.errors import NannError
from tfserving_ext.index import build_index
from tfserving_ext.index.format import Index
from tfserving_ext.index.item_keys import is_text
from tfserving_ext.progress import outcome

CHECKED = 64
# Sums in another order differ by this much, relative to the largest score; the second is for half precision.
TOLERANCE, NARROW_TOLERANCE = 1e-4, 3e-2


@dataclasses.dataclass(frozen=True)
class CutRanker:
    """A ranker, cut by a table of items.

    Attributes:
      ranker: the ranker.
      catalogue: its items.
      graph: the graph of its call.
      cut: where it is cut.
    """

    ranker: Ranker
    catalogue: Catalogue
    graph: Graph
    cut: Cut

    @property
    def users(self) -> list[str]:
        """The user inputs from which the score is computed."""
        sides = self.graph.sides
        return [
            name
            for name, tensor in self.graph.inputs.items()
            if tensor in self.graph.tensors and sides[tensor] == "user"
        ]

    def source(self, parts: Sequence[Part], seeds: str | None) -> Source:
        """Returns the ranker as a model to export, whose rows consist of `parts`."""
        scorer = Scorer(self.graph, self.cut, parts)
        return Source(
            kind=self.ranker.kind,
            user=scorer.user,
            score=scorer.score,
            features={name: self.ranker.specs[name] for name in self.users},
            seeds=seeds,
            inputs=self.ranker.files,
            description={"output": self.ranker.output, "cut": self.facts(parts)},
        )

    def facts(self, parts: Sequence[Part]) -> dict[str, Any]:
        """Returns the manifest's entry about the cut."""
        return {
            "item_inputs": dict(self.catalogue.columns),
            "user_inputs": self.users,
            "row": [part.facts() for part in parts],
            "graph_on": list(self.cut.vectors),
        }


def cut_ranker(path: Path, items: Items, output: str | Sequence[str] = "") -> CutRanker:
    """Opens a ranker and a table of items, and cuts the one by the other.

    Raises:
      NannError: the model is no ranker, the table does not fit it, or it cannot be cut.
    """
    ranker = open_ranker(path, output)
    catalogue = Catalogue(items, ranker.specs)
    try:
        graph = inspected(ranker, catalogue)
    except NannError:
        raise
    except Exception as error:  # The model's own code may raise anything.
        reason = (str(error).strip().splitlines() or [""])[0]
        raise NannError(
            f"{path} cannot be called with items of {catalogue.name} and made-up users, whose features are values "
            "that the model's own tables know, and 1 elsewhere: "
            f"{type(error).__name__}: {reason}"
        ) from error
    return CutRanker(ranker, catalogue, graph, choose(graph, items.embedding))


@contextlib.contextmanager
def cut_and_indexed(
    path: Path,
    items: Items,
    output: str,
    seeds: str | None,
    rename: Mapping[str, str],
    objectives: Mapping[str, float] | None = None,
) -> Iterator[tuple[Source, Index]]:
    """Cuts a ranker, computes the rows of all items, and builds an index of them in a temporary folder.

    Args:
      path: a .keras archive, or a SavedModel's folder.
      items: the table of items.
      output: the output that is the score, if there are several.
      seeds: the feature with the ids of the user's own items; None if there is none.
      rename: the model's names of its features, keyed by the names that requests will use.
      objectives: in place of `output`, the outputs whose weighted sum is the score, and their weights.

    Raises:
      NannError: as `cut_ranker`; the model fails for an item, or its parts give other scores than the whole.
    """
    if objectives:
        check_objectives(objectives, output)
    made = cut_ranker(path, items, tuple(objectives) if objectives else output)

    def named(parts: Sequence[Part]) -> Source:
        source = made.source(parts, seeds and rename.get(seeds, seeds)).renamed(rename)
        source.check_names()
        return weighted(source, objectives) if objectives else source

    early = named([])  # What is wrong with names is said now, not after the rows of all items.
    if takes_numbers(early, is_text(made.catalogue.ids)):
        raise NannError(
            f"the item ids of {made.catalogue.name} are text, but the history {early.seeds!r} takes "
            f"{early.features[early.seeds or ''].dtype.name}; name the column of its numbers (--id)"
        )
    for line in (*lines(made.graph, made.cut), *made.catalogue.doubts):
        outcome("cut", line)
    users = made.ranker.filled(1, PROBES[0][1], 1)
    user = {name: users[name] for name in made.users}
    rows = compute_rows(made.graph, made.cut, made.catalogue, user)
    check(made, rows)
    if rows.note:
        outcome("cut", f"for the graph, {rows.note}")
    with tempfile.TemporaryDirectory(prefix="nann_cut_") as work:
        index = build_index(
            made.catalogue.ids, rows.vectors, Path(work) / "index", items.hnsw, attributes=made.catalogue.attributes
        )
        if rows.vectors is not rows.rows:
            (Path(work) / "rows").mkdir()
            index = write_table(index, rows.rows, Path(work) / "rows")
        outcome("index", f"{len(index.item_ids):,} items, {len(index.entry_points):,} entry points")
        yield named(rows.parts), index


def check(made: CutRanker, rows: Rows) -> None:
    """Compares the scores of the parts with those of the whole, for some items and made-up users.

    Raises:
      NannError: they differ, or a row's score depends on the other rows.
    """
    count = min(CHECKED, len(made.catalogue.ids))
    whole, source = made.ranker.traced(), made.source(rows.parts, None)
    narrow = any(one.dtype in (tf.float16, tf.bfloat16) for one in made.graph.tensors.values())
    tolerance = NARROW_TOLERANCE if narrow else TOLERANCE
    for filled in (1, 0):
        features = made.ranker.filled(1, 4, filled)
        example = {
            **{name: np.repeat(one, count, axis=0) for name, one in features.items()},
            **made.catalogue.example(count),
        }
        values = [tf.constant(example[name], spec.dtype) for name, spec in made.ranker.specs.items()]
        try:
            wanted = whole(*values).numpy().astype(np.float32).reshape([count, -1])
            alone = whole(*(one[:1] for one in values)).numpy().astype(np.float32).reshape([1, -1])
        except tf.errors.OpError:
            continue  # Not every model knows a user of zeros.
        user = source.user_tensors(
            {name: tf.constant(features[name], made.ranker.specs[name].dtype) for name in source.features}
        )
        found = _score(source, user, rows.rows[:count])
        size = float(np.nanmax(np.abs(wanted), initial=1e-6))
        for what, one, other in (("one row, scored alone", alone, wanted[:1]), ("its parts", found, wanted)):
            apart = np.abs(one - other)
            if not np.array_equal(np.isnan(one), np.isnan(other)) or np.nanmax(apart, initial=0) > tolerance * size:
                raise NannError(
                    f"{made.ranker.path} gives other scores by {what} than as a whole, by up to "
                    f"{np.nanmax(apart, initial=0):g} where the largest is {size:g}; allowed is a model that scores "
                    "every row by itself and draws no random numbers"
                )


def _score(source: Source, user: Any, rows: np.ndarray) -> np.ndarray:
    score = tf.function(source.score, autograph=False)
    return score(user, tf.constant(rows[None])).numpy()[0].reshape([len(rows), -1])


def explain_cut(path: str | os.PathLike[str], items: Items, output: str = "") -> str:
    """Says where a ranker would be cut, and writes nothing.

    Args:
      path: a .keras archive, or a SavedModel's folder.
      items: the table of items.
      output: the output that is the score, if there are several.

    Returns:
      The text that `nann export --explain-cut` prints.

    Raises:
      NannError: as `export` with `Items`.
    """
    made = cut_ranker(Path(path), items, output)
    return "\n".join([summary(made.graph, made.cut), *made.catalogue.doubts])
