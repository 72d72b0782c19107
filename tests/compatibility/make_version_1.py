"""The script that made the files in `version_1/`, by `python -m tests.compatibility.make_version_1`.

It was run once, when version 1 of the op interface was frozen. It is kept to show what these files hold, and as a model
for recording a later version. It never replaces recorded files.
"""

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from export_tools import Defaults, export
from tests.compatibility.answering import answers
from tests.compatibility.interface import described
from tfserving_ext import ops
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.retrieval import BestFirst, Rounds

FOLDER = Path(__file__).with_name("version_1")
ITEMS, DIM, K = 200, 4, 5


class Network(tf.Module):
    """A network of three units over a user and an item."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(1)
        self.features = {"vector": tf.TensorSpec([None, DIM], tf.float32)}
        self.hidden = tf.Variable(rng.normal(size=[2 * DIM, 3]).astype(np.float32))
        self.out = tf.Variable(rng.normal(size=[3, 1]).astype(np.float32))

    def user(self, features: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        return (features["vector"],)

    def score(self, user: tuple[tf.Tensor, ...], items: tf.Tensor) -> tf.Tensor:
        users = tf.broadcast_to(user[0][:, None, :], tf.shape(items))
        return (tf.tanh(tf.concat([users, items], axis=-1) @ self.hidden) @ self.out)[..., 0]


class Searches(tf.Module):
    """Every search op, with a scorer as traced, a rewritten one, one compiled by XLA, and a metric."""

    def __init__(self, index: Index, network: Network) -> None:
        super().__init__()
        self.index, self.network = MappedIndex(index), network
        user = [tf.TensorSpec([None, DIM])]
        traced = ops.trace_scorer(lambda user, items: network.score((user,), items), user, DIM)
        by_xla = ops.trace_scorer(lambda user, items: network.score((user,), items), user, DIM, xla=True)
        rewritten = ops.rewrite_scorer(by_xla, user, DIM).scorer
        layers, grid = len(index.layers) + 1, {"batch_sizes": (16, 64)}
        handle, ids = self.index.resource_handle, tf.TensorSpec([None, None], tf.int64)

        @tf.function(input_signature=[tf.TensorSpec([None, DIM]), ids, ids])
        def best_first(vector, seeds, exclude):
            limits = {"seeds": seeds, "exclude": exclude, "budget": 150, "deadline_ms": 60_000}
            return ops.best_first_search(handle, [vector], rewritten, K, 4, 20, 9, **limits, **grid)._asdict()

        @tf.function(input_signature=[tf.TensorSpec([None, DIM])])
        def rounds(vector):
            beams = [10] * layers, [1] + [2] * (layers - 1)
            return ops.rounds_search(handle, [vector], traced, K, *beams, **grid)._asdict()

        @tf.function(input_signature=[tf.TensorSpec([None, DIM])])
        def deployed(vector):
            return ops.deployed_search(handle, [vector], traced, [10] * (layers + 1) + [K], **grid)._asdict()

        @tf.function(input_signature=[tf.TensorSpec([None, DIM])])
        def metric(vector):
            return ops.best_first_search(handle, [vector], "cosine", K, 4, 20)._asdict()

        self.functions = {"best_first": best_first, "rounds": rounds, "deployed": deployed, "metric": metric}


def requests(index: Index) -> list[dict]:
    """Returns requests for two users, in all ways to ask."""
    ids, layers = index.item_ids, len(index.layers)
    vector = np.random.default_rng(2).normal(size=[2, DIM]).round(3).tolist()
    seeded = {"vector": vector, "seeds": [[int(ids[7]), -1]] * 2, "exclude": [[int(ids[3])], [int(ids[5])]]}
    limits = {"budget": 0, "deadline_ms": 0}
    best_first = {"k": K, "frontier": 4, "pool": 20, "max_steps": 50, **limits}
    return [
        {"model": "export", "signature": "retrieve", "inputs": {**seeded, **best_first}},
        {"model": "export", "signature": "retrieve_trace", "inputs": {**seeded, **best_first, "budget": 60}},
        {
            "model": "export",
            "signature": "retrieve_rounds",
            "inputs": {**seeded, "k": K, "ef": [10] * (layers + 1), "rounds": [1] + [2] * layers, **limits},
        },
        {"model": "searches", "signature": "best_first", "inputs": seeded},
        *({"model": "searches", "signature": name, "inputs": {"vector": vector}} for name in _UNSEEDED),
    ]


_UNSEEDED = ("rounds", "deployed", "metric")


def main() -> None:
    """Writes the models, the requests with their answers, and the interface of the ops."""
    if any(FOLDER.iterdir()):
        raise SystemExit(f"{FOLDER} is not empty; recorded files are never replaced")
    with tempfile.TemporaryDirectory() as made:
        work = Path(made)
        vectors = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)
        index = build_index(np.arange(ITEMS) * 3 + 1000, vectors, work / "index", Hnsw(m=4, ef_construction=20))
        network, widths = Network(), (len(index.layers) + 1) * (1,)
        export(
            network,
            index.folder,
            work / "export",
            Defaults(k=K, best_first=BestFirst(4, 20), rounds=Rounds(widths, widths)),
        )
        searches = Searches(index, network)
        tf.saved_model.save(searches, str(work / "searches"), signatures=searches.functions)
        asked = requests(index)
        recorded = [{**request, **answer} for request, answer in zip(asked, answers(work, asked), strict=True)]
        with zipfile.ZipFile(FOLDER / "models.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(path for path in work.rglob("*") if path.is_file()):
                archive.write(path, path.relative_to(work))
    (FOLDER / "answers.json").write_text(json.dumps(recorded, indent=1) + "\n")
    (FOLDER / "ops.json").write_text(json.dumps(described(), indent=1) + "\n")


if __name__ == "__main__":
    main()
