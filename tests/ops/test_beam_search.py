"""The searches give exactly the reference's numbers on random graphs."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ops.conftest import Searcher, table_score
from tests.ops.reference import Answer, Graph, best_first_search, deployed_search, rounds_search
from tfserving_ext.ops import DEFAULT_BATCH_SIZES, SearchResult

GRIDS = ((1,), (3, 16), DEFAULT_BATCH_SIZES)
SCORES = {
    "ties": [-1, 0, 1],
    "integers": list(range(-9, 10)),
    "no numbers": [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0],
    "wide": [-3e38, -1e-30, 0, 1e-30, 1e-3, 0.5, 2, 3e38],  # Without subnormal numbers, which TensorFlow flushes to 0.
    "nothing": [np.nan, -np.inf],
}
many = settings(
    max_examples=800, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draws 1 to 40 items in 1 to 4 layers, with empty rows, self loops, duplicates, islands, repeated entry points."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32), label="graph"))
    n = draw(st.integers(1, 12) | st.integers(13, 40), label="items")
    layers = []
    members = np.arange(n)
    for _ in range(draw(st.integers(1, 4), label="layers")):
        degree = draw(st.integers(0, 6), label="degree")
        rows = [[] for _ in range(n)]
        for item in members:
            rows[item] = rng.choice(members, rng.integers(0, degree + 1)).tolist()
        layers.append(rows)
        members = np.flatnonzero(rng.random(n) < 0.6) if len(members) > 1 else members
        members = members if len(members) else np.array([rng.integers(n)])
    entry_points = rng.choice(members, rng.integers(1, len(members) + 3)).tolist()
    ids = rng.choice(10**6, n, replace=False) * 7 + 5
    return Graph(ids, entry_points, layers)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Graph, np.ndarray, int, np.ndarray, np.ndarray]:
    """Draws a graph, scores [B, n], k, exclusions [B, x] and seeds [B, s], with unknown and repeated ids."""
    graph = draw(graphs())
    users = draw(st.integers(1, 4), label="users")
    rng = np.random.default_rng(draw(st.integers(0, 2**32), label="scores"))
    values = SCORES[draw(st.sampled_from(sorted(SCORES)), label="kind of scores")]
    scores = rng.choice(np.array(values, np.float32), [users, len(graph)])
    excluded, seeds = (draw(st.sampled_from([0, 0, 1, 5]), label=name) for name in ("excluded", "seeds"))
    ids = np.concatenate([graph.ids, [-1, 4, 2**62]])
    exclude, seeds = (rng.choice(ids, [users, count]) for count in (excluded, seeds))
    return graph, scores, draw(st.integers(1, len(graph) + 3), label="k"), exclude, seeds


def widths(n: int) -> st.SearchStrategy[int]:
    """Draws beam widths, from narrow ones to ones wider than the corpus."""
    return st.integers(1, 4) | st.integers(1, n + 3)


def check(found: SearchResult, request: tuple, search: Callable[..., Answer], *parameters: object) -> None:
    """Checks that each user's answer is the reference's, including the statistics."""
    graph, scores, k, exclude, seeds = request
    places = {int(item_id): place for place, item_id in enumerate(graph.ids)}
    expected, unknown = [], []
    for row, excluded, sown in zip(scores, exclude.tolist(), seeds.tolist(), strict=True):
        known = {places[item_id] for item_id in sown if item_id in places}
        expected.append(search(graph, row, k, *parameters, excluded, known))
        unknown.append(sum(item_id not in places for item_id in [*excluded, *sown]))
    assert found.item_ids.tolist() == [answer.ids for answer in expected]
    assert found.scores.tolist() == [answer.scores for answer in expected]
    assert found.items_scored.tolist() == [answer.items_scored for answer in expected]
    assert found.rounds.tolist() == [answer.rounds for answer in expected]
    assert found.nan_scores.tolist() == [answer.nan_scores for answer in expected]
    assert found.unknown_ids.tolist() == unknown
    assert found.stopped.tolist() == [answer.stopped for answer in expected]


@many
@given(data=st.data(), request=requests(), grid=st.sampled_from(GRIDS))
def test_rounds_search_is_algorithm_2(searcher, data, request, grid):
    graph, scores, k, exclude, seeds = request
    layers = len(graph.layers)
    ef = data.draw(st.lists(widths(len(graph)), min_size=layers + 1, max_size=layers + 1), label="ef")
    rounds = [1, *data.draw(st.lists(st.integers(1, 4), min_size=layers, max_size=layers), label="rounds")]
    found = searcher.open(graph)(scores, k, ef, rounds, exclude, batch_sizes=grid, seeds=seeds)
    check(found, request, rounds_search, ef, rounds)


@many
@given(data=st.data(), request=requests(), grid=st.sampled_from(GRIDS))
def test_deployed_search_is_the_original_s_deployed_graph(searcher, data, request, grid):
    graph, scores, k, exclude, seeds = request
    layers = len(graph.layers)
    level_topn = data.draw(st.lists(widths(len(graph)), min_size=layers + 1, max_size=layers + 4), label="level_topn")
    found = searcher.open(graph)(scores, k, level_topn, (), exclude, "deployed", grid, seeds)
    check(found, request, deployed_search, level_topn)


@many
@given(data=st.data(), request=requests(), grid=st.sampled_from(GRIDS))
def test_best_first_search_expands_the_best_of_its_pool(searcher, data, request, grid):
    graph, scores, k, exclude, seeds = request
    frontier, pool = data.draw(widths(len(graph)), label="frontier"), data.draw(widths(len(graph)), label="pool")
    steps = data.draw(st.integers(0, 5) | st.just(1000), label="max_steps")
    found = searcher.open(graph)(scores, k, [frontier, pool], [steps], exclude, "best_first", grid, seeds)
    check(found, request, best_first_search, frontier, pool, steps)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    request=requests(),
    best=st.integers(0, 40),
    algorithm=st.sampled_from(["rounds", "deployed", "best_first", "surrogate"]),
)
def test_whatever_is_excluded_the_answer_is_full(searcher, request, best, algorithm):
    """Excluded items, above all if they are the best, must not take the room of others.

    A ring joins all items. With beams as wide as k, the answer has k other items whenever there are so many; with beams
    as wide as the corpus, it has the best of them, as brute force does.

    First contact, line 7.
    """
    graph, scores, k, exclude, _ = request
    n = len(graph)
    graph = Graph(graph.ids, graph.entry_points, [[[*row, (i + 1) % n] for i, row in enumerate(graph.layers[0])]])
    ranked = [sorted(range(n), key=lambda item: (np.isnan(row[item]), -row[item], item)) for row in scores]
    taken = [np.resize(graph.ids[order[:best]], best) if best else graph.ids[:0] for order in ranked]
    exclude = np.concatenate([exclude, taken], axis=1)
    wanted = [
        [i for i in graph.ids[order].tolist() if i not in row] for order, row in zip(ranked, exclude, strict=True)
    ]
    search = searcher.open(graph)
    for width in (k, n):
        ef, rounds = {
            "rounds": ([width] * 2, [1, n]),
            "deployed": ([width] * (n + 1), ()),
            "best_first": ([1, width], [0]),
            "surrogate": ([1, width], [0, 2]),
        }[algorithm]
        found = search(scores, k, ef, rounds, exclude, algorithm)
        assert not found.stopped.any()
        for ids, others in zip(found.item_ids.tolist(), wanted, strict=True):
            answered = [item for item in ids if item != -1]
            assert len(answered) == min(width, k, len(others)) and set(answered) <= set(others)
            # The surrogate search does not look at all items if it expects none of those left in the answer.
            assert width < n or algorithm == "surrogate" or answered == others[:k]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    request=requests(),
    budget=st.integers(1, 50),
    algorithm=st.sampled_from(["rounds", "deployed", "best_first", "surrogate"]),
)
def test_a_budget_bounds_the_evaluations_and_is_all_that_it_changes(searcher, request, budget, algorithm):
    graph, scores, k, _, seeds = request
    layers = len(graph.layers)
    parameters = {
        "rounds": ([9] * (layers + 1), [1, *[3] * layers]),
        "deployed": ([9] * (layers + 3), ()),
        "best_first": ([3, 9], [1000]),
        "surrogate": ([3, 9], [1000, 2]),
    }[algorithm]
    search = searcher.open(graph)
    full = search(scores, k, *parameters, algorithm=algorithm, seeds=seeds)
    cut = search(scores, k, *parameters, algorithm=algorithm, seeds=seeds, budget=budget)
    assert (cut.items_scored <= budget).all()
    for user in range(len(scores)):
        if full.items_scored[user] <= budget:
            assert not cut.stopped[user]
            assert cut.item_ids[user].tolist() == full.item_ids[user].tolist()
        else:
            assert cut.stopped[user] == 1
            assert cut.items_scored[user] == budget
            own = dict(
                zip(graph.ids.tolist(), np.where(np.isnan(scores[user]), -np.inf, scores[user]).tolist(), strict=True)
            )
            answered = [item for item in cut.item_ids[user].tolist() if item != -1]
            assert len(answered) <= min(budget, k)
            assert cut.scores[user][: len(answered)].tolist() == [own[item] for item in answered]


def test_at_the_deadline_the_best_so_far_is_the_answer(tmp_path):
    """The graph is a ring, walked one item per step; the first batch alone takes longer than the deadline."""

    def slowly(user, items):
        def wait(scores):
            time.sleep(1.1)
            return scores

        return tf.ensure_shape(tf.numpy_function(wait, [table_score(user, items)], tf.float32), [1, None])

    graph = Graph(np.arange(9), [0], [[[(i + 1) % 9] for i in range(9)]])
    search = Searcher(tmp_path, slowly).open(graph)
    scores = np.arange(9, dtype=np.float32)[None]
    found = search(scores, 3, [1, 9], [1000], algorithm="best_first", seeds=np.array([[4, 2]]), deadline_ms=1000)
    assert found.stopped.tolist() == [2]
    assert found.item_ids.tolist() == [[4, 2, -1]]
    assert found.items_scored.tolist() == [2]
