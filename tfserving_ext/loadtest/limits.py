"""The highest rate that keeps conditions, such as `p99_ms <= 20`: doubling, then bisection."""

from collections.abc import Awaitable, Callable
from typing import Any

from tfserving_ext.loadtest.figures import condition_figures
from tfserving_ext.loadtest.gate import Condition
from tfserving_ext.loadtest.ranges import MAX_RATE, parse_range
from tfserving_ext.loadtest.scenario import Scenario

START_RATE = 10.0
LEAST_RATE = 1.0  # Below it, a run of a minute has too few requests for a percentile.
PRECISION = 0.05  # Of the rate that is found.
MAX_TRIES = 24
KEEPS_UP = 0.95  # Of what was sent: a server that falls behind does not serve it, whatever the latency.

Try = Callable[[str, float], Awaitable[dict[str, Any]]]


async def search_rate(scenario: Scenario, run_level: Try) -> dict[str, Any]:
    """Searches between the ends of `scenario.rate`, or from 10 a second upwards, and down to 1 where that is too much.

    Args:
      scenario: with `max_rate_with`.
      run_level: measures ("open", rate).

    Returns:
      `conditions`; `tried` with what each rate gave, in order; `rate`, the highest that kept all conditions, None where
      the lowest did not, and `per_second`, what was answered at it; `client_limited`, whether the client was
      saturated at a rate that did not keep, so that a better one may find a higher rate. A rate that kept holds even
      where it was: latency counts from the intended time, so what the client adds is in it.
    """
    conditions = [Condition.parse(text) for text in scenario.max_rate_with]
    tried: list[dict[str, Any]] = []
    stopped = False

    async def keeps(rate: float) -> bool:
        nonlocal stopped
        level = await run_level("open", rate)
        stopped = bool(level["stopped_by"])
        figures = condition_figures(level)
        answered = level["answered"] >= KEEPS_UP * level["requests"] and level["requests"] > 0
        behind = level["per_second"] < KEEPS_UP * level["offered_per_second"]
        kept = all(one.holds(figures) for one in conditions) and answered and not behind
        tried.append(
            {"rate": rate, "per_second": level["per_second"], "kept": kept}
            | {"client_limited": not kept and level["client"]["saturated"]}
            | {one.figure: figures[one.figure] for one in conditions}
        )
        return kept

    ends = parse_range(scenario.rate, MAX_RATE) if scenario.rate else []
    low, high = (ends[0], ends[-1]) if len(ends) > 1 else (ends[0] if ends else START_RATE, None)
    least = low if ends else LEAST_RATE
    best = await _bisect(keeps, least, low, high, lambda: stopped)
    limited = any(one["client_limited"] for one in tried)
    return {
        "conditions": list(scenario.max_rate_with),
        "tried": tried,
        "rate": best,
        "per_second": next((one["per_second"] for one in tried if one["rate"] == best), None),
        "client_limited": limited,
    }


async def _bisect(
    keeps: Callable[[float], Awaitable[bool]], least: float, start: float, high: float | None, ended: Callable[[], bool]
) -> float | None:
    """The highest rate that keeps, to `PRECISION`; None where `least` does not."""
    best, failed = start, None
    while not await keeps(best):
        if best <= least or ended():
            return None
        failed, best = best, max(best / 2, least)
    for _ in range(MAX_TRIES):
        if ended() or best == (MAX_RATE if high is None else high):
            break
        if failed is not None and failed - best <= PRECISION * best:
            break
        rate = min(2 * best, high or MAX_RATE) if failed is None else (best + failed) / 2
        if await keeps(rate):
            best = rate
        else:
            failed = rate
    return best
