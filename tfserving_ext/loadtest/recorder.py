"""Records the outcomes of requests, second by second, in HdrHistograms.

Latency is measured from the time when a request should have been sent, not from when the client actually sent it. A
server that stalls delays every request that should have been sent meanwhile; measuring from the actual send time would
leave these delays out ("coordinated omission").
"""

import functools
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from tfserving_ext.loadtest.targets.target import OK

MICROSECONDS = 1e6
MAX_LATENCY_US = 3_600_000_000  # One hour.
DIGITS = 3  # Values are kept with a relative precision of one thousandth.
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "p99.99": 99.99}
MAX_EXAMPLES = 3  # Messages kept for each error code.
_BIN = np.log(1.005)  # The width of the bins for resampling: half a per cent.


def new_histogram() -> HdrHistogram:
    """Creates an empty histogram of microseconds."""
    return HdrHistogram(1, MAX_LATENCY_US, DIGITS)


def to_histogram(microseconds: Iterable[int]) -> HdrHistogram:
    """Builds a histogram; values above one hour count as one hour."""
    histogram = new_histogram()
    values, counts = np.unique(np.clip(np.asarray(microseconds, np.int64), 1, MAX_LATENCY_US), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def merged(encoded: Iterable[bytes | str]) -> HdrHistogram:
    """Adds up encoded histograms."""
    total = new_histogram()
    for one in encoded:
        part = HdrHistogram.decode(one)
        if part.get_total_count():  # An empty histogram would set the minimum to 0.
            total.add(part)
    return total


def latency_figures(histogram: HdrHistogram) -> dict[str, float | None]:
    """Returns the mean, extremes and percentiles in milliseconds; all are None if nothing was recorded."""
    names = ("mean", "min", *PERCENTILES, "max")
    if not histogram.get_total_count():
        return dict.fromkeys(names)
    at = histogram.get_percentile_to_value_dict(list(PERCENTILES.values()))
    values = [mean_of(histogram), histogram.get_min_value(), *at.values(), histogram.get_max_value()]
    return {name: value / 1000 for name, value in zip(names, values, strict=True)}


def mean_of(histogram: HdrHistogram) -> float:
    """Returns the mean in microseconds, NaN if the histogram is empty; a hundred times faster than the library."""
    counts = np.ctypeslib.as_array(histogram.counts).astype(np.float64)
    total = counts.sum()
    return float(counts @ _middles()) / total if total else float("nan")


@functools.cache
def _middles() -> np.ndarray:
    """Returns the value that represents each bucket."""
    empty = new_histogram()
    least = np.array([empty.get_value_from_index(place) for place in range(empty.counts_len)], np.float64)
    return least + np.append(np.diff(least) - 1, 0) / 2


@dataclass
class Second:
    """The requests whose intended send time lies in one second.

    Attributes:
      begin: the start of this second, in seconds from the recorder's zero.
      sent: the number of requests by model.
      left: how many are not answered yet.
      latencies: the latencies of successful requests by model, in microseconds from the intended send time.
      service: the latencies of all successful requests, in microseconds from the actual send time.
      late: the delay between the intended and the actual send time of all requests, in microseconds.
      failed: the counts of error codes by model.
      answered: how many successful answers arrived in this second, whenever their requests were sent.
    """

    begin: float
    sent: Counter = field(default_factory=Counter)
    left: int = 0
    latencies: dict[int, array] = field(default_factory=dict)
    service: array = field(default_factory=lambda: array("q"))
    late: array = field(default_factory=lambda: array("q"))
    failed: dict[int, Counter] = field(default_factory=dict)
    answered: int = 0


@dataclass(frozen=True)
class Window:
    """A finished `Second`, with histograms in place of the single values.

    Attributes:
      begin: the start of this second, in seconds from the recorder's zero.
      sent: the number of requests by model.
      answered: how many successful answers arrived in this second.
      failed: the counts of error codes by model.
      latency: encoded histograms of `Second.latencies` by model.
      service: the encoded histogram of `Second.service`.
      late: the encoded histogram of `Second.late`.
      bins: counts of latencies in logarithmic bins, for resampling.
    """

    begin: float
    sent: Mapping[int, int]
    answered: int
    failed: Mapping[int, Mapping[str, int]]
    latency: Mapping[int, bytes]
    service: bytes
    late: bytes
    bins: Mapping[int, int]


class Recorder:
    """Records the outcome of each request; to be used only from the event loop.

    Attributes:
      examples: some of the messages by error code.
      unfinished: how many requests were cancelled at the end; they count nowhere else.
      last: when the last request finished, in seconds from the recorder's zero.
    """

    def __init__(self, zero: float) -> None:
        """Creates a recorder; `zero` is the event loop's time from which seconds count."""
        self.zero = zero
        self.examples: dict[str, list[str]] = {}
        self.unfinished = 0
        self.last = 0.0
        self._seconds: dict[int, Second] = {}
        self._next = 0

    def sending(self, intended: float, now: float, model: int) -> None:
        """Records that a request is being sent; times are the event loop's."""
        second = self._second(intended)
        second.sent[model] += 1
        second.left += 1
        second.late.append(int((now - intended) * MICROSECONDS))

    def done(self, intended: float, sent: float, now: float, model: int, code: str = OK, message: str = "") -> None:
        """Records that a request has finished, with an error code and message if it failed."""
        second = self._second(intended)
        second.left -= 1
        self.last = max(self.last, now - self.zero)
        if code != OK:
            second.failed.setdefault(model, Counter())[code] += 1
            examples = self.examples.setdefault(code, [])
            if len(examples) < MAX_EXAMPLES and message not in examples:
                examples.append(message)
            return
        latencies = second.latencies.get(model)
        if latencies is None:
            latencies = second.latencies[model] = array("q")
        latencies.append(int((now - intended) * MICROSECONDS))
        second.service.append(int((now - sent) * MICROSECONDS))
        self._second(now).answered += 1

    def given_up(self, intended: float, model: int) -> None:
        """Records that a request was cancelled."""
        second = self._second(intended)
        second.left -= 1
        second.sent[model] -= 1
        self.unfinished += 1

    def take(self, before: float) -> list[Second]:
        """Removes and returns the seconds, in order, that ended before this time and whose requests are all answered.

        Seconds without requests are included.
        """
        ready = []
        last = max(self._seconds, default=-1)
        while (self.zero + self._next + 1 <= before < float("inf")) or (before == float("inf") and self._next <= last):
            second = self._seconds.get(self._next, Second(float(self._next)))
            if second.left:
                break  # Later seconds wait too, so that windows come in order.
            self._seconds.pop(self._next, None)
            ready.append(second)
            self._next += 1
        return ready

    def _second(self, time: float) -> Second:
        number = int(time - self.zero)
        second = self._seconds.get(number)
        if second is None:
            second = self._seconds[number] = Second(float(number))
        return second


def to_window(second: Second) -> Window:
    """Converts a finished second to a window; as this takes some milliseconds, call it outside the event loop."""
    everything = np.concatenate([np.asarray(values, np.int64) for values in second.latencies.values()] or [_NONE])
    bins, counts = np.unique(_bins(everything), return_counts=True)
    return Window(
        second.begin,
        dict(second.sent),
        second.answered,
        {model: dict(codes) for model, codes in second.failed.items()},
        {model: to_histogram(values).encode() for model, values in second.latencies.items()},
        to_histogram(second.service).encode(),
        to_histogram(second.late).encode(),
        dict(zip(bins.tolist(), counts.tolist(), strict=True)),
    )


_NONE = np.empty(0, np.int64)


def _bins(microseconds: np.ndarray) -> np.ndarray:
    return np.floor(np.log(np.maximum(microseconds, 1)) / _BIN).astype(np.int64)


RESAMPLES = 400


def intervals(windows: Sequence[Window], percents: Sequence[float]) -> dict[str, Any]:
    """Computes 95 % bootstrap intervals.

    Whole windows are resampled, because the latencies of requests sent at about the same time are correlated.

    Args:
      windows: at least two windows.
      percents: the percentiles for which to compute intervals.

    Returns:
      `per_second`: [low, high] of the throughput; and `percentiles`: [low, high] in milliseconds by percent, accurate
      to half a per cent, or None if nothing was answered.
    """
    random = np.random.default_rng(0)
    picks = random.integers(0, len(windows), [RESAMPLES, len(windows)])
    weights = np.stack([np.bincount(row, minlength=len(windows)) for row in picks]).astype(np.float64)
    answered = np.array([window.answered for window in windows], np.float64)
    found: dict[str, Any] = {"per_second": _middle(weights @ answered / len(windows)), "percentiles": {}}
    bins = sorted({one for window in windows for one in window.bins})
    place = {one: number for number, one in enumerate(bins)}
    counts = np.zeros([len(windows), max(len(bins), 1)])
    for row, window in enumerate(windows):
        for one, count in window.bins.items():
            counts[row, place[one]] = count
    running = np.cumsum(weights @ counts, axis=1)
    for percent in percents:
        if not bins:
            found["percentiles"][percent] = None
            continue
        wanted = np.maximum(running[:, -1:] * percent / 100, 1e-9)
        at = np.minimum((running < wanted - 1e-9).sum(axis=1), len(bins) - 1)
        found["percentiles"][percent] = _middle(np.exp((np.asarray(bins)[at] + 0.5) * _BIN) / 1000)
    return found


def _middle(values: np.ndarray) -> list[float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]
