"""Sends requests: closed loops, whose clients wait for their answers, and open loops, which do not."""

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

    asyncio's usual one, over epoll, wakes up to a millisecond late: a fifth of a request of five.
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
    """Requests to send, as (model, prepared request): models drawn by their weights, each one's requests by turns."""
    random, places = np.random.default_rng(seed), [0] * len(requests)
    share = np.asarray(weights, np.float64) / np.sum(weights)
    while True:
        for model in random.choice(len(requests), _BLOCK, p=share).tolist():
            places[model] = (places[model] + 1) % len(requests[model])
            yield model, requests[model][places[model]]


class Engine:
    """Sends to a target and tells a recorder.

    Attributes:
      blocked: requests of an open loop that had to wait for one of `max_in_flight` places.
      stopped: whether it was told to stop.
    """

    def __init__(self, target: Target, recorder: Recorder, timeout: float, max_in_flight: int) -> None:
        """Takes seconds that a request may take, and how many of an open loop's may be on their way at once."""
        self.blocked = 0
        self.stopped = False
        self._target, self._recorder, self._timeout = target, recorder, timeout
        self._places = asyncio.Semaphore(max_in_flight)
        self._time = asyncio.get_running_loop().time
        self._tasks: set[asyncio.Task] = set()
        self._sleeping: asyncio.Future | None = None
        self._until = float("inf")

    def stop(self) -> None:
        """Has the loops send nothing that was meant for later.

        An open loop that lags behind sends what was meant for before: to leave it out would hide how long it waits.
        """
        self.stopped, self._until = True, self._time()
        if self._sleeping is not None and not self._sleeping.done():
            self._sleeping.set_result(None)

    async def closed(self, clients: int, chosen: Iterator[Pick]) -> None:
        """So many clients, each of which sends when its last request has ended, until `stop`."""

        async def client() -> None:
            while not self.stopped:
                await self._one(self._time(), *next(chosen))
                # A request that fails at once lets nobody else run.
                await asyncio.sleep(0)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def open(self, offsets: Iterable[float], chosen: Iterator[Pick]) -> None:
        """Sends at these times, in seconds from now, whatever the answers do; until they end, or `stop`."""
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
        """Gives up on requests of an open loop that are still on their way."""
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
