import itertools
import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.arrivals import constant, poisson, read_recorded
from tfserving_ext.loadtest.gate import FIGURES, Condition
from tfserving_ext.loadtest.ranges import parse_range
from tfserving_ext.loadtest.scenario import Scenario, make_scenario, read_scenario
from tfserving_ext.loadtest.template import TEMPLATE, write_template


def refused(tmp_path, text):
    path = tmp_path / "bench.yaml"
    path.write_text(text)
    with pytest.raises(NannError) as caught:
        fields, lines = read_scenario(path)
        make_scenario(fields, "bench.yaml", lines)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_template_is_valid_and_names_every_field(tmp_path):
    write_template(tmp_path / "bench.yaml")
    fields, lines = read_scenario(tmp_path / "bench.yaml")
    scenario = make_scenario(fields, "", lines)
    assert scenario.levels() == [("closed", 1), ("closed", 2), ("closed", 4), ("closed", 8), ("closed", 16)]
    uncommented = TEMPLATE.replace("# ", "")
    for name in set(Scenario.model_fields) - {"speed", "max_in_flight", "seed", "profile", "profile_server", "trace"}:
        assert f"{name}:" in uncommented
    with pytest.raises(NannError, match="exists"):
        write_template(tmp_path / "bench.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: 5\nspede: 3\n", "bench.yaml, line 2: spede is not a field; did you mean speed?"),
        ("models:\n  - name: a\n  - nome: b\n", "line 3: models.1.nome is not a field; did you mean name?"),
        ("rate: -5\n", "line 1: rate .*-5"),
        ("concurrency: 1:9999\n", "line 1: concurrency .*at most 512"),
        ("concurrency: '2.5'\n", "not a whole number of clients"),
        ("bound: 0\n", "line 1: bound is 0: Input should be greater than 0"),
        ("target: ftp://x\n", "is not grpc://HOST:PORT"),
        ("target: session\n", "needs the path of model nann"),
        ("concurrency: 2\nrate: 3\n", "concurrency and rate are given"),
        ("fail_if: ['p98_ms > 3']\n", "line 1: fail_if .*figures are p50_ms"),
        ("a: [\n", "line 2: not valid YAML"),
        ("- 1\n", "must be a mapping"),
        ("a: &x 1\nb: *x\n", "alias"),
        ("models: []\n", "line 1: models"),
        ("swap: {every: 3}\n", "swap.base_path"),
        ("swap: {base_path: m, model: other}\n", "models are nann"),
        ("warm_up: fast\n", "line 1: warm_up is 'fast'"),
        ("models:\n  - inputs:\n      x:\n        shape: [-1]\n", "line 4: models.0.inputs.x.shape"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    import re

    assert re.search(message, refused(tmp_path, text))


def test_files_that_are_no_text_or_not_there(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "missing"):
        with pytest.raises(NannError, match="cannot read"):
            read_scenario(tmp_path / name)


@given(st.integers(1, 200), st.integers(0, 300))
def test_a_range_doubles_from_its_first_to_its_last(first, more):
    levels = parse_range(f"{first}:{first + more}", 512)
    assert levels[0] == first and levels[-1] == first + more
    assert all(after == min(2 * before, first + more) for before, after in itertools.pairwise(levels))


def test_ranges():
    assert parse_range("8", 512) == [8]
    assert parse_range("1:64", 512) == [1, 2, 4, 8, 16, 32, 64]
    assert parse_range("10:50:10", 512) == [10, 20, 30, 40, 50]
    assert parse_range("0.1:0.3:0.1", 512) == pytest.approx([0.1, 0.2, 0.3])
    for text in ("", "0", "5:1", "1:2:0", "a", "1:1000", "1:100:0.001", "1.2.3", "-1"):
        with pytest.raises(ValueError):
            parse_range(text, 512)


def test_conditions():
    figures = dict.fromkeys(FIGURES, 10.0) | {"error_rate": 0.02, "p99_ms": None}
    assert Condition.parse("p50_ms >= 10").holds(figures)
    assert not Condition.parse("p50_ms<10").holds(figures)
    assert Condition.parse("error_rate > 1%").holds(figures)
    assert not Condition.parse("error_rate > 0.02").holds(figures)
    assert Condition.parse("p99_ms > 20").holds(figures)  # Without answers, the latency counts as infinite.
    for text in ("p99_ms", "p99_ms > x", "p99_ms => 3", "__import__('os') > 1", "", "p99_ms > 1 or 1"):
        with pytest.raises(NannError, match="condition"):
            Condition.parse(text)


def test_arrivals():
    times = constant(50)
    assert [next(times) for _ in range(3)] == [0, 0.02, 0.04]
    drawn = poisson(200, 7)
    found = np.array([next(drawn) for _ in range(20_000)])
    assert found[-1] == pytest.approx(100, rel=0.05)
    distances = np.diff(found)
    assert distances.min() > 0
    # For exponential intervals, a quarter is longer than ln 4 times the mean.
    assert (distances > np.log(4) / 200).mean() == pytest.approx(0.25, abs=0.02)
    again = poisson(200, 7)
    assert [next(again) for _ in range(100)] == found[:100].tolist()


def test_recorded_requests(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(json.dumps({"time": time, "inputs": {"x": [time]}}) for time in (7.5, 5.0, 6.0)) + "\n\n")
    assert [(one.time, one.inputs) for one in read_recorded(path)] == [
        (0.0, {"x": [5.0]}), (1.0, {"x": [6.0]}), (2.5, {"x": [7.5]}),
    ]  # fmt: skip
    for text, message in (
        ("", "no request"),
        ("{}\n", "line 1"),
        ('{"time": 0, "inputs": {}}\n{"time": "NaN", "inputs": {}}\n', "line 2"),
        ("[1]\n", "line 1"),
        ('{"time": 1, "inputs": 3}\n', "line 1"),
    ):
        path.write_text(text)
        with pytest.raises(NannError, match=message):
            read_recorded(path)


def test_the_docs_have_every_field():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "bench.md").read_text()
    for name in Scenario.model_fields:
        assert f"`{name}`" in text, name
    assert yaml.safe_load(TEMPLATE)
