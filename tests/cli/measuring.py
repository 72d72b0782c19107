"""The options of `nann evaluate`, `report`, `tune`, `preflight` and `bench`."""

import contextlib
import dataclasses
from pathlib import Path

from tests.cli.entries import GONE, Command, Option, arguments, search
from tfserving_ext.index.coverage_rule import CoverageRule
from tfserving_ext.retrieval import BestFirst

_BY_RULE = {"pool": 250, "batch": 32, "expected_coverage": 0.25}


def _measured(function: str) -> dict[str, Option]:
    """Returns the options that evaluate, tune and preflight share."""
    return {
        **{name: Option("other", {f"{function}.{name}": Path("other")}) for name in ("data", "model", "index")},
        "k": Option("30", {f"{function}.held_out.k": 30}),
        "positions": Option("9", {f"{function}.held_out.positions_per_user": 9}),
        "max_cases": Option("44", {f"{function}.held_out.max_cases": 44}),
    }


EVALUATE = Command(
    arguments("data", "model", "index"),
    {"tfserving_ext.evaluation:evaluate": {}},
    {
        "tfserving_ext.evaluation:summary": "",
        "tfserving_ext.index.coverage_rule:read_rule": CoverageRule((0.5, 0.98), (-3.0, 0.25), 200, 250, 32),
    },
    {
        **_measured("evaluate"),
        **search("evaluate", "searches.{}"),
        "coverage": Option(
            "0.98",
            {f"evaluate.searches.surrogate.{name}": value for name, value in _BY_RULE.items()},
        ),
        "out": Option("figures.json", {"evaluate.target": Path("figures.json")}),
        "search": Option("rounds", {"evaluate.searches.best_first": GONE, "evaluate.searches.surrogate": GONE}),
        "brute_force": Option(
            None,
            {"evaluate.searches": {}},
            ("--search", "rounds"),
        ),
        "split": Option("validation", {"evaluate.held_out.split": "validation"}),
        "curves": Option(None, {"evaluate.options.curve_cases": 500}),
        "curve_cases": Option("70", {"evaluate.options.curve_cases": 70}, ("--curves",)),
        "builds": Option("2", {"evaluate.options.builds": 2}),
        "html": Option(None, {"evaluate.options.html": False}),
    },
)
REPORT = Command(
    {"evaluations": "one.json"},
    {"tfserving_ext.evaluation.compare:report": {"differences": []}},
    {},
    {
        "evaluations": Option("a.json b.json", {"report.paths": [Path("a.json"), Path("b.json")]}),
        "out": Option("page.html", {"report.target": Path("page.html")}),
    },
)
TUNE = Command(
    arguments("data", "model", "index"),
    {"tfserving_ext.evaluation.tune:tune": {"table": [], "tried": 1, "chosen": None, "k": 1, "cases": 1}},
    {},
    {
        **_measured("tune"),
        "coverage": Option("0.9", {"tune.coverage": 0.9}),
        "latency_ms": Option("5", {"tune.latency_ms": 5.0}),
        "split": Option("test", {"tune.held_out.split": "test"}),
    },
)
_VERDICT = {"checks": [], "worst_users": [], "verdict": "PASS", "cases": 1, "users": 1}
PREFLIGHT = Command(
    arguments("data", "model", "index"),
    {"tfserving_ext.evaluation.preflight:preflight": _VERDICT, "tfserving_ext.artifacts:write_json": None},
    {},
    {
        **_measured("preflight"),
        "frontier": Option("7", {"preflight.search.frontier": 7}),
        "pool": Option("321", {"preflight.search.pool": 321}),
        "batch": Option("96", {"preflight.search.batch": 96}, ("--search", "surrogate")),
        "expected_coverage": Option("0.5", {"preflight.search.expected_coverage": 0.5}, ("--search", "surrogate")),
        "ef": Option("3,4,5", {"preflight.search.ef": (3, 4, 5)}, ("--search", "rounds")),
        "rounds": Option("2,3,4", {"preflight.search.rounds": (2, 3, 4)}, ("--search", "rounds")),
        "search": Option(
            "rounds",
            {
                **{f"preflight.search.{field.name}": GONE for field in dataclasses.fields(BestFirst)},
                "preflight.search.ef": (100, 200, 400),
                "preflight.search.rounds": (1, 1, 3),
            },
        ),
        "split": Option("validation", {"preflight.held_out.split": "validation"}),
        "builds": Option("2", {"preflight.builds": 2}),
        "out": Option(
            "verdict.json",
            {
                "write_json.target": Path("verdict.json"),
                **{f"write_json.value.{name}": each for name, each in _VERDICT.items()},
            },
        ),
    },
)

_RAN = {"failure": None, "stopped_by": None, "search": None, "levels": [], "conditions": []}
_SCENARIO = "bench.scenario"


def _load(value: str, name: str, changed: object, *beside: str) -> Option:
    return Option(value, {f"{_SCENARIO}.{name}": changed}, beside)


def _model(value: str, **changed: object) -> Option:
    usual = {"name": "nann", "signature": "serving_default", "version": None, "weight": 1.0, "path": None}
    usual |= {"input_data": None, "data": None, "history_length": 20, "inputs": {}, "requests": 64}
    return Option(value, {f"{_SCENARIO}.models": [usual | changed]})


BENCH = Command(
    {"usual": "--max-seconds 60"},  # Without any flag it shows its help.
    {
        "tfserving_ext.loadtest.run:bench": _RAN,
        "tfserving_ext.loadtest.template:write_template": None,
        "tfserving_ext.artifacts:write_json": None,
        "tfserving_ext.loadtest.bench_report:write_report": None,
    },
    {"tfserving_ext.loadtest.live:live": contextlib.nullcontext(), "tfserving_ext.loadtest.live:print_result": None},
    {
        "config": _load("bench.yaml", "target", "grpc://10.0.0.1:1"),
        "init": Option("new.yaml", {"bench": GONE, "write_template.path": Path("new.yaml")}),
        "target": _load("http://127.0.0.1:3", "target", "http://127.0.0.1:3"),
        "ca": _load("ca.pem", "ca", Path("ca.pem"), "--target", "grpcs://127.0.0.1:3"),
        "cert": _load("c.pem", "cert", Path("c.pem"), "--target", "grpcs://127.0.0.1:3"),
        "key": _load("c.key", "key", Path("c.key"), "--target", "https://127.0.0.1:3"),
        "model": _model("other", name="other"),
        "signature": _model("retrieve", signature="retrieve"),
        "path": _model("models/1", path=Path("models/1")),
        "input_data": _model("in.json", input_data=Path("in.json")),
        "data": _model("data", data=Path("data")),
        "concurrency": _load("3:9", "concurrency", "3:9"),
        "rate": _load("30", "rate", "30"),
        "arrivals": _load("constant", "arrivals", "constant", "--rate", "30"),
        "replay": _load("seen.jsonl", "replay", Path("seen.jsonl")),
        "max_rate_with": _load("p99_ms<=20", "max_rate_with", ["p99_ms<=20"]),
        "warm_up": _load("3", "warm_up", 3.0),
        "seconds": _load("4", "seconds", 4.0),
        "bound": _load("2", "bound", 2.0),
        "max_seconds": _load("70", "max_seconds", 70.0),
        "timeout": _load("6", "timeout", 6.0),
        "seed": _load("8", "seed", 8),
        "swap_every": _load("7", "swap.every", 7.0, "--swap-in", "models"),
        "swap_in": _load("other", "swap.base_path", Path("other"), "--swap-in", "models"),
        "prometheus": _load("http://a/b", "prometheus", "http://a/b"),
        "pid": _load("1234", "pid", 1234),
        "profile": _load("traces", "profile", Path("traces")),
        "profile_server": _load("a:1", "profile_server", "a:1"),
        "trace": _load("6", "trace", 6),
        "fail_if": _load("p99_ms>20", "fail_if", ["p99_ms>20"]),
        "out": Option(
            "result.json",
            {
                "write_json.target": Path("result.json"),
                **{f"write_json.value.{name}": each for name, each in _RAN.items()},
                "write_report.path": Path("result.html"),
                **{f"write_report.result.{name}": each for name, each in _RAN.items()},
            },
        ),
    },
)
BENCH_COMPARE = Command(
    {"baseline": "before.json", "other": "after.json"},
    {"tfserving_ext.loadtest.compare:compare": "ratios", "tfserving_ext.artifacts:write_json": None},
    {
        "tfserving_ext.loadtest.compare:print_comparison": None,
        "tfserving_ext.loadtest.result:read_result": lambda path: path,
    },
    {
        "baseline": Option("x.json", {"compare.baseline": Path("x.json")}),
        "other": Option("x.json", {"compare.other": Path("x.json")}),
        "out": Option("ratios.json", {"write_json.target": Path("ratios.json"), "write_json.value": "ratios"}),
    },
)
BENCH_REPORT = Command(
    {"result": "result.json"},
    {"tfserving_ext.loadtest.bench_report:write_report": None},
    {"tfserving_ext.loadtest.result:read_result": lambda path: path},
    {
        "result": Option("x.json", {"write_report.result": Path("x.json"), "write_report.path": Path("x.html")}),
        "out": Option("page.html", {"write_report.path": Path("page.html")}),
    },
)
