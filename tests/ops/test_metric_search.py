"""The walk under a built-in metric, against the reference searches and NumPy's own metrics."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.reference import Answer, Graph, best_first_search, rounds_search
from tests.ops.searching import any_search
from tfserving_ext import ops

METRICS = ["dot", "l2", "cosine"]


def numpy_scores(metric: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    query, rows = query.astype(np.float64), rows.astype(np.float64)
    if metric == "dot":
        return rows @ query
    if metric == "l2":
        return -((rows - query) ** 2).sum(axis=1)
    lengths = np.linalg.norm(rows, axis=1)
    length = np.linalg.norm(query)
    # A vector of zeros has no direction; its cosine with any vector counts as 0.
    return np.divide(rows @ query, lengths * length, out=np.zeros(len(rows)), where=(lengths != 0) & (length != 0))


class MetricIndex:
    """An index resource that is opened repeatedly."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.handle = ops.index_handle(shared_name=f"metric_{folder}")

    def open(self, graph: Graph, embeddings: np.ndarray) -> "MetricIndex":
        ops.index_open(self.handle, graph.write(self.folder, embeddings), dim=embeddings.shape[1])
        return self


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> MetricIndex:
    return MetricIndex(tmp_path_factory.mktemp("metric"))


@st.composite
def worlds(draw):
    """Draws small whole coordinates, so that all metrics but the cosine are exact in float32, with many ties."""
    n, dim = draw(st.integers(1, 30)), draw(st.sampled_from([1, 3, 8, 17, 33]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    degree = draw(st.integers(0, 4))
    layers = [[rng.integers(0, n, degree).tolist() for _ in range(n)] for _ in range(draw(st.integers(1, 3)))]
    graph = Graph(rng.permutation(n) + 500, rng.integers(0, n, draw(st.integers(1, 4))).tolist(), layers)
    return graph, rng.integers(-3, 4, [n, dim]).astype(np.float32), rng.integers(-3, 4, [3, dim]).astype(np.float32)


@settings(deadline=None, max_examples=100)
@given(world=worlds(), metric=st.sampled_from(["dot", "l2"]), k=st.integers(1, 12), pool=st.integers(1, 12))
def test_best_first_and_rounds_answer_as_the_reference(index, world, metric, k, pool):
    graph, embeddings, queries = world
    index.open(graph, embeddings)
    ef, rounds = [pool] * (len(graph.layers) + 1), [1] + [2] * len(graph.layers)
    best_first = any_search(index.handle, [queries], metric, 0, k, [3, pool], [50], algorithm="best_first")
    paper = any_search(index.handle, [queries], metric, 0, k, ef, rounds)
    for row, query in enumerate(queries):
        scores = numpy_scores(metric, query, embeddings).astype(np.float32)
        check(best_first, row, best_first_search(graph, scores, k, 3, pool, 50, []))
        check(paper, row, rounds_search(graph, scores, k, ef, rounds, []))


def check(found: ops.SearchResult, row: int, wanted: Answer) -> None:
    assert found.item_ids.numpy()[row].tolist() == wanted.ids
    assert found.scores.numpy()[row].tolist() == wanted.scores
    assert found.items_scored.numpy()[row] == wanted.items_scored
    assert found.scorer_us.numpy()[row] == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 7, 8, 16, 31, 64, 100])
def test_scores_are_those_of_numpy(index, metric, dim):
    """Every item is an entry point, so that all are scored; one item and one query are zeros."""
    rng = np.random.default_rng(dim)
    embeddings, queries = (rng.normal(size=[count, dim]).astype(np.float32) for count in (50, 4))
    embeddings[7], queries[2] = 0, 0
    index.open(Graph(np.arange(50), list(range(50)), [[[]] * 50]), embeddings)
    found = ops.best_first_search(index.handle, [queries], metric, 50, 1, 50, 1)
    for row, query in enumerate(queries):
        scores = numpy_scores(metric, query, embeddings)
        np.testing.assert_allclose(found.scores.numpy()[row], np.sort(scores)[::-1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores[found.item_ids.numpy()[row]], np.sort(scores)[::-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [[2, 3], [3, 2], [3]])
def test_queries_of_another_shape_are_refused(index, shape):
    index.open(Graph(np.arange(4), [0], [[[]] * 4]), np.ones([4, 2], np.float32))
    none = np.zeros([2, 0], np.int64)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=r"queries|rank"):
        ops.best_first_search(index.handle, [tf.zeros(shape)], "dot", 1, 1, 1, exclude=none, seeds=none)


def test_an_unknown_metric_is_refused(index):
    index.open(Graph(np.arange(4), [0], [[[]] * 4]), np.ones([4, 2], np.float32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="not in the list of allowed values"):
        ops.best_first_search(index.handle, [tf.zeros([1, 2])], "hamming", 1, 1, 1)
