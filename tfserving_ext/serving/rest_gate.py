"""Limits how many REST requests run and wait at once, and the memory that their bodies take."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import grpc

from tfserving_ext.serving.models import ServingError

T = TypeVar("T")


class Gate:
    """Runs as many requests at once as there are threads, queues a bounded number, and refuses further ones.

    All methods must be called from one event loop.
    """

    def __init__(self, threads: int, queue: int, max_bytes: int) -> None:
        """Creates a gate.

        Args:
          threads: how many requests run at once.
          queue: how many more may wait for a thread or still be arriving.
          max_bytes: the largest total size of the bodies of all these requests.
        """
        self._pool = ThreadPoolExecutor(threads, "rest")
        self._free = asyncio.Semaphore(threads)
        self._most = threads + queue
        self._inside = 0
        self._max_bytes, self._bytes = max_bytes, 0

    @contextlib.contextmanager
    def entered(self) -> Iterator[Callable[[int], None]]:
        """Admits a request; enter it before the body is received and leave it after the answer.

        Yields:
          A function to call with the size of each part of the body before the part is kept. It raises ServingError if
          the bodies of all requests together would exceed `max_bytes`.

        Raises:
          ServingError: as many requests as allowed are already running or waiting.
        """
        if self._inside >= self._most:
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._inside} requests are running or waiting, and no more may wait; try again later",
            )
        held = 0

        def keep(size: int) -> None:
            nonlocal held
            if self._bytes + size > self._max_bytes:
                raise ServingError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the requests that are running or waiting take {self._bytes} bytes of at most "
                    f"{self._max_bytes}; try again later",
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

        Args:
          work: the function to run.
          has_left: returns whether the client has disconnected.

        Returns:
          The result of `work`.

        Raises:
          ServingError: the client disconnected while the request waited. Errors of `work` are passed on.
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

        # Called when the work ends, not when its request is given up: only then is the thread free.
        def free(_: Future) -> None:
            with contextlib.suppress(RuntimeError):  # The server has stopped.
                loop.call_soon_threadsafe(self._free.release)

        future.add_done_callback(free)
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Accepts no more work and cancels what waits; work that is running is not interrupted."""
        self._pool.shutdown(wait=False, cancel_futures=True)
