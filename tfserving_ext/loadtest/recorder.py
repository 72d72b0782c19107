"""What came of the requests, second by second, in HdrHistograms.

Latency is counted from the time a request was meant to be sent, not from when the client got round to it: a server that
stalls makes every request wait that should have been sent meanwhile ("coordinated omission" leaves these out).
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
DIGITS = 3  # Values are kept to a thousandth of themselves.
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "p99.99": 99.99}
MAX_EXAMPLES = 3  # Messages kept of each kind of error.
# Bins for the resampling of windows: half a per cent wide.
_BIN = np.log(1.005)


def new_histogram() -> HdrHistogram:
    """An empty histogram of microseconds."""
    return HdrHistogram(1, MAX_LATENCY_US, DIGITS)


def to_histogram(microseconds: Iterable[int]) -> HdrHistogram:
    """A histogram of these values; longer than an hour counts as an hour."""
    histogram = new_histogram()
    values, counts = np.unique(np.clip(np.asarray(microseconds, np.int64), 1, MAX_LATENCY_US), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    return histogram


def merged(encoded: Iterable[bytes | str]) -> HdrHistogram:
    """The sum of encoded histograms."""
    total = new_histogram()
    for one in encoded:
        part = HdrHistogram.decode(one)
        if part.get_total_count():  # An empty one would bring its least value, 0.
            total.add(part)
    return total


def latency_figures(histogram: HdrHistogram) -> dict[str, float | None]:
    """Mean, extremes and percentiles in milliseconds; None where nothing was recorded."""
    names = ("mean", "min", *PERCENTILES, "max")
    if not histogram.get_total_count():
        return dict.fromkeys(names)
    at = histogram.get_percentile_to_value_dict(list(PERCENTILES.values()))
    values = [mean_of(histogram), histogram.get_min_value(), *at.values(), histogram.get_max_value()]
    return {name: value / 1000 for name, value in zip(names, values, strict=True)}


def mean_of(histogram: HdrHistogram) -> float:
    """The mean in microseconds, NaN of nothing; a hundred times as fast as the library's."""
    counts = np.ctypeslib.as_array(histogram.counts).astype(np.float64)
    total = counts.sum()
    return float(counts @ _middles()) / total if total else float("nan")


@functools.cache
def _middles() -> np.ndarray:
    """The value that stands for each bucket."""
    empty = new_histogram()
    least = np.array([empty.get_value_from_index(place) for place in range(empty.counts_len)], np.float64)
    return least + np.append(np.diff(least) - 1, 0) / 2


@dataclass
class Second:
    """The requests that were meant to be sent in one second.

    Attributes:
      begin: seconds from the recorder's zero.
      sent: by model.
      left: not answered yet.
      latencies: microseconds from the intended time, of what was answered with success, by model.
      service: the same from the time of sending.
      late: microseconds from the intended time to the time of sending, of all.
      failed: error codes by model.
      answered: successes that arrived in this second, whenever they were sent.
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
    """A finished second, made small.

    Attributes:
      begin: seconds from the recorder's zero.
      sent: requests meant for it, by model.
      answered: successes that arrived in it.
      failed: error codes by model.
      latency: encoded histogram by model.
      service: encoded histogram.
      late: encoded histogram.
      bins: counts of latencies by their logarithm's bin, for resampling.
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
    """Takes what came of each request; used from the event loop alone.

    Attributes:
      examples: by error code, some of the messages.
      unfinished: requests that were given up on at the end; they count nowhere.
      last: when the last request ended, in seconds.
    """

    def __init__(self, zero: float) -> None:
        """Takes the loop's time that seconds count from."""
        self.zero = zero
        self.examples: dict[str, list[str]] = {}
        self.unfinished = 0
        self.last = 0.0
        self._seconds: dict[int, Second] = {}
        self._next = 0

    def sending(self, intended: float, now: float, model: int) -> None:
        """A request is being sent."""
        second = self._second(intended)
        second.sent[model] += 1
        second.left += 1
        second.late.append(int((now - intended) * MICROSECONDS))

    def done(self, intended: float, sent: float, now: float, model: int, code: str = OK, message: str = "") -> None:
        """A request has ended."""
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
        """A request was cancelled."""
        second = self._second(intended)
        second.left -= 1
        second.sent[model] -= 1
        self.unfinished += 1

    def take(self, before: float) -> list[Second]:
        """Hands over the seconds that ended before this time and wait for no answer, in order, empty ones too."""
        ready = []
        last = max(self._seconds, default=-1)
        while (self.zero + self._next + 1 <= before < float("inf")) or (before == float("inf") and self._next <= last):
            second = self._seconds.get(self._next, Second(float(self._next)))
            if second.left:
                break  # Later ones wait too, so that windows come in order.
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
    """Makes a finished second small; takes some milliseconds, so off the event loop."""
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
    """95 % bootstrap intervals, resampling whole windows, as requests of one moment share their fate.

    Args:
      windows: at least two.
      percents: of the percentiles wanted.

    Returns:
      `per_second` [low, high], and `percentiles`: [low, high] in milliseconds by percent, accurate to half a per cent;
      None where nothing was answered.
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
