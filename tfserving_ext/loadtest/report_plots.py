"""The plots of a report of `nann bench`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfserving_ext.loadtest.figures import decoded
from tfserving_ext.loadtest.live import milliseconds
from tfserving_ext.reports.curves import curve_plot, stacked_bar
from tfserving_ext.reports.drawing import Axis, Plot, Series, Span

Level = Mapping[str, Any]

MAX_LINES = 8  # As many colours as a page has.
MAX_TIMELINES = 4
MAX_POINTS = 300  # Of a timeline; longer ones are told in steps of some seconds.
_PER_DECADE = 16  # Points of a percentile plot.
_P50, _P99, _REST, _ERRORS = 0, 1, 2, 5  # Colours.


def chosen(levels: Sequence[Level], most: int = MAX_LINES) -> list[Level]:
    """At most so many levels, evenly apart by their load, the least and the largest among them."""
    ordered = sorted(levels, key=lambda level: level["amount"])
    places = np.unique(np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int))
    return [ordered[place] for place in places]


def timed(levels: Sequence[Level], best: float | None = None) -> list[Level]:
    """The levels whose timelines are shown: all; of many the last, one with swaps and that of the best rate."""
    there = [level for level in levels if level["timeline"]]
    if len(there) <= MAX_TIMELINES:
        return there
    swapped = [level for level in there if level.get("swaps")][:1]
    kept = [level for level in there if level["amount"] == best][:1]
    names = {level["name"] for level in (*swapped, *kept, there[-1])}
    return [level for level in there if level["name"] in names]


def load_curve(levels: Sequence[Level]) -> Plot | None:
    """Latency over throughput; None for a single level."""
    ordered = [level for level in sorted(levels, key=lambda level: level["amount"]) if level["answered"]]
    if len(ordered) < 2:
        return None
    # A line says that what lies between two levels can be had. Where throughput fell under more load it cannot: there
    # the line has a gap, a point without a latency.
    x: list[float] = []
    notes: list[str] = []
    at: list[Level | None] = []
    for level, note in zip(ordered, _notes(ordered), strict=True):
        if x and level["per_second"] < x[-1]:
            x, notes, at = [*x, level["per_second"]], [*notes, ""], [*at, None]
        x, notes, at = [*x, level["per_second"]], [*notes, note], [*at, level]
    series = [
        Series(
            key,
            x,
            [None if level is None else level["latency_ms"][key] for level in at],  # type: ignore[misc]
            [None if level is None else level["latency_intervals_ms"][key] for level in at],  # type: ignore[misc]
            color,
            notes=notes if key == "p99" else [],
        )
        for key, color in (("p50", _P50), ("p99", _P99))
    ]
    of = "clients" if ordered[0]["mode"] == "closed" else "the rate asked for"
    title = f"Latency over throughput; at the points, {of}"
    return curve_plot(
        "load", title, series, Axis("answered a second", "{:,.1f}".format), Axis("latency, ms", milliseconds, "log")
    )


def percentile_plot(name: str, title: str, figures: Mapping[str, Level]) -> Plot | None:
    """Latency by percentile, a line for each of the named figures that have a histogram with anything in it."""
    histograms = {label: decoded(of["histogram"]) for label, of in figures.items() if of["answered"]}
    if not histograms:
        return None
    series = []
    for color, (label, histogram) in enumerate(histograms.items()):
        total = max(histogram.get_total_count(), 2)
        # As far as one request of all is slower; shared places, so that the table has a row for all lines.
        steps = np.arange(0, _PER_DECADE * np.log10(total) + 1e-9)
        percents = [100 * (1 - 10 ** (-step / _PER_DECADE)) for step in steps]
        found = histogram.get_percentile_to_value_dict(percents)
        y = [found[percent] / 1000 for percent in percents]
        series.append(Series(label, [percent / 100 for percent in percents], y, color=color, marked=False))
    return curve_plot(
        name,
        title,
        series,
        Axis("percentile of requests", lambda value: f"{100 * value:.6g}", "percentiles"),
        Axis("latency, ms", milliseconds, "log"),
    )


def timeline(level: Level, number: int) -> list[Plot]:
    """Latency and throughput by second, with the versions that were put in place."""
    seconds = level["timeline"]
    step = -(-len(seconds) // MAX_POINTS)
    groups = [seconds[place : place + step] for place in range(0, len(seconds), step)]
    x = [group[0]["begin"] - seconds[0]["begin"] for group in groups]
    spans = [Span("new version: put until it serves", swap["put"], swap["served"]) for swap in level.get("swaps", [])]
    over = "second" if step == 1 else f"second, in steps of {step}"
    marked = len(x) <= 60
    p50, p99 = (
        [_over(over_all, [one[key] for one in group]) for group in groups]
        for key, over_all in (("p50_ms", np.median), ("p99_ms", np.max))
    )
    worst = "p99" if step == 1 else f"p99, the largest of {step} seconds"
    latency = [Series("p50", x, p50, color=_P50, marked=marked), Series(worst, x, p99, color=_P99, marked=marked)]  # type: ignore[arg-type]
    rates = {key: [sum(one[key] for one in group) / len(group) for group in groups] for key in ("answered", "sent")}
    failed = [sum(one["errors"] for one in group) / len(group) for group in groups]
    load = [Series("answered", x, rates["answered"], color=_REST, marked=marked)]
    if level["mode"] != "closed":
        load.insert(0, Series("sent", x, rates["sent"], color=6, marked=marked))
    if any(failed):
        load.append(Series("errors", x, failed, color=_ERRORS, marked=marked))
    return [
        curve_plot(
            f"latency-{number}", f"Latency, {level['name']}", latency, Axis(over),
            Axis("latency, ms", milliseconds, "log"), spans,
        ),
        curve_plot(
            f"rate-{number}", f"Requests a second, {level['name']}", load, Axis(over),
            Axis("requests a second", "{:,.5g}".format), spans,
        ),
    ]  # fmt: skip


def trace_bar(trace: Mapping[str, Any]) -> Plot:
    """The mean time of one request by stage."""
    title = f"One request to {trace['model']}: {milliseconds(trace['total_ms'])} ms"
    return stacked_bar("trace", title, "ms", list(trace["stages_ms"].items()))


def process_plots(levels: Sequence[Level]) -> list[Plot]:
    """Cores in use and memory of the watched process, a line a level."""
    there = chosen([level for level in levels if level.get("process", {}).get("samples")])
    if not there:
        return []
    plots = []
    for key, place, title, axis, text in (
        ("cores", 1, "Processor", "cores in use", "{:.2f}"),
        ("memory", 2, "Memory", "resident, MB", "{:,.0f}"),
    ):
        series = []
        for color, level in enumerate(there):
            samples = _thinned(level["process"]["samples"])
            x, y = [sample[0] for sample in samples], [sample[place] for sample in samples]
            series.append(Series(level["name"], x, y, color=color, marked=False))
        over = Axis("second of the level, warm-up included")
        plots.append(curve_plot(f"process-{key}", title, series, over, Axis(axis, text.format)))
    return plots


def _notes(levels: Sequence[Level]) -> list[str]:
    """The load at each point of the curve, left out where it would lie on that of the point before."""
    places = np.array([[level["per_second"], level["latency_ms"]["p99"]] for level in levels])
    places = (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-9)
    told, last = [], None
    for level, place in zip(levels, places, strict=True):
        is_free = last is None or bool(np.any(np.abs(place - last) > 0.08))
        told.append(f"{level['amount']:,.4g}" if is_free else "")
        last = place if is_free else last
    return told


def _over(function: Any, values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(function(there)) if there else None


def _thinned(samples: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """At whole seconds, so that the levels share their places in the table; not more than a plot can show."""
    step = -(-len(samples) // MAX_POINTS)
    return list({round(sample[0]): (round(sample[0]), *sample[1:]) for sample in samples[::step]}.values())
