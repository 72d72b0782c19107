"""Runs scenarios in virtual time, which jumps to the next timer: exact to the microsecond and without waiting."""

import asyncio
import random
import selectors

from tfserving_ext.loadtest.arrivals import constant, poisson
from tfserving_ext.loadtest.engine import picks
from tfserving_ext.loadtest.figures import level_figures
from tfserving_ext.loadtest.level import Load, run_level
from tfserving_ext.loadtest.scenario import Scenario
from tfserving_ext.loadtest.targets import TargetError


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while code runs, and jumps ahead instead of waiting."""

    def __init__(self):
        self.now = 0.0
        loop = self

        class Jumping(selectors.SelectSelector):
            def select(self, timeout=None):
                if timeout is None:
                    raise RuntimeError("everything waits for something that never comes")
                loop.now += max(timeout, 0.0)
                return super().select(0)

        super().__init__(Jumping())

    def time(self):
        return self.now

    def run_in_executor(self, executor, function, *arguments):
        """Calls the function at once, because a thread would fall behind the virtual clock."""
        del executor
        done = self.create_future()
        done.set_result(function(*arguments))
        return done


class StubTarget:
    """A target that waits, stalls and fails as configured, in virtual time."""

    kind = address = "stub"
    shared_process = False

    def __init__(self, service=lambda random: 0.005, errors=0.0, stall=False, servers=None, dies_at=None):
        self.random = random.Random(1)
        self.service, self.errors, self.stall, self.dies_at = service, errors, stall, dies_at
        self.places = None if servers is None else asyncio.Semaphore(servers)
        self.sent = []

    async def send(self, request, timeout):
        loop = asyncio.get_running_loop()
        self.sent.append(loop.time())
        if self.dies_at is not None and loop.time() > self.dies_at:
            raise TargetError("UNAVAILABLE", "connection refused")
        if self.places is not None:
            async with self.places:
                await asyncio.sleep(self.service(self.random))
        else:
            until = loop.time() + self.service(self.random)
            if self.stall and until >= 5 and until % 5 < 0.2:
                until += 0.2 - until % 5
            await asyncio.sleep(until - loop.time())
        if self.random.random() < self.errors:
            raise TargetError("RESOURCE_EXHAUSTED", "told to fail")


def measure(make_target, mode="closed", amount=1, interrupt_at=None, **fields):
    """Runs one level in virtual time; returns its figures, the target and the measurements."""
    loop = VirtualLoop()
    fields = {"warm_up": 0, "seconds": 60, **fields, **({"rate": str(amount)} if mode == "open" else {})}
    try:
        target = make_target()

        async def run():
            interrupt = asyncio.Event()
            if interrupt_at is not None:
                loop.call_later(interrupt_at, interrupt.set)
            load = Load(mode, amount, picks([[0, 1, 2]], [1.0], 0))
            measured = await run_level(target, load, Scenario(**fields), lambda *_: None, interrupt)
            return level_figures(measured, ["stub"], 99.0), measured

        figures, measured = loop.run_until_complete(run())
    finally:
        loop.close()
    return figures, target, measured


__all__ = ["StubTarget", "VirtualLoop", "constant", "measure", "poisson"]
