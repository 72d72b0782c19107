"""Sends requests in closed loops, whose clients wait for their answers, and in open loops, which do not wait."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from tfserving_ext.loadtest.recorder import Recorder
from tfserving_ext.loadtest.targets.target import Target, TargetError

_BLOCK = 4096
T = TypeVar("T")

Pick = tuple[int, Any]


def run_loop(make: Callable[[], Awaitable[T]]) -> T:
    """Runs a coroutine in an event loop whose timers are exact to microseconds.

    asyncio's default loop uses epoll, which wakes up to a millisecond late: 20 % of a latency of 5 ms.
    """
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(make())
    finally:
        try:
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def picks(requests: Sequence[Sequence[Any]], weights: Sequence[float], seed: int) -> Iterator[Pick]:
    """Yields the requests to send as (model, prepared request), without end.

    Args:
      requests: the prepared requests of each model, which are used in turn.
      weights: the probability of each model, up to a common factor.
      seed: the seed of the random choice of models.
    """
    random, places = np.random.default_rng(seed), [0] * len(requests)
    share = np.asarray(weights, np.float64) / np.sum(weights)
    while True:
        for model in random.choice(len(requests), _BLOCK, p=share).tolist():
            places[model] = (places[model] + 1) % len(requests[model])
            yield model, requests[model][places[model]]


class Engine:
    """Sends requests to a target and records their outcomes.

    Attributes:
      blocked: how many requests of an open loop had to wait because `max_in_flight` others were in flight.
      stopped: whether `stop` was called.
    """

    def __init__(self, target: Target, recorder: Recorder, timeout: float, max_in_flight: int) -> None:
        """Creates an engine; must be called in a running event loop.

        Args:
          target: where to send.
          recorder: records the outcomes.
          timeout: seconds after which a request fails.
          max_in_flight: how many requests of an open loop may be in flight at once.
        """
        self.blocked = 0
        self.stopped = False
        self._target, self._recorder, self._timeout = target, recorder, timeout
        self._places = asyncio.Semaphore(max_in_flight)
        self._time = asyncio.get_running_loop().time
        self._tasks: set[asyncio.Task] = set()
        self._sleeping: asyncio.Future | None = None
        self._until = float("inf")

    def stop(self) -> None:
        """Makes the loops send no request that is due later than now.

        An open loop that lags behind still sends its overdue requests: leaving them out would hide how late they are.
        """
        self.stopped, self._until = True, self._time()
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)

    async def closed(self, clients: int, chosen: Iterator[Pick]) -> None:
        """Runs a closed loop until `stop`: each client sends its next request when the last one has finished.

        Args:
          clients: the number of clients.
          chosen: the requests to send.
        """

        async def client() -> None:
            while not self.stopped:
                await self._one(self._time(), *next(chosen))
                # Without this, requests that fail at once would block the event loop.
                await asyncio.sleep(0)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def open(self, offsets: Iterable[float], chosen: Iterator[Pick]) -> None:
        """Runs an open loop until its times end or `stop`, and waits for the answers.

        Args:
          offsets: the send times in seconds from now, ascending; requests are sent then whether others are answered or
            not.
          chosen: the requests to send.
        """
        loop = asyncio.get_running_loop()
        begin = self._time()
        for offset in offsets:
            intended = begin + offset
            await self._sleep(intended - self._time())
            if intended >= self._until:
                break
            if self._places.locked():
                self.blocked += 1
            await self._places.acquire()
            task = loop.create_task(self._one(intended, *next(chosen)))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Cancels the requests of an open loop that are still in flight."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        self._places.release()

    async def _sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        self._sleeping = loop.create_future()
        timer = loop.call_later(seconds, _wake, self._sleeping)
        try:
            if not self.stopped:
                await self._sleeping
        finally:
            timer.cancel()
            self._sleeping = None

    async def _one(self, intended: float, model: int, request: Any) -> None:
        sent = self._time()
        self._recorder.sending(intended, sent, model)
        try:
            await self._target.send(request, self._timeout)
        except TargetError as error:
            self._recorder.done(intended, sent, self._time(), model, error.code, error.message)
        except asyncio.CancelledError:
            self._recorder.given_up(intended, model)
            raise
        else:
            self._recorder.done(intended, sent, self._time(), model)


def _wake(future: asyncio.Future) -> None:
    if not future.done():
        future.set_result(None)
