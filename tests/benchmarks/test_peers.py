"""Peers that need no other library than TensorFlow, compared with brute force and with our own op."""

import numpy as np
import pytest

from benchmarks.search.peers.brute_force import BruteForce
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
