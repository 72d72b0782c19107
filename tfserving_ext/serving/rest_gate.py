"""How many REST requests the server works on and keeps waiting."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import grpc

from tfserving_ext.serving.models import ServingError

T = TypeVar("T")


class Gate:
    """Runs as many requests at once as there are threads, lets a bounded number wait, and refuses what comes on top.

    For one event loop.
    """

    def __init__(self, threads: int, queue: int, max_bytes: int) -> None:
        """Makes a gate.

        Args:
          threads: how many requests run at once.
          queue: how many more may wait, or be on their way.
          max_bytes: how large the bodies of all these may be together.
        """
        self._pool = ThreadPoolExecutor(threads, "rest")
        self._free = asyncio.Semaphore(threads)
        self._most = threads + queue
        self._inside = 0
        self._max_bytes, self._bytes = max_bytes, 0

    @contextlib.contextmanager
    def entered(self) -> Iterator[Callable[[int], None]]:
        """A place among those that are answered or wait, also while the request is still being received.

        Yields:
          A function that is called with the size of each part of the body before the part is kept. It raises
          ServingError where the bodies of all requests would be larger together than is allowed.

        Raises:
          ServingError: all places are taken.
        """
        if self._inside >= self._most:
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._inside} requests are being answered or wait, and no more may wait; try again later",
            )
        held = 0

        def keep(size: int) -> None:
            nonlocal held
            if self._bytes + size > self._max_bytes:
                raise ServingError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the requests that are being answered or wait have {self._bytes} bytes, and may have "
                    f"{self._max_bytes} together; try again later",
                )
            held += size
            self._bytes += size

        self._inside += 1
        try:
            yield keep
        finally:
            self._inside -= 1
            self._bytes -= held

    async def run(self, work: Callable[[], T], has_left: Callable[[], Awaitable[bool]]) -> T:
        """Waits for a thread and runs `work` on it.

        Raises:
          ServingError: the client has left meanwhile, as `has_left` says; or what `work` raises.
        """
        await self._free.acquire()
        try:
            if await has_left():
                raise ServingError(grpc.StatusCode.CANCELLED, "the client left while the request waited")
            future = self._pool.submit(work)
        except BaseException:
            self._free.release()
            raise
        loop = asyncio.get_running_loop()

        # Not when the request is given up: its thread is free when the work ends.
        def free(_: Future) -> None:
            with contextlib.suppress(RuntimeError):  # The server has stopped.
                loop.call_soon_threadsafe(self._free.release)

        future.add_done_callback(free)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Takes no more work; what runs goes on by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
