"""The surrogate search without the graph's residuals: its linear fit predicts alone (docs/surrogate.md, step 4).

It is our own op, on an index in which every edge is so long that the errors at a neighbour count for nothing.
"""

import shutil

import numpy as np

from benchmarks.search.peers.ours import Surrogate
from benchmarks.search.peers.peer import Workload
from tfserving_ext.artifacts import read_json, sha256, write_json
from tfserving_ext.index.format import Index
from tfserving_ext.retrieval import NeuralTopK

FARTHEST = 255  # The longest distance that an index can hold; from 89 on, a neighbour's error is not looked at.


class NoResiduals(Surrogate):
    """`Surrogate` by its linear fit alone. Implements `Peer`."""

    name = "no_residuals"

    def __init__(self, workload: Workload) -> None:
        """Copies the index with the longest distances, and traces the search."""
        super().__init__(workload, NeuralTopK(_without_distances(workload), workload.trained.model.score))


def _without_distances(workload: Workload) -> Index:
    target = workload.scratch / "no_residuals"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(workload.index.folder, target)
    path, manifest = target / "edge_distances.bin", read_json(target / "manifest.json")
    np.full(len(workload.index.layers[0].neighbors), FARTHEST, np.uint8).tofile(path)
    manifest["files"][path.name]["sha256"] = sha256(path)
    write_json(target / "manifest.json", manifest)
    return Index.open(target)
