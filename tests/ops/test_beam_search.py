"""The searches against the reference, number for number, on random graphs."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ops.reference import Answer, Graph, deployed_search, rounds_search
from tfserving_ext.ops import DEFAULT_BATCH_SIZES, SearchResult

GRIDS = ((1,), (3, 16), DEFAULT_BATCH_SIZES)
SCORES = {
    "ties": [-1, 0, 1],
    "integers": list(range(-9, 10)),
    "no numbers": [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0],
    "wide": [-3e38, -1e-30, 0, 1e-30, 1e-3, 0.5, 2, 3e38],  # No subnormal numbers: TensorFlow flushes them to 0.
    "nothing": [np.nan, -np.inf],
}
many = settings(
    max_examples=800, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """1 to 40 items in 1 to 4 layers: empty rows, self loops, duplicates, islands, entry points given twice."""
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
def requests(draw: st.DrawFn) -> tuple[Graph, np.ndarray, int, np.ndarray]:
    """A graph, scores [B, n], k and exclusions [B, x]: own ids, unknown ones and repeated ones."""
    graph = draw(graphs())
    users = draw(st.integers(1, 4), label="users")
    rng = np.random.default_rng(draw(st.integers(0, 2**32), label="scores"))
    values = SCORES[draw(st.sampled_from(sorted(SCORES)), label="kind of scores")]
    scores = rng.choice(np.array(values, np.float32), [users, len(graph)])
    excluded = draw(st.sampled_from([0, 0, 1, 5]), label="excluded")
    exclude = rng.choice(np.concatenate([graph.ids, [-1, 4, 2**62]]), [users, excluded])
    return graph, scores, draw(st.integers(1, len(graph) + 3), label="k"), exclude


def widths(n: int) -> st.SearchStrategy[int]:
    """Beams, narrow ones and ones wider than the corpus."""
    return st.integers(1, 4) | st.integers(1, n + 3)


def check(found: SearchResult, expected: list[Answer]) -> None:
    assert found.item_ids.tolist() == [answer.ids for answer in expected]
    assert found.scores.tolist() == [answer.scores for answer in expected]
    assert found.items_scored.tolist() == [answer.items_scored for answer in expected]
    assert found.rounds.tolist() == [answer.rounds for answer in expected]


@many
@given(data=st.data(), request=requests(), grid=st.sampled_from(GRIDS))
def test_rounds_search_is_algorithm_2(searcher, data, request, grid):
    graph, scores, k, exclude = request
    layers = len(graph.layers)
    ef = data.draw(st.lists(widths(len(graph)), min_size=layers + 1, max_size=layers + 1), label="ef")
    rounds = [1, *data.draw(st.lists(st.integers(1, 4), min_size=layers, max_size=layers), label="rounds")]
    found = searcher.open(graph)(scores, k, ef, rounds, exclude, batch_sizes=grid)
    check(found, [rounds_search(graph, *user) for user in _users(scores, exclude, k, ef, rounds)])


@many
@given(data=st.data(), request=requests(), grid=st.sampled_from(GRIDS))
def test_deployed_search_is_the_original_s_deployed_graph(searcher, data, request, grid):
    graph, scores, k, exclude = request
    layers = len(graph.layers)
    level_topn = data.draw(st.lists(widths(len(graph)), min_size=layers + 1, max_size=layers + 4), label="level_topn")
    found = searcher.open(graph)(scores, k, level_topn, (), exclude, "deployed", grid)
    check(found, [deployed_search(graph, *user) for user in _users(scores, exclude, k, level_topn)])


def _users(scores, exclude, k, *parameters):
    return [(row, k, *parameters, excluded.tolist()) for row, excluded in zip(scores, exclude, strict=True)]
