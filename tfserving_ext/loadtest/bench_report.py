"""Writes the result of `nann bench` as a self-contained HTML page."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tfserving_ext.loadtest.figures import condition_figures
from tfserving_ext.loadtest.gate import Condition
from tfserving_ext.loadtest.limits import KEEPS_UP
from tfserving_ext.loadtest.live import milliseconds, notes
from tfserving_ext.loadtest.recorder import PERCENTILES
from tfserving_ext.loadtest.report_plots import (
    MAX_LINES,
    chosen,
    load_curve,
    percentile_plot,
    process_plots,
    timed,
    timeline,
    trace_bar,
)
from tfserving_ext.loadtest.scenario import ModelSpec, Scenario
from tfserving_ext.reports.page import write_page

Result = Mapping[str, Any]
Level = Mapping[str, Any]

MAX_METRICS = 40
_FEW = 10  # A percentile with fewer slower requests than this is uncertain.
_SHOWN = ("p50", "p90", "p99", "p99.9", "p99.99", "max")
_STOPPED = {
    "interrupted": "The run was interrupted. The figures cover what was measured before.",
    "server lost": "The server stopped answering, and the run ended. The figures cover what was measured before.",
}


def write_report(path: str | os.PathLike[str], result: Result) -> None:
    """Writes the report of a result, whole or not at all.

    Args:
      path: the HTML file.
      result: what `bench` returned.

    Raises:
      NannError: the file cannot be written.
    """
    levels = result["levels"]
    search = result["search"]
    lines = chosen(levels)
    write_page(
        path,
        Path(__file__).with_name("templates"),
        "load.html.jinja",
        result=result,
        milliseconds=milliseconds,
        facts=facts(result),
        warnings=warnings(result),
        columns=_columns(levels),
        rows=[_row(level, _columns(levels)) for level in levels],
        curve=load_curve(levels),
        percentiles=_percentiles(result, lines),
        timelines=[plot for number, level in enumerate(_timed(result)) for plot in timeline(level, number)],
        timeline_levels=[level["name"] for level in _timed(result)],
        swaps=[(level, swap) for level in levels for swap in level.get("swaps", [])],
        tried=[] if search is None else _tried(search),
        trace=None if result["trace"] is None else trace_bar(result["trace"]),
        metrics=_metrics(lines),
        metric_levels=[level["name"] for level in lines if level.get("prometheus")],
        processes=[level for level in levels if level.get("process")],
        process_plots=process_plots(levels),
        configuration=configuration(result["scenario"]),
        fields=[(name, _as_text(value)) for name, value in result["scenario"].items()],
    )


def facts(result: Result) -> list[tuple[str, str, str]]:
    """Returns the most important figures, as (name, value, remark)."""
    levels, search = result["levels"], result["search"]
    found = []
    if search is not None:
        kept = " and ".join(search["conditions"])
        rate = "none" if search["rate"] is None else f"{search['rate']:,.1f}/s"
        found.append(("highest rate that meets", rate, kept))
    if not levels:
        return found
    best = max(levels, key=lambda level: level["per_second"])
    if search is not None and search["rate"] is not None:
        best = next((level for level in levels if level["amount"] == search["rate"]), best)
    at = f"at {best['name']}"
    span = f"{_range(best['per_second_interval'])} {at}".strip()
    found.append(("answered per second", f"{best['per_second']:,.1f}", span))
    for key in ("p50", "p99"):
        value, interval = best["latency_ms"][key], best["latency_intervals_ms"].get(key)
        text = f"{milliseconds(value)} ms" if value is not None else "nothing answered"
        found.append((f"latency, {key}", text, f"{_range(interval, milliseconds)} {at}".strip()))
    sent, failed = sum(level["requests"] for level in levels), sum(sum(level["errors"].values()) for level in levels)
    found.append(
        ("errors", f"{failed:,}", f"of {sent:,} requests" + (f", {_percent(failed / sent)}" if failed else ""))
    )
    return found


def warnings(result: Result) -> list[tuple[str, str]]:
    """Returns what a reader must know to interpret the figures, as ("bad" or "note", text)."""
    levels = {level["name"]: level for level in result["levels"]}
    found = []
    if result["stopped_by"] is not None:
        found.append(("bad", _STOPPED.get(result["stopped_by"], f"The run ended early: {result['stopped_by']}.")))
    for failed in result["conditions"]:
        figure = Condition.parse(failed["condition"]).figure
        value = condition_figures(levels[failed["level"]])[figure]
        text = "missing, as nothing was answered" if value is None else f"{value:,.6g}"
        found.append(("bad", f"failed: {failed['condition']} holds at {failed['level']}: {figure} is {text}"))
    if result["search"] is not None and result["search"]["client_limited"]:
        found.append(("bad", "The client limited the search, not the server: the true limit may be higher."))
    # A search exceeds the server's limit on purpose, and its table shows which rates do.
    for level in levels.values() if result["search"] is None else ():
        if level["mode"] != "closed" and level["per_second"] < KEEPS_UP * level["offered_per_second"]:
            found.append(
                ("bad", f"{level['name']}: the server did not keep up: {level['per_second']:,.1f} requests per second "
                f"were answered successfully, of {level['offered_per_second']:,.1f} that were sent")
            )  # fmt: skip
    return found + [("note", text) for text in notes(dict(result))]


def configuration(scenario: Mapping[str, Any]) -> str:
    """Returns YAML that runs this scenario again; fields with default values are left out."""
    default, model = Scenario().model_dump(mode="json"), ModelSpec().model_dump(mode="json")
    fields = {"target": scenario["target"]}
    fields |= {name: value for name, value in scenario.items() if value != default.get(name)}
    fields["models"] = [
        {name: value for name, value in one.items() if name == "name" or value != model.get(name)}
        for one in scenario["models"]
    ]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)


def _columns(levels: Sequence[Level]) -> list[str]:
    """Returns the percentiles of the table: the usual ones, and those that have an interval."""
    asked = {key for level in levels for key in level["latency_intervals_ms"]}
    return sorted({*_SHOWN, *asked}, key=lambda key: 101.0 if key == "max" else float(key[1:]))


def _row(level: Level, columns: Sequence[str]) -> dict[str, Any]:
    """Formats a level for the table; a cell is (value, small print, CSS class)."""
    cells = []
    for key in columns:
        is_thin = key in PERCENTILES and level["answered"] * (1 - PERCENTILES[key] / 100) < _FEW
        interval = _range(level["latency_intervals_ms"].get(key), milliseconds)
        cells.append((milliseconds(level["latency_ms"].get(key)), interval, "thin" if is_thin else ""))
    errors, client = sum(level["errors"].values()), level["client"]
    stable = {None: "for a set time", True: "within the bound", False: "not within the bound"}[level["stable"]]
    offered = f"{level['offered_per_second']:,.1f} sent" if level["mode"] != "closed" else ""
    busy = "the bottleneck" if client["saturated"] else ""
    return {
        "name": level["name"],
        "seconds": f"{level['seconds']:,.0f} s",
        "per_second": (f"{level['per_second']:,.1f}", _range(level["per_second_interval"]), offered),
        "cells": cells,
        "errors": (f"{errors:,}", _percent(level["error_rate"]) if errors else "", "bad" if errors else ""),
        "busy": (f"{100 * client['work']:.0f} %", busy, "bad" if client["saturated"] else ""),
        "stable": (stable, "bad" if level["stable"] is False else ""),
    }


def _percentiles(result: Result, lines: Sequence[Level]) -> list[Any]:
    """Plots the levels, and with several models also the models of the last level."""
    plots = [percentile_plot("percentiles", "Latency by percentile", {level["name"]: level for level in lines})]
    last = result["levels"][-1] if result["levels"] else None
    if last is not None and len(last["models"]) > 1:
        models = {model["name"]: model for model in last["models"][:MAX_LINES]}
        plots.append(percentile_plot("models", f"Latency by percentile and model, {last['name']}", models))
    return [plot for plot in plots if plot is not None]


def _timed(result: Result) -> list[Level]:
    return timed(result["levels"], None if result["search"] is None else result["search"]["rate"])


def _tried(search: Mapping[str, Any]) -> list[tuple[str, list[str], str, str]]:
    """Returns the rates in the order in which they were tried, as (rate, figures, verdict, CSS class)."""
    rows = []
    for one in search["tried"]:
        figures = [value for name, value in one.items() if name not in ("rate", "kept", "client_limited")]
        verdict = "kept" if one["kept"] else "the client was too busy" if one["client_limited"] else "not kept"
        texts = ["" if value is None else f"{value:,.4g}" for value in figures]
        rows.append((f"{one['rate']:,.1f}", texts, verdict, "good" if one["kept"] else "bad"))
    return rows


def _metrics(levels: Sequence[Level]) -> list[tuple[str, list[str]]]:
    """Returns the metrics with the largest changes, as (name, change in each level), without buckets."""
    scraped = [level["prometheus"] for level in levels if level.get("prometheus")]
    largest: dict[str, float] = {}
    for metrics in scraped:
        for name, change in metrics.items():
            if not name.partition("{")[0].endswith(("_bucket", "_created")):
                largest[name] = max(largest.get(name, 0.0), abs(change))
    names = sorted(largest, key=lambda name: -largest[name])[:MAX_METRICS]
    return [(name, [f"{one[name]:,.6g}" if name in one else "" for one in scraped]) for name in names]


def _range(interval: Sequence[float] | None, text: Any = "{:,.1f}".format) -> str:
    return "" if interval is None else f"{text(interval[0])} to {text(interval[1])}"


def _percent(part: float) -> str:
    return f"{100 * part:.2g} %"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
