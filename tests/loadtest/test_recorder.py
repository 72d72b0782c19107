import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving_ext.loadtest.recorder import (
    Recorder,
    Second,
    intervals,
    latency_figures,
    merged,
    new_histogram,
    to_histogram,
    to_window,
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3_000_000), min_size=1, max_size=400))
def test_percentiles_are_those_of_the_sorted_values(values):
    figures = latency_figures(to_histogram(values))
    ordered = np.sort(values)
    for name, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9)):
        wanted = (
            ordered[max(int(len(values) * percent / 100 + 0.5), 1) - 1] / 1000
        )  # The rank as the library defines it.
        assert figures[name] == pytest.approx(wanted, rel=0.0011)
    assert figures["max"] == pytest.approx(ordered[-1] / 1000, rel=0.0011)
    assert figures["mean"] == pytest.approx(np.mean(values) / 1000, rel=0.002)


def test_histograms_add_up_encoded_and_others_can_read_them():
    first, second = to_histogram([1000] * 3), to_histogram([2000, 4000])
    total = merged([first.encode(), second.encode()])
    assert total.get_total_count() == 5
    assert HdrHistogram.decode(total.encode()).get_value_at_percentile(60) == pytest.approx(1000, rel=0.001)
    assert latency_figures(new_histogram())["p50"] is None


def test_an_hour_is_the_most_that_is_kept():
    assert latency_figures(to_histogram([10**12]))["max"] == pytest.approx(3_600_000, rel=0.001)


def test_seconds_come_in_order_when_nothing_waits_in_them_and_empty_ones_too():
    recorder = Recorder(100.0)
    recorder.sending(100.2, 100.2, 0)
    recorder.sending(103.5, 103.6, 1)
    assert recorder.take(102.0) == []  # The first second still has an unanswered request.
    recorder.done(100.2, 100.2, 101.1, 0)
    found = recorder.take(103.0)
    assert [second.begin for second in found] == [0, 1, 2]
    assert [second.answered for second in found] == [0, 1, 0]  # The answer arrived in the second second.
    assert list(found[0].latencies[0]) == [899999] or list(found[0].latencies[0]) == [900000]
    recorder.given_up(103.5, 1)
    (last,) = recorder.take(float("inf"))
    assert last.begin == 3 and not last.sent[1] and recorder.unfinished == 1
    assert list(last.late) == [pytest.approx(100_000, abs=1)]


def test_errors_are_counted_by_code_and_have_no_latency():
    recorder = Recorder(0.0)
    for number in range(5):
        recorder.sending(0.1, 0.1, 0)
        recorder.done(0.1, 0.1, 0.2, 0, "INTERNAL", f"message {number}")
    window = to_window(recorder.take(1.0)[0])
    assert window.failed == {0: {"INTERNAL": 5}} and not window.latency and not window.answered
    assert recorder.examples == {"INTERNAL": ["message 0", "message 1", "message 2"]}


def _windows(random, count, rate, latency):
    made = []
    for number in range(count):
        answered = int(random.poisson(rate))
        second = Second(float(number))
        second.latencies[0] = latency(random, answered).astype(np.int64)
        second.answered = answered
        made.append(to_window(second))
    return made


@pytest.mark.medium
def test_intervals_hold_the_truth():
    """For most of 100 levels with known rate and percentiles, the 95 % intervals hold them, despite few windows."""
    random, held = np.random.default_rng(0), np.zeros(3)
    for _ in range(100):
        windows = _windows(random, 20, 100, lambda r, n: r.exponential(10_000, n) + 1)
        found = intervals(windows, [50.0, 99.0])
        truths = (100.0, 10 * np.log(2), 10 * np.log(100))
        spans = (found["per_second"], found["percentiles"][50.0], found["percentiles"][99.0])
        held += [low <= truth <= high for (low, high), truth in zip(spans, truths, strict=True)]
    assert (held >= 85).all(), held


def test_intervals_are_as_wide_as_windows_differ():
    """If whole seconds are slow, many requests per second do not make the mean more certain."""
    random = np.random.default_rng(0)
    alike = _windows(random, 20, 1000, lambda r, n: r.exponential(10_000, n) + 1)
    slow = [_windows(random, 1, 1000, lambda r, n, s=s: r.exponential(s, n) + 1)[0] for s in (5_000, 15_000) * 10]
    narrow, wide = (intervals(windows, [50.0])["percentiles"][50.0] for windows in (alike, slow))
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])


def test_no_answers_have_no_percentiles():
    found = intervals([to_window(Second(0.0)), to_window(Second(1.0))], [99.0])
    assert found == {"per_second": [0.0, 0.0], "percentiles": {99.0: None}}
