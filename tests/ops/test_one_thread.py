"""With one inter-op and one intra-op thread a search never waits for itself, whatever the scorer is made of."""

import faulthandler
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.alone import lines_of
from tests.ops.conftest import ITEMS, table_embeddings, table_score
from tests.ops.reference import Graph, rounds_search
from tests.ops.searching import any_search
from tfserving_ext.index import Layer, write_index
from tfserving_ext.index.resource import MappedIndex

N, USERS, CLIENTS = 30, 8, 8
K, EF, ROUNDS = 5, [4, 6, 8], [1, 2, 3]
SPECS = [tf.TensorSpec([None, ITEMS])]


def one_by_one(user: tf.Tensor, items: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda item: table_score(user, item[None, None])[0, 0]


@tf.function
def nested(user, items):
    return tf.function(table_score)(user, items)


@tf.function(jit_compile=True)
def compiled(user, items):
    return table_score(user, items)


@tf.nondifferentiable_batch_function(num_batch_threads=1, max_batch_size=4096, batch_timeout_micros=100)
def on_another_thread(scores):
    return scores + 0


def loop(user, items):
    return tf.while_loop(
        lambda i, _: i < 3, lambda i, scores: (i + 1, nested(user, items) + 0 * scores), [0, items[..., 0]]
    )[1]


def mapped(user, items):
    element = tf.TensorSpec([], tf.float32)
    scored = tf.map_fn(one_by_one(user, items), items[0], fn_output_signature=element, parallel_iterations=16)
    return scored[None]


def condition(user, items):
    return tf.cond(user[0, 0] > 0, lambda: loop(user, items), lambda: mapped(user, items))


def python(wrap: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    def score(user, items):
        return tf.ensure_shape(wrap(lambda scores: scores * 1, [table_score(user, items)], tf.float32), [1, None])

    return score


# All of them compute the same score. (A `tf.function` inside a `tf.py_function` is left out: with as many of them as
# threads, TensorFlow waits for itself even without a search.)
SCORERS = {
    "nested": nested,
    "loop": loop,
    "map_fn": mapped,
    "condition": condition,
    "vectorized_map": lambda user, items: tf.vectorized_map(one_by_one(user, items), items[0])[None],
    "XLA": compiled,
    "another thread": lambda user, items: tf.reshape(on_another_thread(table_score(user, items)), [1, -1]),
}
PYTHON_SCORERS = {
    "numpy_function": python(tf.numpy_function),
    "py_function": python(tf.py_function),
}  # These cannot be saved.


class Searching(tf.Module):
    def __init__(self, index: MappedIndex, score: Callable[..., tf.Tensor]) -> None:
        super().__init__()
        self.index = index
        self.search = tf.function(self.found(score), SPECS)

    def found(self, score: Callable[..., tf.Tensor]) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        return lambda users: {
            "item_ids": any_search(self.index.resource_handle, [users], score, 2, K, EF, ROUNDS).item_ids
        }


def run() -> None:
    """Searches in every way; if one hangs, it is the one printed last."""
    faulthandler.dump_traceback_later(200, exit=True)
    tf.config.threading.set_inter_op_parallelism_threads(1)  # They also hold for a session without a configuration.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    rng = np.random.default_rng(11)
    graph = Graph(rng.permutation(N) + 500, [0, 1, 2], [rng.integers(0, N, [N, 3]).tolist() for _ in range(2)])
    users = rng.integers(-9, 10, [USERS, ITEMS]).astype(np.float32)
    expected = [rounds_search(graph, row[:N], K, EF, ROUNDS, []).ids for row in users]

    def check(name: str, search: Callable[[], np.ndarray]) -> None:
        print(name, flush=True)
        with ThreadPoolExecutor(CLIENTS) as clients:
            for answer in clients.map(lambda _: search(), range(3 * CLIENTS)):
                assert np.asarray(answer).tolist() == expected, name

    with tempfile.TemporaryDirectory() as scratch:
        layers = [Layer(np.arange(0, 3 * N + 1, 3), np.array(rows, np.int32).ravel()) for rows in graph.layers]
        index = write_index(
            Path(scratch) / "index", graph.ids, table_embeddings(N), (np.array(graph.entry_points), layers), {}
        )
        for name, score in (SCORERS | PYTHON_SCORERS).items():
            module = Searching(MappedIndex(index), score)
            check(f"{name}, function", lambda module=module: module.search(tf.constant(users))["item_ids"].numpy())
            if name in SCORERS:
                path = str(Path(scratch) / name)
                tf.saved_model.save(module, path, signatures={"search": module.search})
                with tf.compat.v1.Session(graph=tf.Graph()) as session:
                    signature = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def["search"]
                    feed, fetch = signature.inputs["users"].name, signature.outputs["item_ids"].name
                    check(f"{name}, session", lambda run=session.run: run(fetch, {feed: users}))  # noqa: B023
    print("done")


@pytest.mark.medium
def test_a_search_never_waits_for_itself():
    assert lines_of("tests.ops.test_one_thread")[-1:] == ["done"]


if __name__ == "__main__":
    run()
