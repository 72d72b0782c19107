"""The search as a part of larger graphs: static shapes, saved modules, sessions, and many calls at once."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import cancellation

from tests.ops.conftest import ITEMS, table_embeddings, table_score
from tests.ops.reference import Graph, rounds_search
from tests.ops.searching import any_search
from tfserving_ext import ops
from tfserving_ext.index import Layer, write_index
from tfserving_ext.index.resource import MappedIndex

N = 30
EF, ROUNDS = [4, 6, 8], [1, 2, 3]


@pytest.fixture(scope="module")
def graph() -> Graph:
    rng = np.random.default_rng(11)
    layers = [[rng.integers(0, N, 3).tolist() for _ in range(N)] for _ in range(2)]
    return Graph(rng.permutation(N) + 500, [0, 1, 2], layers)


@pytest.fixture(scope="module")
def index(graph, tmp_path_factory) -> MappedIndex:
    layers = [
        Layer(np.cumsum([0, *map(len, rows)]), np.concatenate([np.array(row, np.int32) for row in rows]))
        for rows in graph.layers
    ]
    folder = tmp_path_factory.mktemp("graphs") / "index"
    return MappedIndex(write_index(folder, graph.ids, table_embeddings(N), (np.array(graph.entry_points), layers), {}))


@pytest.fixture(scope="module")
def users() -> np.ndarray:
    return np.random.default_rng(12).integers(-9, 10, [16, ITEMS]).astype(np.float32)


@pytest.fixture(scope="module")
def expected(graph, users) -> list:
    return [rounds_search(graph, row[:N], 5, EF, ROUNDS, []) for row in users]


class Searching(tf.Module):
    def __init__(self, index: MappedIndex) -> None:
        super().__init__()
        self.index = index
        self.shift = tf.Variable(0.0)  # The scorer captures it.

    @tf.function(input_signature=[tf.TensorSpec([None, ITEMS]), tf.TensorSpec([], tf.int32)])
    def search(self, users, k):
        def score(user, items):
            return table_score(user, items) + self.shift

        found = any_search(self.index.resource_handle, [users], score, 2, k, EF, ROUNDS)
        return found._asdict()


def agree(found, expected) -> None:
    assert np.asarray(found["item_ids"]).tolist() == [answer.ids for answer in expected]
    assert np.asarray(found["scores"]).tolist() == [answer.scores for answer in expected]
    assert np.asarray(found["items_scored"]).tolist() == [answer.items_scored for answer in expected]
    assert np.asarray(found["rounds"]).tolist() == [answer.rounds for answer in expected]


@pytest.mark.parametrize(
    ("users_shape", "exclude_shape", "k", "batch", "width"),
    [
        ([3, ITEMS], [3, 2], 7, 3, 7),
        ([None, ITEMS], [3, None], 7, 3, 7),
        ([3, ITEMS], [None, None], 7, 3, 7),
        ([None, ITEMS], [None, 4], None, None, None),
        ([2, ITEMS], None, None, 2, None),
    ],
)
def test_shapes_are_static_where_they_are_known(index, users_shape, exclude_shape, k, batch, width):
    seen = []

    @tf.function(
        input_signature=[
            tf.TensorSpec(users_shape),
            tf.TensorSpec(exclude_shape or [users_shape[0], 0], tf.int64),
            tf.TensorSpec([], tf.int32),
        ]
    )
    def search(users, exclude, some_k):
        exclude = None if exclude_shape is None else exclude
        found = any_search(
            index.resource_handle, [users], table_score, 2, k or some_k, EF, ROUNDS, exclude, batch_sizes=(8,)
        )
        seen.append([part.shape.as_list() for part in found])
        return found

    search.get_concrete_function()
    assert seen == [[[batch, width], [batch, width], *[[batch]] * 11]]


def test_batches_that_cannot_agree_are_refused_when_traced(index):
    with pytest.raises(ValueError, match="Dimensions must be equal, but are 3 and 2"):
        tf.function(
            lambda: any_search(
                index.resource_handle,
                [tf.zeros([2, ITEMS])],
                table_score,
                2,
                3,
                EF,
                ROUNDS,
                tf.zeros([3, 0], tf.int64),
            )
        )()


def test_eagerly_and_in_a_function(index, users, expected):
    eager = any_search(index.resource_handle, [tf.constant(users)], table_score, 2, 5, EF, ROUNDS)
    agree(eager._asdict(), expected)
    module = Searching(index)
    agree(module.search(tf.constant(users), 5), expected)


def test_a_saved_module_answers_alike_wherever_it_is_moved(index, users, expected, tmp_path):
    tf.saved_model.save(Searching(index), str(tmp_path / "saved"))
    (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = tf.saved_model.load(str(tmp_path / "moved"))
    agree(loaded.search(tf.constant(users), 5), expected)


def test_two_loads_of_one_module_are_independent(index, users, expected, tmp_path):
    module = Searching(index)
    tf.saved_model.save(module, str(tmp_path / "saved"))
    first, second = (tf.saved_model.load(str(tmp_path / "saved")) for _ in range(2))
    agree(first.search(tf.constant(users), 5), expected)
    del first
    agree(second.search(tf.constant(users), 5), expected)
    agree(module.search(tf.constant(users), 5), expected)


def test_in_a_session_as_serving_loads_it(index, users, expected, tmp_path):
    module = Searching(index)
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"search": module.search})
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "saved"))
        signature = loaded.signature_def["search"]
        feed = {signature.inputs["users"].name: users, signature.inputs["k"].name: 5}
        outputs = {name: info.name for name, info in signature.outputs.items()}
        for _ in range(2):
            agree(session.run(outputs, feed), expected)


def test_many_threads_at_once(index, users, expected):
    """Each worker serves only one search at a time, whichever thread asks."""
    module = Searching(index)

    def call(number):
        rows = np.roll(np.arange(len(users)), number)[: 1 + number % 7]
        agree(module.search(tf.constant(users[rows]), 5), [expected[row] for row in rows])
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(call, range(300)))


def test_an_index_is_replaced_under_running_searches(index, graph, users, expected, tmp_path):
    """Each answer comes wholly from one of the two indexes."""
    handle = ops.index_handle(shared_name=str(tmp_path))
    other = Graph(graph.ids + 10**6, graph.entry_points, graph.layers)
    both = []
    for number, each in enumerate((graph, other)):
        (tmp_path / str(number)).mkdir()
        both.append(each.write(tmp_path / str(number), table_embeddings(N)))
    ops.index_open(handle, both[0], dim=2)

    @tf.function(input_signature=[tf.TensorSpec([None, ITEMS])])
    def search(users):
        return any_search(handle, [users], table_score, 2, 5, EF, ROUNDS).item_ids

    old = [answer.ids for answer in expected]
    new = [[item + 10**6 for item in answer.ids] for answer in expected]
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(lambda: search(tf.constant(users)).numpy().tolist()) for _ in range(200)]
        for number in range(51):
            ops.index_open(handle, both[number % 2 ^ 1], dim=2)
        answers = [answer.result() for answer in answers]
    assert all(answer in (old, new) for answer in answers)
    assert search(tf.constant(users)).numpy().tolist() == new


ONE_THREAD = """
import sys
import numpy as np
import tensorflow as tf
from concurrent.futures import ThreadPoolExecutor
import tfserving_ext.ops

path, users = sys.argv[1], np.load(sys.argv[2])
config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=1, intra_op_parallelism_threads=1)
tf.config.threading.set_inter_op_parallelism_threads(1)
tf.config.threading.set_intra_op_parallelism_threads(1)
answers = []

# Sessions, as TensorFlow Serving runs them: parallel requests of several users each.
with tf.compat.v1.Session(graph=tf.Graph(), config=config) as session:
    loaded = tf.compat.v1.saved_model.load(session, ["serve"], path)
    signature = loaded.signature_def["search"]
    names = [signature.inputs["users"].name, signature.inputs["k"].name]
    with ThreadPoolExecutor(16) as pool:
        def call(_):
            return session.run(signature.outputs["item_ids"].name, dict(zip(names, (users, 5))))
        answers += list(pool.map(call, range(64)))

# Many searches in one graph that all need the one thread.
module = tf.saved_model.load(path)

@tf.function
def mapped(users):
    return tf.map_fn(lambda row: module.search(row[None], 5)["item_ids"][0], users,
                     fn_output_signature=tf.TensorSpec([None], tf.int64), parallel_iterations=16)

answers.append(mapped(tf.constant(users)).numpy())
with ThreadPoolExecutor(16) as pool:
    answers += list(pool.map(lambda _: module.search(tf.constant(users), 5)["item_ids"].numpy(), range(64)))
assert all((answer == answers[0]).all() for answer in answers)
np.save(sys.argv[3], answers[0])
"""


def test_one_thread_suffices(index, users, expected, tmp_path):
    """A search that needed a free inter-op thread would wait for itself."""
    module = Searching(index)
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"search": module.search})
    np.save(tmp_path / "users.npy", users)
    arguments = [str(tmp_path / name) for name in ("saved", "users.npy", "answer.npy")]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([sys.executable, "-c", ONE_THREAD, *arguments], check=True, timeout=240, env=environment)
    assert np.load(tmp_path / "answer.npy").tolist() == [answer.ids for answer in expected]


def test_a_cancelled_request_stops_between_rounds(tmp_path, graph, users):
    """The scorer cancels its own request, so that there must be no second round."""
    handle = ops.index_handle(shared_name=str(tmp_path))
    ops.index_open(handle, graph.write(tmp_path, table_embeddings(N)), dim=2)
    manager = cancellation.CancellationManager()
    calls = []

    def score(user, items):
        def note(scores):
            calls.append(1)
            manager.start_cancel()
            return scores

        return tf.ensure_shape(tf.numpy_function(note, [table_score(user, items)], tf.float32), [1, None])

    @tf.function
    def search(users):
        return any_search(handle, [users], score, 2, 5, EF, ROUNDS).item_ids

    function = search.get_concrete_function(tf.TensorSpec([1, ITEMS]))
    with pytest.raises(tf.errors.CancelledError):
        manager.get_cancelable_function(function)(tf.constant(users[:1]))
    assert len(calls) == 1
