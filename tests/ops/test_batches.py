"""The answer for a user does not depend on other users, nor an item's score on its batch."""

import time

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.conftest import ITEMS, Searcher, table_score, timeless
from tests.ops.reference import Graph
from tfserving_ext.ops import DEFAULT_BATCH_SIZES

PARAMETERS = {
    "rounds": {"ef": [3, 4, 6], "rounds": [1, 2, 3]},
    "deployed": {"ef": [3, 4, 5, 4, 3], "algorithm": "deployed"},
    "best_first": {"ef": [3, 6], "rounds": [9], "algorithm": "best_first"},
    "surrogate": {"ef": [3, 6], "rounds": [9, 2], "algorithm": "surrogate"},
}


def random_graph(seed: int, n: int = 40, degree: int = 4) -> Graph:
    rng = np.random.default_rng(seed)
    layers = [[rng.integers(0, n, degree).tolist() for _ in range(n)] for _ in range(2)]
    return Graph(rng.permutation(n) + 1000, rng.integers(0, n, 5).tolist(), layers)


def chain(n: int, start: int = 3) -> Graph:
    """Makes a graph in which each round meets one more item; the first `start` items are the entry points."""
    return Graph(np.arange(n) + 100, list(range(start)), [[[i + 1] if i + 1 < n else [] for i in range(n)]])


@pytest.mark.parametrize("algorithm", PARAMETERS)
def test_an_answer_does_not_depend_on_batch_mates(searcher, algorithm):
    """It does not depend on the place in the batch either: the first user's tensors are views, the others' copies."""
    searcher.open(random_graph(0))
    rng = np.random.default_rng(1)
    scores = rng.integers(-5, 6, [64, 40]).astype(np.float32)
    together = searcher(scores, 7, **PARAMETERS[algorithm])
    assert len({tuple(row) for row in together.item_ids.tolist()}) > 32
    for order in (np.arange(64)[::-1], rng.permutation(64)[:9]):
        found = searcher(scores[order], 7, **PARAMETERS[algorithm])
        for part, whole in zip(timeless(found), timeless(together), strict=True):
            np.testing.assert_array_equal(part, whole[order])
    for user in range(64):
        alone = searcher(scores[user : user + 1], 7, **PARAMETERS[algorithm])
        for part, whole in zip(timeless(alone), timeless(together), strict=True):
            np.testing.assert_array_equal(part[0], whole[user])


@pytest.mark.parametrize("algorithm", PARAMETERS)
def test_each_user_has_exclusions_of_its_own(searcher, algorithm):
    searcher.open(random_graph(2))
    scores = np.tile(np.random.default_rng(3).normal(size=40).astype(np.float32), [3, 1])
    everything = searcher(scores[:1], 6, **PARAMETERS[algorithm]).item_ids[0]
    exclude = np.array([[-7, -7], [everything[0], -7], [everything[1], everything[0]]])
    found = searcher(scores, 5, **PARAMETERS[algorithm], exclude=exclude).item_ids
    assert found[0].tolist() == everything[:5].tolist()
    for user, excluded in enumerate(exclude):
        alone = searcher(scores[:1], 5, **PARAMETERS[algorithm], exclude=excluded[None]).item_ids
        assert found[user].tolist() == alone[0].tolist()
        assert not np.isin(found[user], [-1, *excluded]).any()
    assert everything[1] in found[1]


def test_an_excluded_item_is_walked_through(searcher):
    searcher.open(chain(6, start=1))
    scores = np.arange(6, dtype=np.float32)[None]
    found = searcher(scores, 6, [1, 6], [1, 9], np.array([[100, 101, 102, 103]]))
    assert found.item_ids.tolist() == [[105, 104, -1, -1, -1, -1]]
    assert found.items_scored.tolist() == [6]


@pytest.mark.parametrize("algorithm", PARAMETERS)
def test_the_grid_of_batch_sizes_does_not_show(searcher, algorithm):
    """Covers grids that split a round, that fit it, and that consist mostly of padding."""
    searcher.open(random_graph(4))
    scores = np.random.default_rng(5).integers(-5, 6, [16, 40]).astype(np.float32)
    expected = searcher(scores, 9, **PARAMETERS[algorithm], batch_sizes=DEFAULT_BATCH_SIZES)
    for grid in ((1,), (2,), (1, 2, 3, 5), (7,), (512,)):
        found = searcher(scores, 9, **PARAMETERS[algorithm], batch_sizes=grid)
        for part, whole in zip(timeless(found), timeless(expected), strict=True):
            np.testing.assert_array_equal(part, whole)


def test_scores_of_padding_rows_are_never_read(tmp_path):
    """The grid has one size, 4: the batch of three entry points has one row of padding, later batches have three."""
    seen = []

    def score(user, items):
        def note(items):
            seen.append(items[0, :, 0].tolist())
            return items

        items = tf.ensure_shape(tf.numpy_function(note, [items], tf.float32), [1, None, 2])
        scores = tf.gather(user, tf.cast(items[..., 0], tf.int32), axis=1, batch_dims=1)
        first = tf.reduce_all(tf.equal(items[0, :3, 0], [1.0, 2.0, 3.0]))
        garbage = tf.range(tf.shape(items)[1]) >= tf.where(first, 3, 1)
        return tf.where(garbage[None], 1e30, scores)

    searcher = Searcher(tmp_path, score).open(chain(9))
    scores = np.random.default_rng(6).normal(size=[1, ITEMS]).astype(np.float32)
    found = searcher(scores, 9, [9, 9], [1, 20], batch_sizes=(4,))
    assert [len(batch) for batch in seen] == [4] * 7
    assert seen[0][:3] == [1, 2, 3]
    assert [batch[0] for batch in seen[1:]] == [4, 5, 6, 7, 8, 9]
    expected = sorted(range(9), key=lambda item: -scores[0, item + 1])
    assert found.item_ids[0].tolist() == [item + 100 for item in expected]
    assert found.items_scored.tolist() == [9]
    assert found.scores[0].tolist() == sorted(scores[0, 1:10].tolist(), reverse=True)


def test_a_round_above_the_largest_batch_size_is_split(tmp_path):
    sizes = []

    def score(user, items):
        def note(items):
            sizes.append(items.shape[1])
            return items[..., 0]

        return tf.ensure_shape(tf.numpy_function(note, [items], tf.float32), [1, None])

    searcher = Searcher(tmp_path, score).open(chain(30, start=25))
    found = searcher(np.zeros([1, 1], np.float32), 3, [25, 30], [1, 1], batch_sizes=(4, 10))
    assert sizes == [10, 10, 10, 4]
    assert found.item_ids.tolist() == [[125, 124, 123]]


@pytest.mark.parametrize(
    ("items", "wanted"), [(3, [4]), (4, [4]), (5, [10]), (10, [10]), (14, [10, 4]), (20, [10, 10]), (21, [10, 10, 4])]
)
def test_a_batch_of_exactly_a_grid_size_is_not_padded(tmp_path, items, wanted):
    """Each batch is padded to the smallest size that holds it, which may be its own size. First contact, line 27."""
    sizes = []

    def score(user, items):
        def note(items):
            sizes.append(items.shape[1])
            return items[..., 0]

        return tf.ensure_shape(tf.numpy_function(note, [items], tf.float32), [1, None])

    searcher = Searcher(tmp_path, score).open(Graph(np.arange(items), list(range(items)), [[[]] * items]))
    searcher(np.zeros([1, 1], np.float32), 3, [items, items], [1, 1], batch_sizes=(4, 10))
    assert sizes == wanted


def test_the_error_reported_is_the_one_that_cancelled_the_other_searches(tmp_path):
    """One user's error cancels the other users' searches, which then end before the failing call does.

    The failing call waits for work in another thread; the searches of the others do not.

    First contact, line 27.
    """

    def wait(user):
        time.sleep(0.5 if user[0, 0] == 9 else 0)
        return user

    @tf.nondifferentiable_batch_function(
        num_batch_threads=16, max_batch_size=1, batch_timeout_micros=0, max_enqueued_batches=100
    )
    def on_another_thread(user):
        return tf.ensure_shape(tf.numpy_function(wait, [user], tf.float32), [None, ITEMS])

    def score(user, items):
        begun = on_another_thread(user)
        later = tf.numpy_function(lambda user: user, [user], tf.float32)  # By then, the other thread has begun.
        with tf.control_dependencies([tf.debugging.Assert(later[0, 0] != 9, ["this user is refused"])]):
            return table_score(tf.ensure_shape(begun, [1, ITEMS]), items)

    searcher = Searcher(tmp_path, score).open(chain(30))
    users = np.zeros([16, ITEMS], np.float32)
    users[0, 0] = 9
    with pytest.raises(tf.errors.InvalidArgumentError, match="this user is refused"):
        searcher(users, 3, [3, 30], [1, 30], batch_sizes=(4,))


def test_no_users_are_an_empty_answer(searcher):
    searcher.open(random_graph(7))
    found = searcher(np.zeros([0, 40], np.float32), 4, **PARAMETERS["rounds"])
    assert [part.shape for part in found] == [(0, 4), (0, 4), *[(0,)] * 11]


def test_an_item_is_evaluated_once_and_met_in_every_layer(tmp_path):
    """Item 1 falls out of the beam above the ground layer, is met again in it, and belongs to the answer there."""
    evaluated = []

    def score(user, items):
        def note(user, items):
            evaluated.extend(items[0, :, 0].astype(int).tolist())
            return user[:, items[0, :, 0].astype(int) - 1]

        return tf.ensure_shape(tf.numpy_function(note, [user, items], tf.float32), [1, None])

    upper = [[1, 2], [], [], []]
    ground = [[], [], [1, 3], []]
    searcher = Searcher(tmp_path, score).open(Graph(np.array([10, 11, 12, 13]), [0], [ground, upper]))
    found = searcher(np.array([[1, 2, 3, 0]], np.float32), 4, [1, 1, 3], [1, 1, 1], batch_sizes=(1,))
    assert found.item_ids.tolist() == [[12, 11, 13, -1]]
    assert evaluated == [1, 2, 3, 4]
    assert (found.items_scored.tolist(), found.rounds.tolist()) == ([4], [3])


@pytest.mark.parametrize("algorithm", ["rounds", "deployed", "best_first", "surrogate"])
def test_an_empty_index_has_empty_answers(tmp_path, algorithm):
    search = Searcher(tmp_path).open(Graph(np.zeros(0, np.int64), [], [[], []]))
    ef, rounds = {
        "rounds": ([3] * 3, [1] * 3),
        "deployed": ([3] * 4, ()),
        "best_first": ([2, 4], [9]),
        "surrogate": ([2, 4], [9, 2]),
    }[algorithm]
    found = search(np.zeros([2, 40], np.float32), 3, ef, rounds, algorithm=algorithm, seeds=np.array([[1], [2]]))
    assert found.item_ids.tolist() == [[-1] * 3] * 2
    assert found.items_scored.tolist() == [0, 0]
    assert found.unknown_ids.tolist() == [1, 1]


def test_a_hundred_thousand_exclusions(searcher):
    graph = random_graph(7)
    searcher.open(graph)
    users = np.zeros([2, 40], np.float32)
    free = searcher(users, 40, [40] * (len(graph.layers) + 1), [1, *[9] * len(graph.layers)])
    reached = [item for item in free.item_ids[0].tolist() if item != -1]
    strangers = np.arange(100_000 - len(reached) + 1) + 10**12
    exclude = np.tile(np.concatenate([strangers, reached[1:]]), [2, 1])
    found = searcher(users, 3, [40] * (len(graph.layers) + 1), [1, *[9] * len(graph.layers)], exclude)
    assert exclude.shape[1] == 100_000
    assert found.item_ids.tolist() == [[reached[0], -1, -1]] * 2
    assert found.unknown_ids.tolist() == [len(strangers)] * 2
