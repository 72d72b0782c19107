"""What a request of the surrogate search may hold, and what is refused with a message that says what is allowed."""

import dataclasses
import re
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.conftest import table_embeddings, table_score
from tests.ops.surrogates import Request, Surrogates, random_world
from tfserving_ext import ops

InvalidArgumentError = tf.errors.InvalidArgumentError
N, USERS = 600, 12
REQUEST = Request(k=20, frontier=4, pool=20, batch=16)


@pytest.fixture(scope="module")
def world():
    return random_world(np.random.default_rng(3), N, 12)


@pytest.fixture(scope="module")
def scores(world) -> np.ndarray:
    """Scores that the features tell up to some noise, float32 [USERS, N]."""
    rng = np.random.default_rng(4)
    told = np.tanh(world.features @ rng.normal(size=[world.features.shape[1], USERS]) / 64)
    return (told.T + 0.1 * rng.normal(size=[USERS, N])).astype(np.float32)


@pytest.fixture(scope="module")
def search(world, tmp_path_factory) -> Surrogates:
    return Surrogates(tmp_path_factory.mktemp("requests"), N).open(world)


def timeless(answer: tuple[ops.SearchResult, ops.SurrogateStatistics]) -> list[np.ndarray]:
    """Returns the outputs in which two equal searches must agree."""
    found, statistics = answer
    return [part for name, part in found._asdict().items() if not name.endswith("_us")] + list(statistics)


def assert_same(answer, wanted, users=slice(None)) -> None:
    for part, other in zip(timeless(answer), timeless(wanted), strict=True):
        np.testing.assert_array_equal(part, other[users])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 0, allowed are 1 to 1000000"),
        ({"k": -2}, "k is -2, allowed are 1 to 1000000"),
        ({"k": 1_000_001}, "k is 1000001, allowed are 1 to 1000000"),
        ({"frontier": 0}, "frontier is 0, allowed are 1 to 1000000"),
        ({"frontier": 1_000_001}, "frontier is 1000001, allowed are 1 to 1000000"),
        ({"pool": 0}, "pool is 0, allowed are 1 to 1000000"),
        ({"pool": -(2**31)}, "pool is -2147483648, allowed are 1 to 1000000"),
        ({"pool": 2**31 - 1}, "pool is 2147483647, allowed are 1 to 1000000"),
        ({"max_steps": -1}, "max_steps is -1, allowed are 1 to 10000, and 0 for no limit"),
        ({"max_steps": 10_001}, "max_steps is 10001, allowed are 1 to 10000, and 0 for no limit"),
        ({"batch": 0}, "batch is 0, allowed are 1 to 1000000"),
        ({"batch": -1}, "batch is -1, allowed are 1 to 1000000"),
        ({"batch": 1_000_001}, "batch is 1000001, allowed are 1 to 1000000"),
        *(
            (
                {"expected_coverage": value},
                f"expected_coverage is {value}, allowed are numbers below 1 and at least -100",
            )
            for value in (-101.0, 1.0, 2.0, np.nan, np.inf)
        ),
        ({"budget": -1}, "budget is -1 and deadline_ms is 0, allowed are 0 (no limit) and above"),
    ],
)
def test_values_out_of_range(search, scores, change, message):
    message = message.replace(".0,", ",")  # As C++ writes whole numbers.
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        search(scores[:1], dataclasses.replace(REQUEST, **change))


def test_the_limits_themselves_are_allowed(search, scores):
    widest = Request(k=1_000_000, frontier=1_000_000, pool=1_000_000, max_steps=10_000, batch=1_000_000)
    found, statistics = search(scores[:1], widest)
    reached = found.item_ids[0] != -1
    assert reached.sum() == statistics.candidates[0] == found.items_scored[0]
    narrowest = Request(k=1, frontier=1, pool=1, max_steps=1, batch=1, expected_coverage=-100.0)
    assert search(scores[:1], narrowest)[0].item_ids.shape == (1, 1)


def test_an_index_without_features_is_refused(world, scores, tmp_path):
    plain = Surrogates(tmp_path, N)
    ops.index_open(plain.index, world.graph.write(tmp_path, table_embeddings(N)), dim=2)
    with pytest.raises(InvalidArgumentError, match="the index has no features, which the surrogate search needs"):
        plain(scores[:1], REQUEST)
    assert (plain.best_first(scores[:1], REQUEST).item_ids != -1).all()


def test_an_answer_does_not_depend_on_batch_mates(search, scores):
    together = search(scores, REQUEST)
    assert len({tuple(row) for row in together[0].item_ids.tolist()}) == USERS
    for order in (np.arange(USERS)[::-1], np.array([3]), np.array([7, 3, 3])):
        assert_same(search(scores[order], REQUEST), together, order)


def test_repeated_and_unknown_seeds_have_no_effect(search, scores, world):
    seeds = world.graph.ids[[30, 40, 50]].tolist()
    once = search(scores, dataclasses.replace(REQUEST, seeds=seeds))
    often = search(scores, dataclasses.replace(REQUEST, seeds=seeds[::-1] * 60 + [-1, 5, 2**62]))
    assert (often[0].unknown_ids == 3).all()
    assert_same((often[0]._replace(unknown_ids=once[0].unknown_ids), often[1]), once)


def test_unknown_seeds_alone_are_none(search, scores):
    unknown = search(scores, dataclasses.replace(REQUEST, seeds=[-1]))
    none = search(scores, REQUEST)
    assert_same((unknown[0]._replace(unknown_ids=none[0].unknown_ids), unknown[1]), none)


@pytest.mark.parametrize("seeded", [True, False])
def test_excluded_items_are_walked_through_and_take_no_room(search, scores, world, seeded):
    seeds = world.graph.ids[30:60] if seeded else ()
    free, _ = search(scores, dataclasses.replace(REQUEST, seeds=seeds))
    best = free.item_ids[:, :10]
    found, _ = search(scores, dataclasses.replace(REQUEST, seeds=seeds, exclude=best))
    assert (found.item_ids != -1).all()
    for answer, excluded, others in zip(found.item_ids, best, free.item_ids[:, 10:], strict=True):
        assert not np.isin(answer, excluded).any()
        assert np.isin(others, answer).mean() > 0.7


@pytest.mark.parametrize("budget", [1, 25, 40, 70])
def test_a_budget_bounds_the_evaluations(search, scores, budget):
    found, statistics = search(scores, dataclasses.replace(REQUEST, budget=budget))
    full, _ = search(scores, REQUEST)
    assert (found.items_scored == np.minimum(full.items_scored, budget)).all()
    assert (found.stopped == (full.items_scored > budget)).all()
    assert (found.stopped == 1).any()
    assert ((found.item_ids != -1).sum(axis=1) == np.minimum(budget, REQUEST.k)).all()
    assert ((statistics.estimated_coverage >= -100) & (statistics.estimated_coverage <= 1)).all()
    complete = found.stopped == 0
    assert (statistics.estimated_coverage[complete & ~statistics.fell_back] >= np.float32(0.9)).all()


def test_after_max_steps_the_best_so_far_is_the_answer(search, scores, world):
    """A step of the ground layer scores a batch; the entry is no step."""
    seeds = world.graph.ids[30:60]
    full, _ = search(scores, dataclasses.replace(REQUEST, seeds=seeds))
    for steps in (1, 2):
        found, _ = search(scores, dataclasses.replace(REQUEST, seeds=seeds, max_steps=steps))
        cut = full.rounds > steps + 1
        assert cut.any()
        assert (found.stopped == 3 * cut).all()
        assert (found.items_scored[cut] == 30 + steps * REQUEST.batch).all()


@pytest.mark.medium
def test_at_the_deadline_the_best_so_far_is_the_answer(world, tmp_path):
    """The batch of the seeds alone takes longer than the deadline."""

    def slowly(user, items):
        def wait(scores):
            time.sleep(1.1)
            return scores

        return tf.ensure_shape(tf.numpy_function(wait, [table_score(user, items)], tf.float32), [1, None])

    search = Surrogates(tmp_path, N).open(world)
    user = tf.constant(np.arange(N, dtype=np.float32)[None])
    scorer = ops.trace_scorer(slowly, [user], 2)
    seeds = world.graph.ids[[[4, 2, 9]]]
    found, statistics = ops.surrogate_search(
        search.index, [user], scorer, k=2, frontier=1, pool=2, seeds=seeds, deadline_ms=1000
    )
    assert found.stopped.numpy().tolist() == [2]
    assert found.item_ids.numpy().tolist() == [world.graph.ids[[9, 4]].tolist()]
    assert found.items_scored.numpy().tolist() == [3]
    assert statistics.estimated_coverage.numpy().tolist() == [-100]


def test_an_item_without_a_score_is_walked_through(search, world):
    """Only the seed is NaN; there is nothing to learn from, so that best-first takes over."""
    scores = np.random.default_rng(1).normal(size=[1, N]).astype(np.float32)
    scores[0, 17] = np.nan
    request = dataclasses.replace(REQUEST, seeds=world.graph.ids[[17]])
    found, statistics = search(scores, request)
    assert found.nan_scores.tolist() == [1]
    assert statistics.fell_back.tolist() == [True]
    assert found.item_ids.tolist() == search.best_first(scores, request).item_ids.tolist()
    assert (found.item_ids != -1).all()


@pytest.mark.parametrize("k", [1, 20, 700])
def test_every_answer_is_full_and_in_order(search, scores, world, k):
    """The items are linked, so that all are reached if the answer has room for all."""
    found, _ = search(scores, dataclasses.replace(REQUEST, k=k))
    wanted = min(k, len(reachable(world)))
    assert ((found.item_ids != -1).sum(axis=1) == wanted).all()
    places = {item: place for place, item in enumerate(world.graph.ids.tolist())}
    for row, ids, values in zip(scores, found.item_ids[:, :wanted].tolist(), found.scores[:, :wanted], strict=True):
        assert len(set(ids)) == wanted
        assert values.tolist() == [row[places[item]] for item in ids]
        assert (np.diff(values) <= 0).all()


def reachable(world) -> set[int]:
    """Returns the items that a walk from the entry points reaches in the ground layer."""
    met, left = set(world.graph.entry_points), list(world.graph.entry_points)
    while left:
        new = set(world.graph.layers[0][left.pop()]) - met
        met |= new
        left += new
    return met
