"""Searches for the highest rate that meets conditions such as `p99_ms <= 20`, by doubling and then bisection."""

from collections.abc import Awaitable, Callable
from typing import Any

from tfserving_ext.loadtest.figures import condition_figures
from tfserving_ext.loadtest.gate import Condition
from tfserving_ext.loadtest.ranges import MAX_RATE, parse_range
from tfserving_ext.loadtest.scenario import Scenario

START_RATE = 10.0
LEAST_RATE = 1.0  # At lower rates, a run of a minute has too few requests for a percentile.
PRECISION = 0.05  # The search stops when the rate is known to this fraction.
MAX_TRIES = 24
KEEPS_UP = 0.95  # A server that answers a smaller fraction of what was sent does not sustain the rate.

Try = Callable[[str, float], Awaitable[dict[str, Any]]]


async def search_rate(scenario: Scenario, run_level: Try) -> dict[str, Any]:
    """Searches for the highest rate that meets all conditions of `scenario.max_rate_with`.

    The search stays between the ends of `scenario.rate`. Without one it starts at 10 requests per second and goes
    upwards, or down to 1 if 10 is too many.

    Args:
      scenario: the scenario; it must have `max_rate_with`.
      run_level: measures a level; called with "open" and the rate.

    Returns:
      `conditions`; `tried`, the figures at each rate in the order of the trials; `rate`, the highest rate that met all
      conditions, None if the lowest did not; `per_second`, the requests answered per second at that rate; and
      `client_limited`, whether the client was saturated at a rate that failed, so that a faster client may find a
      higher one. A rate that met the conditions is valid even if the client was saturated: latency counts from the
      intended send time, so it includes the client's delays.
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
    """Returns the highest rate for which `keeps` holds, to `PRECISION`; None if it does not hold for `least`."""
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
