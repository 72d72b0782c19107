"""With `xla=True` the scorer is compiled, once per batch size; if it cannot be, it runs without XLA.

One fresh process runs all searches, because XLA reads its flags only once: these make it write every module that it
compiles to a file, and the files are counted. The process records facts, and the tests check them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.conftest import ITEMS, table_embeddings, table_score, timeless
from tests.ops.reference import Graph
from tests.ops.searching import any_search
from tests.ops.test_batches import PARAMETERS, random_graph
from tfserving_ext.index import Layer, write_index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.retrieval import NeuralTopK, ScorerOptions

N, DIM, USERS = 40, 2, 3
GRID = (4, 8, 16, 32)
FALLBACK = "The scorer runs without XLA from now on"
# Functions that XLA cannot compile.
PLAIN_ONLY = {
    "numpy_function": lambda scores: tf.numpy_function(lambda values: values, [scores], tf.float32),
    "strings": lambda scores: tf.strings.to_number(tf.as_string(scores)),
}


def tables() -> np.ndarray:
    return np.random.default_rng(3).integers(-20, 21, [USERS, ITEMS]).astype(np.float32)


class Network(tf.Module):
    """Two dense layers on a user vector and an item, with captured weights."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.hidden = tf.Variable(rng.normal(size=[DIM + 6, 16]).astype(np.float32) / 3)
        self.out = tf.Variable(rng.normal(size=[16]).astype(np.float32))

    def score(self, user: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        user = tf.broadcast_to(user[:, None], [1, tf.shape(items)[1], 6])
        return tf.linalg.matvec(tf.tanh(tf.concat([user, items / 10], axis=-1) @ self.hidden), self.out)

    def numpy(self, user: np.ndarray) -> np.ndarray:
        """Returns the scores of all items, [N]."""
        rows = np.concatenate([np.tile(user, [N, 1]), table_embeddings(N) / 10], axis=1).astype(np.float64)
        return np.tanh(rows @ self.hidden.numpy()) @ self.out.numpy()


class Searching(tf.Module):
    def __init__(self, index: MappedIndex, score: Callable[..., tf.Tensor], xla: bool, algorithm: str) -> None:
        super().__init__()
        self.index = index

        def search(users):
            found = any_search(
                index.resource_handle, [users], score, DIM, k=7, batch_sizes=GRID, xla=xla, **PARAMETERS[algorithm]
            )
            return {str(number): part for number, part in enumerate(timeless(found))}

        self.search = tf.function(search, [tf.TensorSpec([None, ITEMS])])


class Facts:
    """The recorded facts, by the step that they belong to."""

    def __init__(self, scratch: Path, graph: Graph) -> None:
        self.scratch = scratch
        layers = [
            Layer(np.cumsum([0, *map(len, rows)]), np.concatenate([np.array(row, np.int32) for row in rows]))
            for rows in graph.layers
        ]
        entry_points = np.unique(graph.entry_points)
        self.index = write_index(scratch / "index", graph.ids, table_embeddings(N), (entry_points, layers), {})
        self.mapped = MappedIndex(self.index)
        self.noted: dict[str, Any] = {}

    def compiled(self) -> int:
        """Returns how many modules have been compiled so far."""
        return len(list((self.scratch / "modules").glob("*before_optimizations.txt")))

    def note(self, name: str, searches: Sequence[Callable[[], Any]]) -> None:
        """Runs searches, and records their answers and how many modules each of them compiled."""
        print(f"== {name}", file=sys.stderr, flush=True)
        answers, modules = [], []
        for search in searches:
            before = self.compiled()
            found = search()
            answers.append(
                [np.asarray(part).tolist() for part in (found.values() if isinstance(found, dict) else found)]
            )
            modules.append(self.compiled() - before)
        self.noted[name] = {"answers": answers, "modules": modules}


def run(scratch: Path) -> None:
    facts = Facts(scratch, random_graph(5, N))
    users = tf.constant(tables())
    sizes: set[int] = set()

    def recorded(user, items):
        tf.numpy_function(lambda items: sizes.add(items.shape[1]) or items, [items], tf.float32)
        return table_score(user, items)

    for algorithm in PARAMETERS:
        for name, score, xla in (("plain", recorded, False), ("XLA", table_score, True)):
            module = Searching(facts.mapped, score, xla, algorithm)
            facts.note(f"{algorithm}, {name}", [lambda module=module: module.search(users)] * 2)
        facts.noted[f"{algorithm}, sizes"] = sorted(sizes)
        sizes.clear()

    network, vectors = Network(), tf.constant(np.random.default_rng(6).normal(size=[USERS, 6]).astype(np.float32))
    common = {"dim": DIM, "k": 9, "ef": [16, 40], "rounds": [99], "algorithm": "best_first", "batch_sizes": GRID}
    handle = facts.mapped.resource_handle
    for name, xla in (("plain", False), ("XLA", True)):
        facts.note(
            f"network, {name}",
            [lambda xla=xla: timeless(any_search(handle, [vectors], network.score, xla=xla, **common))],
        )
    facts.noted["network, NumPy"] = [network.numpy(user).tolist() for user in vectors.numpy()]

    for name, pass_through in PLAIN_ONLY.items():

        def score(user, items, pass_through=pass_through):
            return tf.ensure_shape(pass_through(table_score(user, items)), [1, None])

        module = Searching(facts.mapped, score, True, "best_first")
        facts.note(f"fallback, {name}", [lambda module=module: module.search(users)] * 3)

    saved = Searching(facts.mapped, table_score, True, "best_first")
    tf.saved_model.save(saved, str(scratch / "saved"), signatures={"search": saved.search})
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(scratch / "saved"))
        signature = loaded.signature_def["search"]
        feed = {signature.inputs["users"].name: tables()}
        outputs = [signature.outputs[name].name for name in sorted(signature.outputs)]
        facts.note("session", [lambda: session.run(outputs, feed)] * 2)

    for name, xla in (("plain", False), ("XLA", True)):
        search = NeuralTopK(
            facts.index,
            lambda user, items: table_score(user[0], items),
            options=ScorerOptions(batch_sizes=(*GRID, 64, 128), xla=xla),
        )
        inside = tf.function(lambda search=search: timeless(search.best_first((users,), k=7, pool=20)))
        facts.note(
            f"warm_up, {name}",
            [
                lambda search=search: search.warm_up((users[:1],)) or [],
                lambda search=search: timeless(search.best_first((users,), k=7, pool=20)),
                lambda search=search: timeless(search.rounds((users,), k=7, ef=[N] * 3, rounds=[1, 3, 3])),
                lambda search=search: timeless(search.deployed((users[:2],), tf.constant([3, 9, 30, 9, 7]))),
                inside,
            ],
        )
    (scratch / "facts.json").write_text(json.dumps(facts.noted))


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> dict[str, Any]:
    """The facts that the process recorded, and its log."""
    scratch = tmp_path_factory.mktemp("xla")
    flags = f"--xla_dump_to={scratch / 'modules'} --xla_dump_hlo_as_text"
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.test_xla", str(scratch)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {"log": done.stderr, **json.loads((scratch / "facts.json").read_text())}


@pytest.mark.parametrize("algorithm", PARAMETERS)
def test_the_scorer_is_compiled_once_per_batch_size(facts, algorithm):
    """Nothing is compiled without `xla`, so that the count is that of the scorer. Exact scores give exact answers."""
    plain, xla = facts[f"{algorithm}, plain"], facts[f"{algorithm}, XLA"]
    sizes = facts[f"{algorithm}, sizes"]
    assert set(sizes) <= set(GRID)
    assert plain["modules"] == [0, 0]
    assert xla["modules"] == [len(sizes), 0]
    assert xla["answers"] == plain["answers"]


def test_scores_are_those_of_numpy(facts):
    """The tolerance is what another order of additions may change."""
    ids = random_graph(5, N).ids.tolist()
    assert facts["network, XLA"]["modules"][0] > 0
    for name in ("network, plain", "network, XLA"):
        item_ids, scores = facts[name]["answers"][0][:2]
        for row, wanted in enumerate(facts["network, NumPy"]):
            own = [wanted[ids.index(item)] for item in item_ids[row]]
            np.testing.assert_allclose(scores[row], own, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        facts["network, XLA"]["answers"][0][1], facts["network, plain"]["answers"][0][1], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", PLAIN_ONLY)
def test_a_scorer_that_xla_cannot_compile_runs_without_it(facts, name):
    """XLA is tried once, and the log mentions it once."""
    fallback = facts[f"fallback, {name}"]
    assert fallback["modules"] == [0, 0, 0]
    assert fallback["answers"] == [facts["best_first, plain"]["answers"][0]] * 3
    log = facts["log"].split(f"== fallback, {name}\n")[1].split("\n== ")[0]
    assert log.count(FALLBACK) == 1
    assert facts["log"].count(FALLBACK) == len(PLAIN_ONLY)


def test_in_a_session_as_serving_loads_it(facts):
    assert facts["session"]["modules"] == [len(facts["best_first, sizes"]), 0]
    assert facts["session"]["answers"] == facts["best_first, plain"]["answers"]


def test_after_warm_up_nothing_is_compiled(facts):
    """Warm-up compiles sizes up to 64, the first that holds all items, so that no later search compiles."""
    assert facts["warm_up, XLA"]["modules"] == [5, 0, 0, 0, 0]
    assert facts["warm_up, plain"]["modules"] == [0, 0, 0, 0, 0]
    assert facts["warm_up, XLA"]["answers"] == facts["warm_up, plain"]["answers"]


if __name__ == "__main__":
    run(Path(sys.argv[1]))
