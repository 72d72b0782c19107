"""Made-up results of `nann bench`, computed by the code for real ones."""

from array import array
from collections import Counter

import numpy as np

from tfserving_ext.loadtest.figures import add_swaps, condition_figures, level_figures
from tfserving_ext.loadtest.gate import Condition
from tfserving_ext.loadtest.level import Measured
from tfserving_ext.loadtest.recorder import Second, to_window
from tfserving_ext.loadtest.scenario import Scenario
from tfserving_ext.machine import machine, versions

HOSTILE = "<script>alert(1)</script>\"'&$x^2$ <!-- --> \ud800"


def window(begin, rng, rate=100, errors=0, models=1, median_us=5000.0, code="HTTP 503"):
    """Makes a window of one second, whose requests are divided between the models."""
    second = Second(float(begin))
    for model in range(models):
        sent = rate // models
        failed = errors if model == 0 else 0
        second.sent[model] = sent
        latencies = rng.lognormal(np.log(median_us * (1 + model)), 0.4, sent - failed).astype(int).tolist()
        second.latencies[model] = array("q", latencies)
        second.service.extend(latencies)
        if failed:
            second.failed[model] = Counter({code: failed})
        second.answered += sent - failed
    second.late.extend([100] * rate)
    return to_window(second)


def level(
    amount=100, mode="open", seconds=12, errors=0, names=("nann",), swaps=None, example="told to fail", **changes
):
    """Makes a level; `changes` replace its figures."""
    rng = np.random.default_rng(int(amount))
    code = changes.pop("code", "HTTP 503")
    windows = [
        window(3 + n, rng, int(amount), errors, len(names), 5000 * (1 + amount / 200), code) for n in range(seconds)
    ]
    client = {"work": 0.25, "waiting": 0.01, "late_p99_ms": 0.1, "blocked": 0, "saturated": False, "reasons": []}
    measured = Measured(
        windows,
        {"seconds": 3.0, "steady": True, "counted": False},
        float(seconds),
        client,
        {code: [example]} if errors else {},
        0,
        None,
        None,
    )
    name = {"open": f"{amount:g}/s", "closed": f"{amount:g} clients", "replay": f"replay x{amount:g}"}[mode]
    made = {"name": name, "mode": mode, "amount": amount, "arrivals": "poisson" if mode == "open" else None}
    made |= level_figures(measured, names, 99.0)
    if swaps is not None:
        add_swaps(made, swaps, windows)
    return made | changes


def result(*levels, scenario=None, sha256=None, **changes):
    """Makes a result of these levels; `changes` replace its fields."""
    scenario = Scenario(rate="100") if scenario is None else scenario
    return {
        "format": "nann bench",
        "format_version": 1,
        "started": "2026-11-28T20:18:54+00:00",
        "seconds": 63.0,
        "stopped_by": levels[-1]["stopped_by"] if levels else None,
        "machine": machine(),
        "versions": versions(),
        "scenario": scenario.model_dump(mode="json"),
        "target": {"kind": "grpc", "address": scenario.target},
        "models": [
            {
                "name": model.name,
                "signature": model.signature,
                "weight": model.weight,
                "requests": 64,
                "inputs": {"item_history": "int64 [1, 20]"},
                "traceable": False,
                "sha256": sha256,
            }
            for model in scenario.models
        ],
        "levels": list(levels),
        "search": None,
        "trace": None,
        "conditions": [
            {"condition": text, "level": one["name"]}
            for text in scenario.fail_if
            for one in levels
            if Condition.parse(text).holds(condition_figures(one))
        ],
    } | changes


def trace():
    stages = {"user tower": 0.8, "walk": 1.1, "gather": 0.25, "scorer": 3.4, "merge": 0.05, "server and network": 1.4}
    return {"model": "nann", "requests": 50, "total_ms": sum(stages.values()), "stages_ms": stages}


def search(conditions=("p99_ms <= 20",)):
    """Makes a search that tried the rates 100, 200 and 150."""
    tried = [(100.0, True, 12.5), (200.0, False, 41.25), (150.0, True, 19.125)]
    return {
        "conditions": list(conditions),
        "tried": [{"rate": rate, "kept": kept, "client_limited": False, "p99_ms": p99} for rate, kept, p99 in tried],
        "rate": 150.0,
        "client_limited": False,
    }


def process(seconds=15):
    samples = [[n + 0.003, 1.2 + 0.1 * (n % 3), 850.0 + n] for n in range(1, seconds)]
    return {
        "pid": 4711,
        "cores_mean": 1.3,
        "cores_max": 1.4,
        "rss_mb_first": 850.0,
        "rss_mb_max": 864.0,
        "samples": samples,
    }


def prometheus():
    name = ":tensorflow:serving:request_latency"
    found = {f'{name}_bucket{{le="{n}"}}': float(n) for n in range(100, 140)}
    found |= {f'{name}_count{{model_name="nann"}}': 1234.0, f'{name}_created{{model_name="nann"}}': 1.7e9}
    return found | {f"metric_{n:02d}": float(n) for n in range(1, 60)}


def swapped():
    """Makes two swaps, the second of which never serves; seconds count from the level's start, warm-up included."""
    return [
        {"model": "nann", "version": 2, "put": 6.5, "served": 8.25},
        {"model": "nann", "version": 3, "put": 11.5, "served": None},
    ]


def full():
    """Makes a result with everything that a report can show."""
    scenario = Scenario(
        target="http://127.0.0.1:8501", rate="100:300:100", models=[{"name": "nann"}, {"name": "other", "weight": 0.5}],
        fail_if=["p99_ms > 1", "p50_ms > 1000000"],
    )  # fmt: skip
    names = ("nann", "other")
    client = {"work": 0.95, "waiting": 0.0, "late_p99_ms": 4.0, "blocked": 0, "saturated": True}
    levels = [
        level(100, names=names, prometheus=prometheus(), process=process()),
        level(200, names=names, prometheus=prometheus(), process=process(), stable=False),
        level(
            300, names=names, errors=20, swaps=swapped(), prometheus=prometheus(), process=process(),
            client=client | {"reasons": ["the client is busy 95 % of the time"]},
        ),
    ]  # fmt: skip
    return result(*levels, scenario=scenario, trace=trace(), search=search())
