"""Random worlds for the surrogate search, and a resource that searches them with all of its parameters."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.ops.conftest import table_embeddings, table_score
from tests.ops.reference import Graph
from tests.ops.surrogate_reference import World
from tfserving_ext import ops
from tfserving_ext.index import Index


@dataclasses.dataclass(frozen=True)
class Request:
    """The parameters of a search; `seeds` and `exclude` are ids, of all users [x] or of each user [B, x]."""

    k: int = 10
    frontier: int = 4
    pool: int = 20
    max_steps: int = 0
    batch: int = 16
    expected_coverage: float = 0.9
    exclude: Any = ()
    seeds: Any = ()
    budget: int = 0


def random_world(rng: np.random.Generator, n: int, degree: int, layers: int = 2) -> World:
    """Makes a random graph in which neighbours tend to be alike, with random distances, equal, near and far ones."""
    features = np.clip(np.rint(rng.normal(0, 16, [n, 16 * int(rng.integers(1, 4))])), -127, 127).astype(np.int8)
    rows = []
    for item in range(n):
        others = rng.integers(0, n, 4 * degree)
        apart = np.abs(features[others, :4].astype(int) - features[item, :4]).sum(axis=1)
        rows.append(others[np.argsort(apart)[: rng.integers(degree // 2, degree + 1)]].tolist())
    members = np.arange(n)
    uppers = []
    for _ in range(layers - 1):
        members = rng.choice(members, max(1, len(members) // 8), replace=False)
        upper: list[list[int]] = [[] for _ in range(n)]
        for item in members:
            upper[item] = rng.choice(members, min(len(members), degree // 2)).tolist()
        uppers.append(upper)
    graph = Graph(rng.permutation(n) * 3 + 70, rng.choice(members, min(3, len(members))).tolist(), [rows, *uppers])
    return World(graph, features, [np.minimum(rng.gamma(3, 20, len(row)), 255).astype(int).tolist() for row in rows])


class Surrogates:
    """An index resource that is opened repeatedly; a user's tensor is the scores of up to `items` items."""

    def __init__(self, folder: Path, items: int = 2000) -> None:
        self.folder, self.items = folder, items
        self.index = ops.index_handle(shared_name=f"surrogates_{folder}")
        self.search = tf.function(self._search, autograph=False, reduce_retracing=True)

    def open(self, world: World) -> "Surrogates":
        files = world.write(self.folder, table_embeddings(len(world.graph)))
        ops.index_open(self.index, files, dim=2, features=True)
        return self

    def open_index(self, index: Index) -> "Surrogates":
        """Opens an index with its graph and features, but with embeddings that tell an item's place."""
        table = self.folder / "item_embeddings.bin"
        table.write_bytes(table_embeddings(len(index.item_ids)).tobytes())
        files = [table if path.name == table.name else path for path in index.files]
        ops.index_open(self.index, [str(path) for path in files], dim=2, features=True)
        return self

    def __call__(self, scores: np.ndarray, request: Request) -> tuple[ops.SearchResult, ops.SurrogateStatistics]:
        """Searches for users with `scores`, float32 [B, n]."""
        found, statistics = self._call(scores, request, True)
        return ops.SearchResult(*found), ops.SurrogateStatistics(*statistics)

    def best_first(self, scores: np.ndarray, request: Request) -> ops.SearchResult:
        """Searches best-first with the parameters that both searches have."""
        return ops.SearchResult(*self._call(scores, request, False))

    def _call(self, scores: np.ndarray, request: Request, surrogate: bool) -> Any:
        table = np.zeros([len(scores), self.items], np.float32)
        table[:, : scores.shape[1]] = scores
        given = dataclasses.asdict(request)
        for name in ("exclude", "seeds"):
            rows = np.atleast_2d(np.array(given[name], np.int64))
            given[name] = np.broadcast_to(rows, [len(scores), rows.shape[1]])
        tensors = {name: tf.constant(value) for name, value in given.items()}
        return tf.nest.map_structure(lambda part: part.numpy(), self.search(tf.constant(table), surrogate, **tensors))

    def _search(self, user: tf.Tensor, surrogate: bool, **given: Any) -> Any:
        scorer = ops.trace_scorer(table_score, [user], 2)
        if surrogate:
            return ops.surrogate_search(self.index, [user], scorer, **given)
        del given["batch"], given["expected_coverage"]
        return ops.best_first_search(self.index, [user], scorer, **given)
