"""The intervals of `nann bench`, compared with theory for loads of known spread. First contact, line 27."""

import numpy as np
import pytest

from tfserving_ext.loadtest.recorder import Second, intervals, to_window

SECONDS, RATE, SIGMA = 40, 400, 0.5
DRAWS = 60


def load(rng, rates=None):
    """Makes windows of a Poisson load with independent log-normal latencies, whose median is 5 ms."""
    windows = []
    for begin in range(SECONDS):
        second = Second(float(begin))
        second.answered = int(rng.poisson(RATE if rates is None else rates[begin]))
        second.sent[0] = second.answered
        second.latencies[0] = (5000 * np.exp(SIGMA * rng.normal(size=second.answered))).astype(np.int64)
        windows.append(to_window(second))
    return windows


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(1)
    return [intervals(load(rng), [50.0, 99.0]) for _ in range(DRAWS)]


def coverage(spans, true):
    return np.mean([low <= true <= high for low, high in spans])


@pytest.mark.medium
def test_the_interval_of_throughput_is_as_wide_as_theory_says(found):
    """The mean of n Poisson counts has the standard deviation sqrt(rate / n); 95 % are within 1.96 of these."""
    spans = np.array([each["per_second"] for each in found])
    width = (spans[:, 1] - spans[:, 0]).mean()
    assert width == pytest.approx(2 * 1.96 * np.sqrt(RATE / SECONDS), rel=0.1)
    assert 0.86 <= coverage(spans, RATE) <= 1


@pytest.mark.parametrize(("percent", "z", "density"), [(50.0, 0.0, 0.3989), (99.0, 2.3263, 0.02665)])
def test_the_interval_of_a_percentile_is_as_wide_as_theory_says(found, percent, z, density):
    """A quantile of n draws has the standard deviation sqrt(p (1 - p) / n) / f, where f is the density there."""
    spans = np.log([each["percentiles"][percent] for each in found])
    p = percent / 100
    deviation = SIGMA * np.sqrt(p * (1 - p) / (SECONDS * RATE)) / density
    width = (spans[:, 1] - spans[:, 0]).mean()
    # Latencies are binned to half a per cent, which widens a narrow interval.
    assert 2 * 1.96 * deviation * 0.85 <= width <= 2 * 1.96 * deviation * 1.15 + 0.01
    assert 0.86 <= coverage(spans, np.log(5) + SIGMA * z) <= 1


def test_a_load_that_comes_in_bursts_has_a_wider_interval():
    """Requests of one second are correlated, which resampling single requests would miss."""
    rng = np.random.default_rng(2)
    rates = np.where(np.arange(SECONDS) % 2, 100, 700)
    low, high = intervals(load(rng, rates), [50.0])["per_second"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt((300**2 + RATE) / SECONDS), rel=0.2)
