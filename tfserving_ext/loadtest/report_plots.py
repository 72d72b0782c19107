"""The plots of a report of `nann bench`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfserving_ext.loadtest.figures import decoded
from tfserving_ext.loadtest.live import milliseconds
from tfserving_ext.reports.curves import curve_plot, stacked_bar
from tfserving_ext.reports.drawing import Axis, Plot, Series, Span

Level = Mapping[str, Any]

MAX_LINES = 8  # The number of colours that a page has.
MAX_TIMELINES = 4
MAX_POINTS = 300  # Of a timeline; longer ones combine several seconds into one point.
_PER_DECADE = 16  # Points of a percentile plot from 90 % to 99 %, from 99 % to 99.9 %, and so on.
_P50, _P99, _REST, _ERRORS = 0, 1, 2, 5  # Colours.


def chosen(levels: Sequence[Level], most: int = MAX_LINES) -> list[Level]:
    """Chooses at most `most` levels, evenly spread by load, including the lowest and the highest."""
    ordered = sorted(levels, key=lambda level: level["amount"])
    places = np.unique(np.linspace(0, len(ordered) - 1, min(most, len(ordered))).round().astype(int))
    return [ordered[place] for place in places]


def timed(levels: Sequence[Level], best: float | None = None) -> list[Level]:
    """Chooses the levels whose timelines are shown: all if they are few, else the last, one with swaps and the best."""
    found = [level for level in levels if level["timeline"]]
    if len(found) <= MAX_TIMELINES:
        return found
    swapped = [level for level in found if level.get("swaps")][:1]
    kept = [level for level in found if level["amount"] == best][:1]
    names = {level["name"] for level in (*swapped, *kept, found[-1])}
    return [level for level in found if level["name"] in names]


def load_curve(levels: Sequence[Level]) -> Plot | None:
    """Plots latency over throughput; returns None for fewer than two levels."""
    ordered = [level for level in sorted(levels, key=lambda level: level["amount"]) if level["answered"]]
    if len(ordered) < 2:
        return None
    # A line suggests that the points between two levels can be reached. Where throughput fell under more load, they
    # cannot, so the line has a gap there: a point without a latency.
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
    note = "the number of clients" if ordered[0]["mode"] == "closed" else "the requested rate"
    title = f"Latency over throughput, labelled with {note}"
    return curve_plot(
        "load", title, series, Axis("answered per second", "{:,.1f}".format), Axis("latency, ms", milliseconds, "log")
    )


def percentile_plot(name: str, title: str, figures: Mapping[str, Level]) -> Plot | None:
    """Plots latency by percentile, with a line for each of the named figures that has answers; None if none has."""
    histograms = {label: decoded(one["histogram"]) for label, one in figures.items() if one["answered"]}
    if not histograms:
        return None
    series = []
    for color, (label, histogram) in enumerate(histograms.items()):
        total = max(histogram.get_total_count(), 2)
        # Up to the percentile that one request exceeds; all lines share their places, so that the table has one row
        # for all of them.
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
    """Plots a level's latency and throughput by second, with the swaps to new versions."""
    seconds = level["timeline"]
    step = -(-len(seconds) // MAX_POINTS)
    groups = [seconds[place : place + step] for place in range(0, len(seconds), step)]
    x = [group[0]["begin"] - seconds[0]["begin"] for group in groups]
    spans = [
        Span("new version, from its appearance until it serves", swap["put"], swap["served"])
        for swap in level.get("swaps", [])
    ]
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
            f"rate-{number}", f"Requests per second, {level['name']}", load, Axis(over),
            Axis("requests per second", "{:,.5g}".format), spans,
        ),
    ]  # fmt: skip


def trace_bar(trace: Mapping[str, Any]) -> Plot:
    """Plots the mean time of one request by stage."""
    title = f"One request to {trace['model']}: {milliseconds(trace['total_ms'])} ms"
    return stacked_bar("trace", title, "ms", list(trace["stages_ms"].items()))


def process_plots(levels: Sequence[Level]) -> list[Plot]:
    """Plots processor use and memory of the watched process, with one line for each level."""
    watched = chosen([level for level in levels if level.get("process", {}).get("samples")])
    if not watched:
        return []
    plots = []
    for key, place, title, axis, text in (
        ("cores", 1, "Processor", "cores in use", "{:.2f}"),
        ("memory", 2, "Memory", "resident, MB", "{:,.0f}"),
    ):
        series = []
        for color, level in enumerate(watched):
            samples = _thinned(level["process"]["samples"])
            x, y = [sample[0] for sample in samples], [sample[place] for sample in samples]
            series.append(Series(level["name"], x, y, color=color, marked=False))
        over = Axis("second of the level, warm-up included")
        plots.append(curve_plot(f"process-{key}", title, series, over, Axis(axis, text.format)))
    return plots


def _notes(levels: Sequence[Level]) -> list[str]:
    """Returns the load as a label for each point of the curve, empty where it would overlap the previous label."""
    places = np.array([[level["per_second"], level["latency_ms"]["p99"]] for level in levels])
    places = (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-9)
    labels, last = [], None
    for level, place in zip(levels, places, strict=True):
        is_free = last is None or bool(np.any(np.abs(place - last) > 0.08))
        labels.append(f"{level['amount']:,.4g}" if is_free else "")
        last = place if is_free else last
    return labels


def _over(function: Any, values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return float(function(found)) if found else None


def _thinned(samples: Sequence[Sequence[float]]) -> Sequence[Sequence[float]]:
    """Rounds samples to whole seconds, so that levels share rows of the table, and thins them to MAX_POINTS."""
    step = -(-len(samples) // MAX_POINTS)
    return list({round(sample[0]): (round(sample[0]), *sample[1:]) for sample in samples[::step]}.values())
