"""Measures searches on several builds of the graph over the same items, to see how much answers vary by build."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.figures import MetricsContext, hits
from tfserving_ext.evaluation.subject import Outcome, Setting, Subject
from tfserving_ext.index.build import Hnsw, build_index
from tfserving_ext.index.format import Index


def check_buildable(index: Index, builds: int) -> None:
    """Raises NannError if `builds` is negative, or no graph can be built with the parameters of the index's graph."""
    if builds < 0:
        raise NannError(f"builds is {builds}; it must be 0 or more")
    if builds and not {"M", "efConstruction"} <= index.manifest.keys():
        raise NannError(
            f"{index.folder} does not say how its graph was built (M, efConstruction), so no other graph can be built "
            "like it; leave out --builds"
        )


def on_builds(
    subject: Subject, settings: Mapping[str, Setting], builds: int
) -> Iterator[tuple[int, dict[str, Outcome]]]:
    """Builds graphs with the same items and parameters but other seeds, and measures searches on each.

    Args:
      subject: the model, an index and the cases.
      settings: the searches, by name.
      builds: the number of graphs; see `check_buildable`.

    Yields:
      The seed of a graph, and the searches' outcomes by name. The graph lies in a temporary folder and is deleted after
      its step.
    """
    for seed in _seeds(subject.index, builds):
        with tempfile.TemporaryDirectory(prefix="nann_builds_") as folder:
            other = build_index(
                subject.index.item_ids,
                subject.index.embeddings(),
                Path(folder) / "index",
                _hnsw(subject.index, seed),
                subject.index.dtype,
            )
            yield seed, subject.on(other).measure(settings, title=f"build of seed {seed}")


def build_figures(context: MetricsContext, outcomes: Mapping[int | None, Outcome]) -> dict[str, Any]:
    """Computes the metrics of one search over several builds of the graph.

    Args:
      context: see `MetricsContext`.
      outcomes: the search's outcomes by the graph's seed, which is None if it is not known.

    Returns:
      `coverage` and `recall_retrieval` at k, means over builds; their `intervals` over users; and `graphs`, each with
      `seed`, `coverage`, `recall_retrieval` and `scored_fraction`.
    """
    per_case = {
        "coverage": np.stack([outcome.coverage[:, -1] for outcome in outcomes.values()], axis=1),
        "recall_retrieval": np.stack([hits(outcome.ranks, context.k) for outcome in outcomes.values()], axis=1),
    }
    graphs = [
        {"seed": seed, **{name: float(values[:, place].mean()) for name, values in per_case.items()}}
        | {"scored_fraction": float(outcome.items_scored.mean()) / context.items}
        for place, (seed, outcome) in enumerate(outcomes.items())
    ]
    means = {name: values.mean(axis=1) for name, values in per_case.items()}
    return {
        **{name: float(values.mean()) for name, values in means.items()},
        "intervals": {name: context.bootstrap.interval(values) for name, values in means.items()},
        "graphs": graphs,
    }


def _seeds(index: Index, builds: int) -> list[int]:
    return [seed for seed in range(1, builds + 2) if seed != index.manifest.get("seed")][:builds]


def _hnsw(index: Index, seed: int) -> Hnsw:
    """Returns the parameters that the index was built with, with another seed."""
    manifest = index.manifest
    by_gpu = manifest.get("built_by") == "CAGRA"
    graph = manifest.get("graph", "hnsw")  # Earlier indexes do not name it.
    neighbors = manifest["knn"]["K"] if graph == "knn" else None
    return Hnsw(manifest["M"], manifest["efConstruction"], seed=seed, gpu=by_gpu, graph=graph, neighbors=neighbors)
