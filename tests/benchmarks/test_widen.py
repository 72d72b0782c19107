import numpy as np
import pytest

from benchmarks.search.widen import JITTER, widen
from tfserving_ext.errors import NannError

REAL = np.array([[0, 0, 0, 0], [10, 0, 0, 0], [0, 10, 0, 0], [99, 99, 99, 99]], np.float32)
ROW_SPLITS, NEIGHBORS = np.array([0, 1, 3, 4, 4]), np.array([1, 0, 2, 1], np.int32)


def test_made_items_lie_near_segments_between_neighbours():
    made = widen(REAL, ROW_SPLITS, NEIGHBORS, 3000, seed=1)
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[:4], REAL)
    # Every point on the two segments has x + y in 0..10, and z and w come only from noise.
    x, y, z, w = made[4:].T
    far = 6 * JITTER * np.sqrt(200) / 2
    assert (np.abs([z, w]) < far).all()
    assert (x > -far).all() and (y > -far).all() and (x + y < 10 + 2 * far).all()
    # Item 3 has no neighbour, so no item is made near it. Items are drawn on both segments.
    assert (y > 3).mean() > 0.2 and (np.abs(y) < 1).mean() > 0.2


def test_the_same_seed_makes_the_same_items():
    first, again, other = (widen(REAL, ROW_SPLITS, NEIGHBORS, 50, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(NannError, match=r"items is 3, allowed are 4 \(the real ones\) and above"):
        widen(REAL, ROW_SPLITS, NEIGHBORS, 3)
    with pytest.raises(NannError, match="no item has a neighbour"):
        widen(REAL, np.zeros(5, np.int64), NEIGHBORS[:0], 9)
