"""Runs one level of load: a warm-up until steady, then windows of one second until the intervals are narrow enough."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfserving_ext.loadtest.arrivals import constant, poisson
from tfserving_ext.loadtest.client_load import ThreadClock, judge
from tfserving_ext.loadtest.engine import Engine, Pick
from tfserving_ext.loadtest.recorder import (
    Recorder,
    Window,
    intervals,
    latency_figures,
    mean_of,
    merged,
    to_window,
)
from tfserving_ext.loadtest.scenario import Scenario
from tfserving_ext.loadtest.targets.target import UNREACHABLE, Target

LEAST_WINDOWS = 5  # With fewer, an interval means nothing.
STEADY_WINDOWS, STEADY = 3, 0.1  # Steady if this many windows in a row differ by at most this fraction of their mean.
LOST_SECONDS = 3  # The server is lost after so many seconds without answers in which all errors are `UNREACHABLE`.
_POLL_SECONDS = 0.1
INTERRUPTED, LOST = "interrupted", "server lost"

OnWindow = Callable[[Window, str], None]


@dataclass
class Measured:
    """The measurements of a level.

    Attributes:
      windows: the windows that count, in order.
      warm_up: the `seconds` of the warm-up, whether it ended `steady`, and whether its windows are `counted` because
        there are no others.
      seconds: the time that the windows cover.
      client: the client's figures, from `client_load.judge`.
      examples: error messages by error code.
      unfinished: how many requests were still in flight when the level was ended.
      stopped_by: why the level ended early; None if it did not.
      stable: whether the intervals became as narrow as the bound; None for a level of fixed length.
    """

    windows: list[Window]
    warm_up: dict[str, Any]
    seconds: float
    client: dict[str, Any]
    examples: dict[str, list[str]]
    unfinished: int
    stopped_by: str | None
    stable: bool | None


@dataclass(frozen=True)
class Load:
    """The load of a level.

    Attributes:
      mode: "closed", "open" or "replay".
      amount: the number of clients, the requests per second, or the speed of the replay.
      chosen: the requests to send, in order.
      replay: for "replay", when each request was recorded, in seconds after the first.
    """

    mode: str
    amount: float
    chosen: Iterator[Pick]
    replay: Sequence[float] = ()


async def run_level(
    target: Target, load: Load, scenario: Scenario, on_window: OnWindow, interrupt: asyncio.Event
) -> Measured:
    """Runs one level.

    Args:
      target: where to send; must be open.
      load: what to send.
      scenario: all other settings.
      on_window: called with each finished window and its phase, "warm-up" or "measuring".
      interrupt: ends the level early when it is set.

    Returns:
      The measurements.
    """
    loop = asyncio.get_running_loop()
    recorder = Recorder(loop.time())
    engine = Engine(target, recorder, scenario.timeout, scenario.max_in_flight)
    driver = loop.create_task(
        engine.closed(int(load.amount), load.chosen)
        if load.mode == "closed"
        else engine.open(_offsets(load, scenario), load.chosen)
    )
    phases = _Phases(scenario, whole=load.mode == "replay")
    try:
        while not driver.done() and not engine.stopped:
            await asyncio.wait([driver], timeout=_POLL_SECONDS)
            for second in recorder.take(loop.time()):
                window = await asyncio.to_thread(to_window, second)
                on_window(window, phases.add(window))
            if await phases.over(loop.time() - recorder.zero, interrupt):
                engine.stop()
        elapsed = loop.time() - recorder.zero
        work, waiting = phases.clock.read()
        await asyncio.wait([driver], timeout=0.5 if interrupt.is_set() else scenario.timeout + 1)
    finally:
        driver.cancel()
        await engine.cancel()
        outcome = (await asyncio.gather(driver, return_exceptions=True))[0]
    if isinstance(outcome, Exception):
        raise outcome  # A bug in this program: failing requests are counted and raise nothing.
    for second in recorder.take(float("inf")):
        phases.add(to_window(second))
    windows, seconds = phases.counted(elapsed, recorder.last)
    late, latency = (
        latency_figures(merged(found))["p99"]
        for found in ([one.late for one in windows], [part for one in windows for part in one.latency.values()])
    )
    client = judge(work, waiting, late, latency, engine.blocked, scenario.max_in_flight)
    return Measured(
        windows,
        phases.warm_up,
        seconds,
        client,
        recorder.examples,
        recorder.unfinished,
        phases.stopped_by,
        phases.stable,
    )


def _offsets(load: Load, scenario: Scenario) -> Iterator[float]:
    """Returns the send times of an open loop or a replay, in seconds."""
    if load.mode == "replay":
        return (time / load.amount for time in load.replay)
    if scenario.arrivals == "constant":
        return constant(load.amount)
    # Each rate has its own seed, or else every level would repeat the same random pattern.
    return poisson(load.amount, [scenario.seed, round(1000 * load.amount)])


class _Phases:
    """Decides which windows count, and when there are enough of them."""

    def __init__(self, scenario: Scenario, whole: bool) -> None:
        """Starts with the warm-up, or, with `whole` for a replay, counts every window until the replay ends."""
        self.clock = ThreadClock()
        self.stopped_by: str | None = None
        self.stable: bool | None = None
        self.warm_up: dict[str, Any] = {"seconds": 0.0, "steady": None, "counted": False}
        self._scenario, self._whole = scenario, whole
        self._first = 0 if whole or scenario.warm_up == 0 else None
        self._windows: list[Window] = []
        self._checked = 0

    def add(self, window: Window) -> str:
        """Adds the next finished window and returns its phase."""
        self._windows.append(window)
        return "measuring" if self._first is not None and window.begin >= self._first else "warm-up"

    async def over(self, elapsed: float, interrupt: asyncio.Event) -> bool:
        """Returns whether the level is over, so that no more requests should be sent."""
        if interrupt.is_set():
            self.stopped_by = INTERRUPTED
        elif _is_lost(self._windows):
            self.stopped_by = LOST
        if self.stopped_by is not None:
            return True
        if self._whole:
            return False
        if self._first is None:
            steady = _is_steady(self._windows)
            if steady or elapsed >= self._scenario.warm_up:
                self._first = int(elapsed) + 1 if steady else math.ceil(self._scenario.warm_up)
                known = len(self._windows) > STEADY_WINDOWS
                self.warm_up |= {"seconds": float(self._first), "steady": steady if known else None}
                self.clock.restart()
            return False
        if self._scenario.seconds is not None:
            return elapsed >= self._first + self._scenario.seconds
        measured = self._windows[self._first :]
        if len(measured) >= LEAST_WINDOWS and len(measured) > self._checked:
            self._checked = len(measured)
            self.stable = await asyncio.to_thread(is_narrow, measured, self._scenario)
        return bool(self.stable) or elapsed >= self._first + self._scenario.max_seconds

    def counted(self, elapsed: float, last: float) -> tuple[list[Window], float]:
        """Returns the windows that count and the seconds that they cover.

        Args:
          elapsed: when sending stopped, in seconds from the level's start.
          last: when the last request finished, likewise.
        """
        if self._whole:
            return self._windows, max(last, 1e-3)
        whole = [window for window in self._windows if window.begin + 1 <= elapsed]
        found = [] if self._first is None else whole[self._first :]
        if not found and self.stopped_by is not None:
            self.warm_up["counted"] = True
            found = whole
        if self.stable is None and self._scenario.seconds is None and self.stopped_by is None:
            self.stable = False
        return found, float(max(len(found), 1))


def is_narrow(windows: Sequence[Window], scenario: Scenario) -> bool:
    """Returns whether the intervals of throughput and of the scenario's percentile are within its bound."""
    found = intervals(windows, [scenario.percentile])
    spans = [found["per_second"], found["percentiles"][scenario.percentile]]
    return all(
        span is not None and span[1] > 0 and (span[1] - span[0]) / (span[1] + span[0]) <= scenario.bound / 100
        for span in spans
    )


def _is_steady(windows: Sequence[Window]) -> bool:
    """Returns whether throughput and mean latency of the last windows differ little."""
    last = windows[-STEADY_WINDOWS:]
    if len(windows) <= STEADY_WINDOWS:  # The first window never counts as warm.
        return False
    answered = np.array([window.answered for window in last], np.float64)
    means = np.array([mean_of(merged(window.latency.values())) for window in last])
    return all(
        bool(np.isfinite(values).all()) and float(np.ptp(values)) <= STEADY * float(values.mean())
        for values in (answered, means)
    )


def _is_lost(windows: Sequence[Window]) -> bool:
    last = windows[-LOST_SECONDS:]
    codes = {code for window in last for found in window.failed.values() for code in found}
    return len(last) == LOST_SECONDS and not any(window.answered for window in last) and codes == {UNREACHABLE}
