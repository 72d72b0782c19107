"""Peers that need no other library than TensorFlow, compared with brute force and with our own op."""

import numpy as np
import pytest

from benchmarks.search.peers.brute_force import BruteForce
from benchmarks.search.peers.guitar import Guitar, Walk, promising
from benchmarks.search.peers.no_residuals import NoResiduals
from benchmarks.search.peers.ours import BestFirst, Rounds, Surrogate
from benchmarks.search.peers.tensorflow_ops import TensorFlowOps
from tfserving_ext.retrieval import coverage


def same(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Checks that two answers are the same sets, except for a tie at the end that rounding may break either way."""
    return coverage(found, wanted).mean() > 0.99


@pytest.mark.parametrize("setting", BruteForce.settings)
def test_brute_force_is_exact(workload, setting):
    """600 items do not fill whole chunks, and the padding must not be answered."""
    assert same(BruteForce(workload)(0, 24, setting), workload.exact)


@pytest.mark.parametrize("setting", TensorFlowOps.settings[1:4])
def test_rounds_in_tensorflows_ops_are_those_of_our_op(workload, setting):
    found = TensorFlowOps(workload)(3, 24, setting)
    assert same(found, Rounds(workload)(3, 24, setting))


def test_a_narrow_walk_is_the_same_narrow_walk(workload):
    """Wide beams find everything in a small corpus; with narrow ones, both must miss the same items."""
    setting = ((3, 4, 20), (1, 1, 1))
    found, ours = TensorFlowOps(workload)(0, 24, setting), Rounds(workload)(0, 24, setting)
    assert same(found, ours)
    assert coverage(ours, workload.exact).mean() < 0.9


def test_best_first_is_seeded_with_the_history(workload):
    found = BestFirst(workload)(0, 24, (16, 200, 1000))
    assert coverage(found, workload.exact).mean() > 0.98


def test_the_surrogate_search_is_seeded_with_the_history(workload):
    search = Surrogate(workload)
    assert coverage(search(0, 24, (64, 0.9)), workload.exact).mean() > 0.98
    scored = {setting: search.search(0, 24, setting).items_scored.numpy().mean() for setting in search.settings[:2]}
    assert scored[64, 0.1] < scored[64, 0.9]


@pytest.fixture(scope="module")
def guitar(workload) -> Guitar:
    return Guitar(workload.first(6))


def test_gradient_pruning_that_prunes_nothing_is_our_best_first_search(workload, guitar):
    found, scored = BestFirst(workload).counted(0, 6, (16, 200, 1000))
    walks = guitar.walks["share", 1.0, 16]
    assert [walk.evaluated for walk in walks] == scored.tolist()
    assert same(guitar.counted(0, 6, ("share", 1.0, 16))[0], found)
    assert min(walk.gradients for walk in walks) >= 200  # All of the pool is expanded, and what it held before.


def test_gradient_pruning_evaluates_less_and_gradients_count(guitar):
    walks = [guitar.walks["alpha", amount, 16] for amount in (1.03, 1.1)]
    narrow, wide = (np.mean([walk.evaluated for walk in each]) for each in walks)
    assert narrow < wide
    assert guitar.counted(2, 3, ("alpha", 1.1, 16))[1] == walks[1][2].evaluated + 2 * walks[1][2].gradients


def test_what_is_timed_scores_as_many_items_as_the_walks_cost(guitar, monkeypatch):
    setting = ("alpha", 1.05, 16)
    walks = [Walk(np.arange(20), evaluated, 30, 2) for evaluated in range(100, 106)]
    monkeypatch.setitem(guitar.walks, setting, walks)
    assert guitar.score_as_many(1, 5, setting).tolist() == [162] * 4
    np.testing.assert_array_equal(guitar(1, 5, setting)[2], guitar.counted(3, 4, setting)[0][0])


def test_neighbours_are_chosen_by_their_angle_to_the_gradient():
    gradient = np.array([2.0, 0.0])
    degrees = np.radians([90, 10, 180, 12, -30])
    ways = np.array([5, 0.1, 1, 3, 9])[:, None] * np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    assert promising(gradient, ways, ("alpha", 1.3, 16)).tolist() == [1, 3]
    assert promising(gradient, ways, ("alpha", 3.1, 16)).tolist() == [1, 3, 4]
    assert promising(gradient, ways, ("share", 0.5, 16)).tolist() == [1, 3, 4]
    assert promising(gradient, ways[:0], ("share", 0.5, 16)).tolist() == []


def test_without_residuals_the_fit_alone_predicts(workload):
    """The distances along edges are all that says how much a neighbour's error counts."""
    plain, alone = Surrogate(workload), NoResiduals(workload)
    assert alone.counted(0, 24, (64, 0.9))[1].tolist() != plain.counted(0, 24, (64, 0.9))[1].tolist()
    assert coverage(alone(0, 24, (64, 0.98)), workload.exact).mean() > 0.9
