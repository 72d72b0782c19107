"""Computes the figures of a level from its windows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hdrh.histogram import HdrHistogram

from tfserving_ext.loadtest.gate import FIGURES
from tfserving_ext.loadtest.level import LEAST_WINDOWS, Measured
from tfserving_ext.loadtest.recorder import PERCENTILES, Window, intervals, latency_figures, merged

AROUND_SECONDS = 2  # A swap affects requests up to this long after the new version serves; later ones are quiet time.


def level_figures(measured: Measured, names: Sequence[str], percentile: float) -> dict[str, Any]:
    """Computes a level's figures; docs/bench.md describes the format.

    Args:
      measured: the measurements of the level.
      names: the names of the models.
      percentile: a percentile to compute an interval for, in addition to p50 and p99.
    """
    windows = measured.windows
    histogram = merged(part for window in windows for part in window.latency.values())
    errors = _errors(windows)
    sent = sum(sum(window.sent.values()) for window in windows)
    answered = histogram.get_total_count()
    per_second = sum(window.answered for window in windows) / measured.seconds
    spread = _intervals(windows, percentile)
    return {
        "seconds": measured.seconds,
        "warm_up": measured.warm_up,
        "stopped_by": measured.stopped_by,
        "stable": measured.stable,
        "requests": sent,
        "answered": answered,
        "errors": errors,
        "error_rate": sum(errors.values()) / sent if sent else 0.0,
        "error_examples": measured.examples,
        "unfinished": measured.unfinished,
        "offered_per_second": sent / measured.seconds,
        "per_second": per_second,
        "per_second_interval": spread["per_second"],
        "latency_ms": latency_figures(histogram),
        "latency_intervals_ms": spread["percentiles"],
        "service_ms": latency_figures(merged(window.service for window in windows)),
        "client": measured.client,
        "histogram": encoded(histogram),
        "models": [_model_figures(windows, place, name) for place, name in enumerate(names)],
        "timeline": [_window_figures(window) for window in windows],
    }


def condition_figures(level: Mapping[str, Any]) -> dict[str, float | None]:
    """Returns those of a level's figures that conditions (`gate.Condition`) can refer to, by name."""
    found = {f"{name}_ms": value for name, value in level["latency_ms"].items()}
    found |= {name: level[name] for name in ("per_second", "requests", "error_rate")}
    found["errors"] = float(sum(level["errors"].values()))
    return {name: found[name] for name in FIGURES}


def add_swaps(level: dict[str, Any], swaps: Sequence[Mapping[str, Any]], windows: Sequence[Window]) -> None:
    """Adds the latency of the requests sent around each swap, and of all others, to a level's figures.

    Args:
      level: the level's figures, to which `swaps` and `quiet_latency_ms` are added.
      swaps: the swaps, as in `Swapper.swaps`. In the figures, their seconds count from the first window.
      windows: the windows that count.
    """
    first = windows[0].begin if windows else 0.0

    def around(swap: Mapping[str, Any], window: Window) -> bool:
        until = swap["put"] + AROUND_SECONDS if swap["served"] is None else swap["served"] + AROUND_SECONDS
        return window.begin + 1 > swap["put"] and window.begin < until

    level["swaps"] = [
        {
            **swap,
            "put": swap["put"] - first,
            "served": None if swap["served"] is None else swap["served"] - first,
            "errors": sum(_errors([window for window in windows if around(swap, window)]).values()),
            "latency_ms": _latency([window for window in windows if around(swap, window)]),
        }
        for swap in swaps
    ]
    level["quiet_latency_ms"] = _latency([w for w in windows if not any(around(swap, w) for swap in swaps)])


def encoded(histogram: HdrHistogram) -> str:
    """Encodes a histogram in HdrHistogram's compressed form and base64, which every HdrHistogram library reads."""
    return histogram.encode().decode()


def decoded(text: str) -> HdrHistogram:
    """Decodes a histogram from `encoded`."""
    return HdrHistogram.decode(text)


def _latency(windows: Sequence[Window]) -> dict[str, float | None]:
    return latency_figures(merged(part for window in windows for part in window.latency.values()))


def _errors(windows: Sequence[Window], model: int | None = None) -> dict[str, int]:
    total: Counter[str] = Counter()
    for window in windows:
        for place, codes in window.failed.items():
            if model in (None, place):
                total.update(codes)
    return dict(sorted(total.items()))


def _intervals(windows: Sequence[Window], percentile: float) -> dict[str, Any]:
    wanted = {name: percent for name, percent in PERCENTILES.items() if percent in (50.0, 99.0, percentile)}
    if percentile not in wanted.values():
        wanted[f"p{percentile:g}"] = percentile
    if len(windows) < LEAST_WINDOWS:
        return {"per_second": None, "percentiles": dict.fromkeys(wanted)}
    found = intervals(windows, list(wanted.values()))
    return {
        "per_second": found["per_second"],
        "percentiles": {name: found["percentiles"][percent] for name, percent in wanted.items()},
    }


def _model_figures(windows: Sequence[Window], place: int, name: str) -> dict[str, Any]:
    histogram = merged(window.latency[place] for window in windows if place in window.latency)
    return {
        "name": name,
        "requests": sum(window.sent.get(place, 0) for window in windows),
        "answered": histogram.get_total_count(),
        "errors": _errors(windows, place),
        "latency_ms": latency_figures(histogram),
        "histogram": encoded(histogram),
    }


def _window_figures(window: Window) -> dict[str, Any]:
    found = latency_figures(merged(window.latency.values()))
    return {
        "begin": window.begin,
        "sent": sum(window.sent.values()),
        "answered": window.answered,
        "errors": sum(_errors([window]).values()),
        **{f"{name}_ms": found[name] for name in ("p50", "p99", "max")},
    }
