"""Every search against the reference on inputs that are small, empty, odd or too large."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.conftest import ITEMS, Searcher, table_embeddings, table_score
from tests.ops.reference import Answer, Graph, best_first_search, deployed_search, rounds_search
from tests.ops.surrogate_reference import World, surrogate_search
from tests.ops.test_beam_search import check
from tests.ops.test_metric_search import numpy_scores
from tfserving_ext import ops
from tfserving_ext.index import Layer, write_index
from tfserving_ext.retrieval import BruteForce

INF, NAN = np.inf, np.nan
ALGORITHMS = ["rounds", "deployed", "best_first", "surrogate"]


def line(n: int) -> list[list[int]]:
    return [[item + 1] if item + 1 < n else [] for item in range(n)]


def ids(n: int) -> np.ndarray:
    return np.arange(n) * 10 + 100


GRAPHS = {
    "nothing": Graph(ids(0), [], [[], []]),
    "one item": Graph(ids(1), [0], [[[]], [[]]]),
    "one item that is its own neighbour": Graph(ids(1), [0, 0], [[[0, 0, 0]]]),
    "no edges": Graph(ids(6), [1, 4], [[[]] * 6, [[]] * 6]),
    "two islands, entered at one": Graph(ids(6), [0], [[[1, 2], [0, 2], [0], [4, 5], [3], [3]]]),
    "an upper layer that leads nowhere": Graph(ids(6), [0, 3], [line(6), [[]] * 6, [[]] * 6]),
    "self loops and duplicates": Graph(ids(5), [2, 2, 2], [[[i, i, (i + 1) % 5, (i + 1) % 5] for i in range(5)]] * 2),
    "all are neighbours and entry points": Graph(ids(8), list(range(8)), [[list(range(8))] * 8] * 3),
}
SCORES = {
    "all equal": [0.5],
    "equal but for one": [0.5, 0.5, 0.5, 0.25, 0.5, 0.5, 0.5, 0.5],
    "all NaN": [NAN],
    "NaN before minus infinity": [NAN, -INF],
    "NaN and every infinity": [NAN, -INF, INF, 0.0, NAN, -INF, -1.0, INF],
    "all infinite": [INF],
    "all minus infinity": [-INF],
}


def surrogate_of_graph(graph: Graph, scores: np.ndarray, k: int, *parameters: Any) -> Answer:
    *own, exclude, seeds = parameters
    return surrogate_search(World.of(graph), scores, k, *own, 0.9, exclude, seeds)


def compare(
    search: Searcher,
    graph: Graph,
    scores: np.ndarray,
    k: int,
    algorithm: str,
    exclude: np.ndarray | None = None,
    seeds: np.ndarray | None = None,
    width: int = 3,
) -> ops.SearchResult:
    """Searches `graph`, checks the answer against the reference and returns it."""
    layers = len(graph.layers)
    reference: Callable[..., Answer]
    if algorithm == "rounds":
        reference, ef, rounds = rounds_search, [width] * (layers + 1), [1, *[3] * layers]
        parameters = [ef, rounds]
    elif algorithm == "deployed":
        reference, ef, rounds = deployed_search, [width] * (layers + 3), []
        parameters = [ef]
    elif algorithm == "best_first":
        reference, ef, rounds = best_first_search, [2, width], [100]
        parameters = [*ef, *rounds]
    else:
        reference, ef, rounds = surrogate_of_graph, [2, width], [100, 2]
        parameters = [*ef, *rounds]
    none = np.zeros([len(scores), 0], np.int64)
    exclude, seeds = (none if given is None else given for given in (exclude, seeds))
    found = search.open(graph)(scores, k, ef, rounds, exclude, algorithm, seeds=seeds)
    check(found, (graph, scores, k, exclude, seeds), reference, *parameters)
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", GRAPHS)
def test_degenerate_graphs(searcher, kind, algorithm):
    """Covers starts at entry points and at seeds, narrow and wide beams, and k up to far above the corpus."""
    graph = GRAPHS[kind]
    n = len(graph)
    scores = np.random.default_rng(n).integers(-2, 3, [3, n]).astype(np.float32)
    seeds = np.array([[-7, -7, -7], [100, 100, 100], [140, -7, 110]])
    for width in (1, 3, 50):
        for k in (1, 4, 1000):
            compare(searcher, graph, scores, k, algorithm, width=width)
            compare(searcher, graph, scores, k, algorithm, seeds=seeds, width=width)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("kind", SCORES)
def test_degenerate_scores(searcher, kind, algorithm):
    """Ties go to the lower index, and NaN to the end, after minus infinity, which is a number."""
    graph = GRAPHS["all are neighbours and entry points"]
    scores = np.resize(np.array(SCORES[kind], np.float32), [1, 8])
    for width in (1, 3, 8):
        compare(searcher, graph, scores, 8, algorithm, width=width)
    found = compare(searcher, graph, scores, 8, algorithm, width=50)
    assert found.nan_scores.tolist() == [np.isnan(scores).sum()]
    numbers = np.flatnonzero(~np.isnan(scores[0]))
    assert sorted(found.item_ids[0, : len(numbers)].tolist()) == ids(8)[numbers].tolist()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_nan_item_is_walked_through(searcher, algorithm):
    """The NaN item gets room in the beam only if nothing else takes it; behind it lies the best item."""
    graph = Graph(ids(4), [0], [line(4)])
    found = compare(searcher, graph, np.array([[NAN, NAN, NAN, 1]], np.float32), 4, algorithm, width=4)
    assert found.item_ids.tolist() == [[130, 100, 110, 120]]
    assert found.scores.tolist() == [[1, -INF, -INF, -INF]]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ids_that_the_index_does_not_know(searcher, algorithm):
    """Unknown ids have no effect and are counted each time they are given; known ones may be repeated."""
    graph = GRAPHS["self loops and duplicates"]
    scores = np.arange(10, dtype=np.float32).reshape(2, 5)
    strangers = np.array([[-1, 0, 2**63 - 1, -(2**63)], [101, 101, 99, 150]])
    plain = compare(searcher, graph, scores, 5, algorithm)
    found = compare(searcher, graph, scores, 5, algorithm, exclude=strangers, seeds=strangers)
    assert found.unknown_ids.tolist() == [8, 8]
    assert found.item_ids.tolist() == plain.item_ids.tolist()
    once = compare(searcher, graph, scores, 5, algorithm, seeds=np.array([[110], [130]]))
    often = compare(searcher, graph, scores, 5, algorithm, seeds=np.array([[110] * 9, [130] * 9]))
    assert often.item_ids.tolist() == once.item_ids.tolist()
    assert often.items_scored.tolist() == once.items_scored.tolist()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_everything_is_excluded(searcher, algorithm):
    graph = GRAPHS["all are neighbours and entry points"]
    scores = np.arange(8, dtype=np.float32)[None]
    for seeds in (None, ids(8)[None]):
        found = compare(searcher, graph, scores, 3, algorithm, exclude=np.repeat(ids(8), 2)[None], seeds=seeds)
        assert found.item_ids.tolist() == [[-1, -1, -1]]
        assert found.scores.tolist() == [[-INF] * 3]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_hundred_thousand_exclusions_and_seeds(searcher, algorithm):
    graph = GRAPHS["all are neighbours and entry points"]
    scores = np.arange(16, dtype=np.float32).reshape(2, 8)
    many = np.tile(np.concatenate([np.arange(99_996) + 10**12, ids(8)[4:]]), [2, 1])
    found = compare(searcher, graph, scores, 3, algorithm, exclude=many, width=8)
    assert found.item_ids.tolist() == [[130, 120, 110]] * 2
    assert found.unknown_ids.tolist() == [99_996] * 2
    compare(searcher, graph, scores, 3, algorithm, seeds=many, width=8)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("limits", [{}, {"budget": 1}, {"deadline_ms": 1}])
def test_no_users(searcher, algorithm, limits):
    none = np.zeros([0, 3], np.int64)
    ef, rounds = {
        "rounds": ([3] * 3, [1] * 3),
        "deployed": ([3] * 4, ()),
        "best_first": ([2, 4], [9]),
        "surrogate": ([2, 4], [9, 2]),
    }[algorithm]
    searcher.open(GRAPHS["no edges"])
    found = searcher(np.zeros([0, 6]), 4, ef, rounds, none, algorithm, seeds=none, **limits)
    assert [part.shape for part in found] == [(0, 4), (0, 4), *[(0,)] * 11]


@pytest.mark.medium
@pytest.mark.parametrize("algorithm", ["rounds", "deployed"])
@pytest.mark.parametrize("deadline_ms", [1000, 1])
def test_at_the_deadline_the_entry_points_are_the_answer(tmp_path, algorithm, deadline_ms):
    """The first batch alone takes longer than the deadline. (test_beam_search.py tests best_first.)"""

    def slowly(user, items):
        def wait(scores):
            time.sleep(1.1 * deadline_ms / 1000 + 0.01)
            return scores

        return tf.ensure_shape(tf.numpy_function(wait, [table_score(user, items)], tf.float32), [1, None])

    graph = Graph(ids(9), [2, 0], [line(9), line(9)])
    search = Searcher(tmp_path, slowly).open(graph)
    ef, rounds = {"rounds": ([9] * 3, [1, 1, 9]), "deployed": ([9] * 9, ())}[algorithm]
    found = search(np.arange(9, dtype=np.float32)[None], 3, ef, rounds, algorithm=algorithm, deadline_ms=deadline_ms)
    assert found.stopped.tolist() == [2]
    if deadline_ms == 1000:  # A deadline of a millisecond may pass before the first batch.
        assert found.item_ids.tolist() == [[120, 100, -1]]
        assert found.items_scored.tolist() == [2]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_budget_below_the_entry_points(searcher, algorithm, budget):
    """The first entry points in their order are scored, each once even if it is repeated."""
    graph = Graph(ids(5), [3, 3, 1, 4, 1], [line(5)])
    scores = np.arange(5, dtype=np.float32)[None]
    ef, rounds = {
        "rounds": ([5] * 2, [1, 9]),
        "deployed": ([5] * 5, ()),
        "best_first": ([5, 5], [9]),
        "surrogate": ([5, 5], [9, 2]),
    }[algorithm]
    found = searcher.open(graph)(scores, 5, ef, rounds, algorithm=algorithm, budget=budget)
    wanted = sorted([130, 110, 140][:budget], reverse=True)
    assert found.item_ids.tolist() == [wanted + [-1] * (5 - budget)]
    assert found.items_scored.tolist() == [budget]
    assert found.stopped.tolist() == [1]


@pytest.mark.parametrize("metric", ["dot", "l2", "cosine"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_queries_that_are_not_finite(tmp_path, metric, value):
    """Every metric of such a query is NaN or infinite, as in NumPy."""
    rows = np.array([[1, 1], [-1, 1], [0, 0], [2, -1]], np.float32)
    query = np.array([value, 1], np.float32)
    graph = Graph(ids(4), [0], [[[0, 1, 2, 3]] * 4])
    index = ops.index_handle(shared_name=str(tmp_path))
    ops.index_open(index, graph.write(tmp_path, rows), dim=2)
    with np.errstate(invalid="ignore"):
        scores = numpy_scores(metric, query, rows).astype(np.float32)
    wanted = best_first_search(graph, scores, 4, 2, 4, 9, [])
    found = ops.best_first_search(index, [query[None]], metric, 4, 2, 4, 9)
    assert found.item_ids.numpy().tolist() == [wanted.ids]
    assert found.scores.numpy().tolist() == [wanted.scores]
    assert found.nan_scores.numpy().tolist() == [wanted.nan_scores]


@pytest.mark.medium
@pytest.mark.parametrize("kind", SCORES)
def test_brute_force_has_the_same_order(tmp_path, kind):
    scores = np.resize(np.array(SCORES[kind], np.float32), [1, ITEMS])
    layer = Layer(np.zeros(9, np.int64), np.zeros(0, np.int32))
    index = write_index(tmp_path / "index", ids(8), table_embeddings(8), (np.array([0]), [layer]), {})
    exact = BruteForce(index, lambda user, items: table_score(user[0], items), chunk=3)
    found = exact.search((tf.constant(scores),), 9)
    wanted = rounds_search(Graph(ids(8), list(range(8)), [[[]] * 8]), scores[0, :8], 9, [8, 8], [1, 1], [])
    assert found.item_ids.numpy().tolist() == [wanted.ids]
    assert found.scores.numpy().tolist() == [wanted.scores]
    assert found.nan_scores.numpy().tolist() == [wanted.nan_scores]
