"""The parts of a search's time. They are compared with each other within one run, never with a clock.

The least time of each part over several runs counts, because other work on the machine can only make runs longer.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.reference import Graph
from tests.ops.searching import any_search
from tfserving_ext import ops

N, DIM, K = 3000, 8, 100
RUNS = 5
SEARCHES = {
    "rounds": ([20, 60, 120], [1, 1, 4]),
    "deployed": ([20, 60, 120, 120, 120], []),
    "best_first": ([16, K], [50]),
}
PARTS = ("walk", "gather", "scorer", "merge")


def dot(user: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    return tf.linalg.matvec(items[..., :DIM], user)


def slow_dot(user: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Returns the same scores after some hundred million multiply-adds per batch."""
    square = tf.fill([400, 400], user[0, 0] / 400)
    for _ in range(4):
        square = square @ square
    return dot(user, items) + 0 * square[0, 0]


def parts_of(found: ops.SearchResult) -> np.ndarray:
    """Returns microseconds [4, B], in the order of PARTS."""
    gather, scorer, merge = (part.numpy() for part in (found.gather_us, found.scorer_us, found.merge_us))
    return np.stack([found.search_us.numpy() - gather - scorer - merge, gather, scorer, merge])


def least(search: Callable[[], ops.SearchResult]) -> dict[str, int]:
    """Returns the parts of one user's search."""
    found = np.min([parts_of(search())[:, 0] for _ in range(RUNS)], axis=0)
    return dict(zip(PARTS, found.tolist(), strict=True))


def only_one_grew(name: str, before: dict[str, int], after: dict[str, int], times: float = 3) -> None:
    """Checks that one part grew by more than `times` as much as all others together."""
    grew = {part: max(after[part] - before[part], 0) for part in PARTS}
    assert grew[name] > times * (sum(grew.values()) - grew[name]), (before, after)


@pytest.fixture(scope="module")
def graph() -> Graph:
    rng = np.random.default_rng(5)
    layers = [rng.integers(0, N, [N, 12]).tolist(), rng.integers(0, N, [N, 6]).tolist()]
    return Graph(rng.permutation(N) + 500, rng.choice(N, 30, replace=False).tolist(), layers)


@pytest.fixture(scope="module")
def users() -> tf.Tensor:
    return tf.constant(np.random.default_rng(6).normal(size=[3, DIM]).astype(np.float32))


def opened(folder, graph: Graph, width: int = DIM) -> tf.Tensor:
    rows = np.random.default_rng(7).normal(size=[len(graph), DIM]).astype(np.float32)
    handle = ops.index_handle(shared_name=f"trace_{folder}")
    ops.index_open(handle, graph.write(folder, np.pad(rows, [[0, 0], [0, width - DIM]])), dim=width)
    return handle


@pytest.fixture(scope="module")
def index(graph, tmp_path_factory) -> tf.Tensor:
    return opened(tmp_path_factory.mktemp("trace"), graph)


def searching(
    index: tf.Tensor,
    users: tf.Tensor,
    score: Callable[..., tf.Tensor],
    algorithm: str,
    parameters: tuple[Sequence[int], Sequence[int]] | None = None,
    k: int = K,
    width: int = DIM,
) -> Callable[[], ops.SearchResult]:
    ef, rounds = parameters or SEARCHES[algorithm]

    @tf.function
    def search() -> ops.SearchResult:
        return any_search(index, [users], score, width, k, ef, rounds, algorithm=algorithm, rewrite=False)

    return search


@pytest.mark.parametrize("algorithm", SEARCHES)
def test_the_parts_are_no_more_than_the_search(index, users, algorithm):
    search = searching(index, users, dot, algorithm)
    for _ in range(RUNS):
        found = search()
        assert (parts_of(found) >= 0).all()
        assert (found.scorer_us.numpy() > 0).all()
        assert found.search_us.shape == found.gather_us.shape == found.merge_us.shape == [3]


@pytest.mark.parametrize("algorithm", SEARCHES)
def test_a_slow_scorer_is_seen_in_the_scorer_alone(index, users, algorithm):
    fast, slow = (searching(index, users[:1], score, algorithm) for score in (dot, slow_dot))
    np.testing.assert_array_equal(fast().item_ids, slow().item_ids)
    only_one_grew("scorer", least(fast), least(slow))


@pytest.mark.parametrize("algorithm", SEARCHES)
def test_wide_rows_are_seen_in_gathering_alone(index, graph, users, tmp_path, algorithm):
    width = 8192
    wide = opened(tmp_path, graph, width)
    narrow = searching(index, users[:1], dot, algorithm)
    broad = searching(wide, users[:1], dot, algorithm, width=width)
    np.testing.assert_array_equal(narrow().item_ids, broad().item_ids)
    only_one_grew("gather", least(narrow), least(broad))


BEAMS = {
    "rounds": lambda width: ([width, width], [1, 1]),
    "deployed": lambda width: ([width, width], []),
    "best_first": lambda width: ([1, width], [1]),
}


@pytest.mark.parametrize("algorithm", SEARCHES)
@pytest.mark.parametrize("metric", [False, True])
def test_a_wide_beam_is_seen_in_merging_alone(users, tmp_path, algorithm, metric):
    """All items are entry points without neighbours, so that only the number of items kept differs."""
    n = 100_000
    index = opened(tmp_path, Graph(np.arange(n), list(range(n)), [[[]] * n]))

    def search(width: int) -> Callable[[], ops.SearchResult]:
        parameters = BEAMS[algorithm](width)
        if metric:
            return lambda: any_search(index, [users[:1]], "dot", DIM, width, *parameters, algorithm=algorithm)
        return searching(index, users[:1], dot, algorithm, parameters, k=width)

    only_one_grew("merge", least(search(10)), least(search(n)), times=2)


def test_a_metric_is_a_part_of_the_walk(index, users):
    for algorithm, (ef, rounds) in SEARCHES.items():
        found = any_search(index, [users], "dot", DIM, K, ef, rounds, algorithm=algorithm)
        walk, gather, scorer, merge = parts_of(found)
        assert not gather.any()
        assert not scorer.any()
        assert (walk > 0).all()
        assert (merge >= 0).all()
