"""The output of `nann bench` on the terminal: a live table while it runs, and the result."""

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.live import Live
from rich.table import Table

from tfserving_ext.loadtest.level import INTERRUPTED
from tfserving_ext.loadtest.recorder import Window, latency_figures, merged
from tfserving_ext.loadtest.run import OnWindow
from tfserving_ext.loadtest.scenario import Scenario
from tfserving_ext.progress import console, outcome

ROWS = 15  # Of the live table; older rows disappear.
LOG_WINDOWS = 10  # In a log, one line is printed for so many seconds.


@contextlib.contextmanager
def live(scenario: Scenario) -> Iterator[OnWindow]:
    """Yields a function to call for each finished window: it updates a live table, or logs a line if not on a terminal.

    Args:
      scenario: the scenario that is run.
    """
    rows: list[list[str]] = []
    title = f"{scenario.target}: {', '.join(f'{model.name} {model.signature}' for model in scenario.models)}"

    def table() -> Table:
        made = Table(
            title=title, title_justify="left", caption="Ctrl-C ends the run and reports", caption_justify="left"
        )
        for column in ("load", "phase", "second", "requests/s", "p50 ms", "p99 ms", "max ms", "errors"):
            made.add_column(column, justify="left" if column in ("load", "phase") else "right")
        for row in rows[-ROWS:]:
            made.add_row(*row)
        return made

    def row(name: str, window: Window, phase: str) -> list[str]:
        found = latency_figures(merged(window.latency.values()))
        errors = sum(count for codes in window.failed.values() for count in codes.values())
        latencies = [milliseconds(found[key]) for key in ("p50", "p99", "max")]
        return [name, phase, f"{window.begin:.0f}", f"{window.answered:,}", *latencies, f"{errors:,}" if errors else ""]

    if not console.is_terminal:

        def log(name: str, window: Window, phase: str) -> None:
            if int(window.begin) % LOG_WINDOWS == LOG_WINDOWS - 1:
                _, _, second, answered, p50, p99, _, errors = row(name, window, phase)
                failed = f", {errors} errors" if errors else ""
                print(f"  {name}, {phase}, second {second}: {answered}/s, p50 {p50}, p99 {p99} ms{failed}", flush=True)

        yield log
        return

    with Live(table(), console=console, transient=True, auto_refresh=False) as shown:

        def show(name: str, window: Window, phase: str) -> None:
            rows.append(row(name, window, phase))
            shown.update(table(), refresh=True)

        yield show


def milliseconds(value: float | None) -> str:
    """Formats a latency in milliseconds with at least three digits; None gives an empty text."""
    return (
        "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    )


def print_result(result: dict[str, Any]) -> None:
    """Prints a table with one row for each level, followed by the notes on it."""
    table = Table(title_justify="left")
    for column in ("load", "requests/s", "±", "p50 ms", "p90", "p99", "±", "p99.9", "max", "errors", "client busy"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for level in result["levels"]:
        latency, spans = level["latency_ms"], level["latency_intervals_ms"]
        errors = sum(level["errors"].values())
        table.add_row(
            level["name"],
            f"{level['per_second']:,.1f}",
            _half(level["per_second_interval"]),
            *(milliseconds(latency[key]) for key in ("p50", "p90", "p99")),
            _half(spans["p99"]),
            *(milliseconds(latency[key]) for key in ("p99.9", "max")),
            f"{errors:,} ({100 * level['error_rate']:.1f} %)" if errors else "",
            f"{100 * level['client']['work']:.0f} %",
        )
    console.print(table)
    for line in notes(result):
        outcome("note", line)
    found = result["search"]
    if found is not None:
        kept = " and ".join(found["conditions"])
        rate = (
            "not even the lowest rate meets"
            if found["rate"] is None
            else f"{found['rate']:,.1f} requests per second ({found['per_second']:,.1f} answered) meet"
        )
        limited = "; the client was the limit" if found["client_limited"] else ""
        outcome("limit", f"{rate} {kept}{limited}")
    for level in result["levels"]:
        if level.get("swaps"):
            outcome("swaps", f"{level['name']}: {_swap_summary(level)}")
    if result["trace"] is not None:
        stages = result["trace"]["stages_ms"]
        outcome("trace", ", ".join(f"{name} {milliseconds(value)} ms" for name, value in stages.items()))


def notes(result: dict[str, Any]) -> list[str]:
    """Returns what a reader must know to interpret the figures: errors, a saturated client, unsteady levels."""
    found = []
    if result.get("failure") is not None:
        found.append(result["failure"])
    if result["stopped_by"] == INTERRUPTED and result["levels"]:
        found.append(f"{result['levels'][-1]['name']}: interrupted; the figures cover what was measured until then")
    for level in result["levels"]:
        name = level["name"]
        for code, count in level["errors"].items():
            example = next(iter(level["error_examples"].get(code, [])), "")
            found.append(f"{name}: {count:,} times {code}: {example[:200]}; latency counts only answered requests")
        if level["client"]["saturated"]:
            found.append(f"{name}: the client is the bottleneck: {'; '.join(level['client']['reasons'])}")
        if level["stable"] is False:
            found.append(f"{name}: the intervals are wider than the bound; measure longer with --max-seconds")
        if level["warm_up"]["steady"] is False:
            found.append(f"{name}: latency was not steady when the warm-up ended; see --warm-up")
        if level["warm_up"]["counted"]:
            found.append(f"{name}: ended during the warm-up, whose windows the figures therefore cover")
        if level["unfinished"]:
            found.append(f"{name}: {level['unfinished']:,} requests were not answered when the run ended")
    return found


def _swap_summary(level: dict[str, Any]) -> str:
    swaps, quiet = level["swaps"], level["quiet_latency_ms"]["p99"]
    took = [swap["served"] - swap["put"] for swap in swaps if swap["served"] is not None]
    slowest = max((swap["latency_ms"]["p99"] or 0.0 for swap in swaps), default=0.0)
    return (
        f"{len(swaps)} new versions, {len(took)} of which served"
        + (f" after at most {max(took):.1f} s" if took else "")
        + f"; p99 around them at most {milliseconds(slowest)} ms, otherwise {milliseconds(quiet) or 'none'} ms; "
        + f"{sum(swap['errors'] for swap in swaps):,} errors around them"
    )


def _half(span: list[float] | None) -> str:
    if span is None or not span[0] + span[1]:
        return ""
    return f"{100 * (span[1] - span[0]) / (span[1] + span[0]):.1f} %"
