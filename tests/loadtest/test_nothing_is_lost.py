"""Errors beside the load keep its measurements, and errors that would come after it are found before."""

import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from benchmarks.serving.load_stub import running_stub
from tests.loadtest.virtual import StubTarget, measure
from tests.stderr import without_tensorflow_s
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import bench
from tfserving_ext.loadtest.recorder import latency_figures, merged, new_histogram
from tfserving_ext.loadtest.scenario import ModelSpec, Scenario


def nann_bench(*arguments):
    command = [sys.executable, "-c", "from tfserving_ext.cli import main; main()", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def metrics():
    """The URL of a server's metrics that can be read only twice."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked += 1
            self.send_response(200 if server.asked <= 2 else 500)
            self.end_headers()
            self.wfile.write(b"# TYPE requests_total counter\nrequests_total 1\n")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    server.shutdown()


@pytest.mark.medium
def test_a_failure_between_levels_leaves_those_before(metrics, tmp_path):
    out = tmp_path / "r.json"
    with running_stub("--service", "fixed:5") as stub:
        flags = ("--target", stub.grpc, "--model", "stub", "--warm-up", 0, "--seconds", 1, "--prometheus", metrics)
        done = nann_bench(*flags, "--concurrency", "1:2", "-o", out)
    assert done.returncode == 1
    assert "answered 500" in done.stderr.splitlines()[-1] and "measured before is above" in done.stderr
    result = json.loads(out.read_text())
    assert "answered 500" in result["failure"]
    assert [level["name"] for level in result["levels"]] == ["1 clients"] and result["levels"][0]["answered"] > 50


@pytest.mark.medium
def test_a_profiler_that_is_not_there_leaves_the_measurement(tmp_path):
    with running_stub("--service", "fixed:5") as stub:
        server = {"profile": tmp_path / "profile", "profile_server": "127.0.0.1:1"}
        result = bench(Scenario(target=stub.grpc, models=[ModelSpec(name="stub")], warm_up=0, seconds=1, **server))
    assert result["failure"].startswith("the profiler at 127.0.0.1:1 gave no trace")
    assert result["levels"][0]["answered"] > 50


@pytest.mark.slow
def test_nothing_but_failures_is_no_success(tmp_path):
    with running_stub("--service", "fixed:50") as stub:
        flags = ("--target", stub.grpc, "--model", "stub", "--warm-up", 0, "--seconds", 1, "--timeout", 0.01)
        done = nann_bench(*flags)
    assert done.returncode == 1
    assert (
        without_tensorflow_s(done.stderr)
        == "error: no request was answered successfully at 1 clients: DEADLINE_EXCEEDED\n"
    )


@pytest.mark.slow
def test_a_limit_below_the_lowest_rate_is_no_success():
    with running_stub("--service", "fixed:50") as stub:
        flags = ("--target", stub.grpc, "--model", "stub", "--warm-up", 0, "--seconds", 1, "--rate", 20)
        done = nann_bench(*flags, "--max-rate-with", "p50_ms <= 10")
    assert done.returncode == 1
    assert (
        without_tensorflow_s(done.stderr)
        == "error: even the lowest rate, 20 requests per second, does not meet p50_ms <= 10\n"
    )


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r.html", "is the file of the report; -o must name a file for the JSON, such as"),
        ("pipe", "is not a regular file"),
        ("/proc/none/r.json", "cannot write to /proc/none"),
        (".", "is not a regular file"),
    ],
)
def test_where_nothing_can_be_written_is_said_before_the_load(tmp_path, name, message):
    os.mkfifo(tmp_path / "pipe")
    done = nann_bench("--target", "grpc://127.0.0.1:1", "-o", tmp_path / name)  # No server answers there.
    assert done.returncode == 1
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "r.json").symlink_to(tmp_path / "other" / "kept.json")
    with running_stub("--service", "fixed:5") as stub:
        flags = ("--target", stub.grpc, "--model", "stub", "--warm-up", 0, "--seconds", 1)
        assert nann_bench(*flags, "-o", tmp_path / "r.json").returncode == 0
    assert (tmp_path / "r.json").is_symlink() and (tmp_path / "r.html").is_file()
    assert json.loads((tmp_path / "other" / "kept.json").read_text())["levels"]
    done = nann_bench("report", tmp_path / "r.json", "-o", tmp_path / "r.json")
    assert done.returncode == 1 and "is the result itself" in done.stderr


@pytest.mark.medium
def test_a_profile_that_cannot_be_written_is_said_before_the_load():
    with running_stub() as stub, pytest.raises(NannError, match="cannot write to /proc/none"):
        server = {"profile": "/proc/none", "profile_server": "127.0.0.1:1"}
        bench(Scenario(target=stub.grpc, models=[ModelSpec(name="stub")], **server))


def test_few_seconds_have_no_interval():
    short, *_ = measure(StubTarget, seconds=4)
    long, *_ = measure(StubTarget, seconds=6)
    assert short["per_second_interval"] is None and set(short["latency_intervals_ms"].values()) == {None}
    assert long["per_second_interval"][0] <= long["per_second"] <= long["per_second_interval"][1]


def test_an_empty_second_has_no_part_in_the_least_latency():
    full = new_histogram()
    full.record_value(7000)
    assert latency_figures(merged([full.encode(), new_histogram().encode()]))["min"] == pytest.approx(7, rel=1e-3)


def test_rates_have_draws_of_their_own():
    """Otherwise a random first second with few requests would be repeated in every level."""
    first, second = (np.asarray(measure(StubTarget, "open", rate, seconds=10)[1].sent) * rate for rate in (50, 100))
    assert abs(np.corrcoef(np.diff(first[:400]), np.diff(second[:400]))[0, 1]) < 0.2  # 4 standard deviations.
