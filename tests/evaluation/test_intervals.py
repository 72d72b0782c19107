import numpy as np
import pytest

from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.intervals import Bootstrap


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says():
    """Users differ, but a user's own cases hardly do, so that intervals over cases alone would be far too narrow."""
    rng = np.random.default_rng(0)
    users, cases, held, narrow = 60, 8, 0, 0
    user_ids = np.repeat(np.arange(users), cases)
    for _ in range(200):
        values = np.repeat(rng.normal(3.0, 1.0, users), cases) + rng.normal(0.0, 0.1, users * cases)
        low, high = Bootstrap(user_ids, 300).interval(values)
        held += low <= 3.0 <= high
        low, high = Bootstrap(np.arange(len(values)), 300).interval(values)
        narrow += low <= 3.0 <= high
    assert 0.89 <= held / 200 <= 0.99
    assert narrow / 200 < 0.7


def test_a_paired_difference_has_the_width_of_the_closed_form():
    rng = np.random.default_rng(1)
    shared, own = rng.normal(size=2000), rng.normal(scale=0.1, size=2000)
    difference, (low, high) = Bootstrap(np.arange(2000), 2000).difference(shared + own + 0.05, shared)
    assert difference == pytest.approx(0.05 + own.mean())
    half = 1.96 * own.std(ddof=1) / np.sqrt(2000)
    assert (low, high) == pytest.approx((difference - half, difference + half), abs=0.1 * half)


def test_what_is_the_same_in_every_user_has_no_width():
    values = np.arange(12.0)
    difference, interval = Bootstrap(np.arange(12) % 5).difference(values + 2, values)
    assert difference == pytest.approx(2)
    assert interval == pytest.approx((2, 2))


def test_means_are_those_of_users_drawn_with_all_their_cases():
    """Compares with means computed by hand from the documented draws."""
    user_ids = np.array([7, 7, 7, 3, 9, 9])
    values = np.array([1.0, 0.0, 1.0, 5.0, 2.0, 4.0])
    bootstrap = Bootstrap(user_ids, 40, seed=3)
    draws = np.random.default_rng(3).integers(3, size=(40, 3))
    by_user = {0: [5.0], 1: [1.0, 0.0, 1.0], 2: [2.0, 4.0]}
    wanted = [np.mean([value for user in row for value in by_user[user]]) for row in draws]
    np.testing.assert_allclose(bootstrap.means(values), wanted)
    per_user = np.array([5.0, 2 / 3, 3.0])
    np.testing.assert_allclose(bootstrap.by_user(values), per_user)
    np.testing.assert_allclose(bootstrap.user_percentiles(values, 5), np.percentile(per_user[draws], 5, axis=1))


def test_many_users_are_drawn_in_parts_that_add_up(monkeypatch):
    user_ids, values = np.arange(50) % 11, np.random.default_rng(0).random(50)
    whole = Bootstrap(user_ids, 30).means(values)
    monkeypatch.setattr("tfserving_ext.evaluation.intervals._AT_ONCE", 25)
    np.testing.assert_allclose(Bootstrap(user_ids, 30).means(values), whole)


def test_bad_input():
    for arguments, words in [
        ((np.zeros(0, np.int64),), "no cases"),
        ((np.zeros(3), 0), "resamples is 0; it must be 1 or more"),
        ((np.zeros(3), 10, 0, 1.0), "level is 1.0; it must be between 0 and 1"),
    ]:
        with pytest.raises(NannError, match=words):
            Bootstrap(*arguments)
