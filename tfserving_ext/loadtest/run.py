"""Runs a scenario: its levels one after another, and the measurements and swaps that accompany them."""

import asyncio
import contextlib
import datetime
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from tfserving_ext.artifacts import sha256
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import trace as tracing
from tfserving_ext.loadtest.arrivals import Recorded, read_recorded
from tfserving_ext.loadtest.engine import Pick, picks, run_loop
from tfserving_ext.loadtest.figures import add_swaps, condition_figures, level_figures
from tfserving_ext.loadtest.gate import Condition
from tfserving_ext.loadtest.inputs import Inputs, complete, make_inputs
from tfserving_ext.loadtest.level import INTERRUPTED, LOST, Load, run_level
from tfserving_ext.loadtest.limits import search_rate
from tfserving_ext.loadtest.profile import check_profile, profiling
from tfserving_ext.loadtest.recorder import Window
from tfserving_ext.loadtest.scenario import Scenario
from tfserving_ext.loadtest.server_side import ProcessWatch, difference, scrape
from tfserving_ext.loadtest.swaps import Swapper
from tfserving_ext.loadtest.targets import Target, TargetError, make_target
from tfserving_ext.machine import machine, versions

FORMAT = "nann bench"
FORMAT_VERSION = 1

# Called with each finished window: the level's name, the window, its phase.
OnWindow = Callable[[str, Window, str], None]


def bench(scenario: Scenario, on_window: OnWindow = lambda *_: None, target: Target | None = None) -> dict[str, Any]:
    """Runs a scenario.

    Ctrl-C ends it early and keeps what was measured so far; a second Ctrl-C aborts it.

    Example:
      >>> from tfserving_ext.loadtest import ModelSpec, Scenario
      >>> model = ModelSpec(path="models/nann/1", signature="retrieve")
      >>> result = nann.bench(Scenario(target="session", models=[model], warm_up=0, seconds=1))
      >>> result["levels"][0]["errors"]
      {}

    Args:
      scenario: the target and the load.
      on_window: called with each finished window of one second.
      target: a target to use instead of the scenario's.

    Returns:
      The result; docs/bench.md describes the format. `stopped_by` is "interrupted" or "server lost" if the run ended
      early, else None. `failure` is the error of an accompanying task that ended the run after something was measured,
      else None.

    Raises:
      NannError: the server does not answer, the model or signature does not exist, inputs do not fit, or a file cannot
        be read.
    """
    return run_loop(lambda: _Run(scenario, on_window, target or make_target(scenario)).run())


class _Run:
    def __init__(self, scenario: Scenario, on_window: OnWindow, target: Target) -> None:
        self._scenario, self._on_window, self._target = scenario, on_window, target
        self._interrupt = asyncio.Event()
        self._inputs: list[list[Inputs]] = []
        self._prepared: list[list[Any]] = []
        self._replay: list[Recorded] = []
        self._done: list[dict[str, Any]] = []

    async def run(self) -> dict[str, Any]:
        scenario = self._scenario
        began = datetime.datetime.now(datetime.timezone.utc)
        conditions = [Condition.parse(text) for text in scenario.fail_if]
        async with _opened(self._target):
            models = await self._prepare()
            with _ctrl_c(self._interrupt):
                search, failure = await self._measure()
                traced = None if failure else await self._trace(models)
        levels = self._done
        stopped = levels[-1]["stopped_by"] if levels else None
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "started": began.isoformat(timespec="seconds"),
            "seconds": (datetime.datetime.now(datetime.timezone.utc) - began).total_seconds(),
            "stopped_by": stopped,
            "failure": failure,
            "machine": machine(),
            "versions": versions(),
            "scenario": scenario.model_dump(mode="json"),
            "target": {"kind": self._target.kind, "address": self._target.address},
            "models": models,
            "levels": levels,
            "search": search,
            "trace": traced,
            "conditions": [
                {"condition": text, "level": level["name"]}
                for text, condition in zip(scenario.fail_if, conditions, strict=True)
                for level in levels
                if condition.holds(condition_figures(level))
            ],
        }

    async def _prepare(self) -> list[dict[str, Any]]:
        """Makes the requests, and sends one to each model; returns the facts of the models for the result."""
        scenario, models = self._scenario, []
        check_profile(scenario, self._target.shared_process)
        self._replay = [] if scenario.replay is None else await asyncio.to_thread(read_recorded, scenario.replay)
        for model in scenario.models:
            signatures = await self._target.signatures(model)
            inputs = await asyncio.to_thread(make_inputs, model, signatures, scenario.seed)
            self._inputs.append(inputs)
            self._prepared.append([self._target.prepare(model, one) for one in inputs])
            try:
                # The first request may wait for a compilation, so it gets more time.
                await self._target.send(self._prepared[-1][0], max(scenario.timeout, 60.0))
            except TargetError as error:
                made_up = model.path is model.data is model.input_data is None
                hint = "; give its SavedModel (--path), for made-up values that it knows" if made_up else ""
                raise NannError(f"model {model.name!r} refuses its first request: {error}{hint}") from error
            models.append(
                {
                    "name": model.name,
                    "signature": model.signature,
                    "weight": model.weight,
                    "requests": len(inputs),
                    "inputs": {key: f"{_dtype(value)} {list(value.shape)}" for key, value in inputs[0].items()},
                    "traceable": tracing.SIGNATURE in signatures and model.signature == "retrieve",
                    "sha256": None if model.path is None else await asyncio.to_thread(_hash, model.path),
                }
            )
        await self._prepare_replay()
        return models

    async def _prepare_replay(self) -> None:
        """Prepares the requests of a replay."""
        models = {model.name: place for place, model in enumerate(self._scenario.models)}
        signatures: dict[str, Any] = {}
        prepared = []
        for recorded in self._replay:
            name = recorded.model or self._scenario.models[0].name
            if name not in models:
                raise NannError(
                    f"{self._scenario.replay} has a request for model {name!r}; the models are {', '.join(models)}"
                )
            model = self._scenario.models[models[name]]
            if name not in signatures:
                signatures[name] = (await self._target.signatures(model))[model.signature]
            import numpy as np

            random = np.random.default_rng(self._scenario.seed)
            inputs = complete(model, signatures[name], recorded.inputs, random, str(self._scenario.replay))
            prepared.append((models[name], self._target.prepare(model, inputs)))
        self._recorded: list[Pick] = prepared

    async def _measure(self) -> tuple[dict[str, Any] | None, str | None]:
        """Runs all levels; returns the result of the search, if any, and the error that ended the run, if any.

        An error before anything was measured is raised instead.
        """
        search = None
        try:
            if self._scenario.max_rate_with:
                search = await search_rate(self._scenario, self._level)
            else:
                await self._levels()
        except (NannError, TargetError, OSError) as error:
            if not self._done:
                raise
            return None, str(error)
        return search, None

    async def _levels(self) -> None:
        levels = [("replay", self._scenario.speed)] if self._replay else self._scenario.levels()
        for number, (mode, amount) in enumerate(levels):
            with profiling(self._scenario, number == len(levels) - 1, self._target.shared_process):
                level = await self._level(mode, amount)
            if level["stopped_by"] is not None:
                break

    async def _level(self, mode: str, amount: float) -> dict[str, Any]:
        """Runs one level with its accompanying tasks; its figures are kept even if one of these fails."""
        scenario = self._scenario
        loop = asyncio.get_running_loop()
        name = {"closed": f"{amount:g} clients", "open": f"{amount:g}/s", "replay": f"replay x{amount:g}"}[mode]
        before = None if scenario.prometheus is None else await scrape(scenario.prometheus)
        watch = None if scenario.pid is None else ProcessWatch(scenario.pid)
        swapper = None if scenario.swap is None else Swapper(scenario, self._target)
        work = [watch.watch()] if watch is not None else []
        work += [swapper.run(loop.time())] if swapper is not None else []
        async with _beside(*work) as failures:
            chosen = iter(self._recorded) if mode == "replay" else self._picks()
            measured = await run_level(
                self._target,
                Load(mode, amount, chosen, [one.time for one in self._replay]),
                scenario,
                lambda window, phase: self._on_window(name, window, phase),
                self._interrupt,
            )
        level = {
            "name": name,
            "mode": mode,
            "amount": amount,
            "arrivals": scenario.arrivals if mode == "open" else None,
        }
        level |= level_figures(measured, [model.name for model in scenario.models], scenario.percentile)
        if swapper is not None:
            add_swaps(level, swapper.swaps, measured.windows)
        if before is not None and measured.stopped_by != LOST:
            with contextlib.suppress(NannError):  # If the server is gone by now, the level's other figures remain.
                level["prometheus"] = difference(before, await scrape(scenario.prometheus or ""))
        if watch is not None:
            level["process"] = watch.figures()
        self._done.append(level)
        for failure in failures:
            raise failure
        return level

    def _picks(self) -> Iterator[Pick]:
        return picks(self._prepared, [model.weight for model in self._scenario.models], self._scenario.seed)

    async def _trace(self, models: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Traces the first model that supports it, once the load is over; None if there is none."""
        scenario = self._scenario
        if not scenario.trace or self._interrupt.is_set() or any(level["stopped_by"] for level in self._done):
            return None
        for model, inputs, facts in zip(scenario.models, self._inputs, models, strict=True):
            if facts["traceable"]:
                return await tracing.trace(self._target, model, inputs, scenario.trace, scenario.timeout)
        return None


def _dtype(value: Any) -> str:
    return "string" if value.dtype == object else value.dtype.name


def _hash(path: Any) -> str:
    """Returns the SHA-256 of a SavedModel's saved_model.pb, "" if there is none."""
    file = path / "saved_model.pb"
    return sha256(file) if file.is_file() else ""


@contextlib.asynccontextmanager
async def _opened(target: Target) -> AsyncIterator[None]:
    try:
        await target.open()
        yield
    finally:
        await target.close()


@contextlib.asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[Exception]]:
    """Runs coroutines during the block and cancels them at its end; then the yielded list has their errors."""
    failures: list[Exception] = []
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        yield failures
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        failures += [outcome for outcome in outcomes if isinstance(outcome, Exception)]


@contextlib.contextmanager
def _ctrl_c(interrupt: asyncio.Event) -> Iterator[None]:
    """Makes the first Ctrl-C or SIGTERM set the event; the next one has its usual effect."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        interrupt.set()
        remove()

    def remove() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)

    try:
        for number in numbers:
            loop.add_signal_handler(number, stop)
    except (ValueError, RuntimeError, NotImplementedError):
        # This is not the main thread, for example in a notebook.
        yield
        return
    try:
        yield
    finally:
        remove()


__all__ = ["FORMAT", "INTERRUPTED", "LOST", "bench"]
