"""Known service times over real sockets, in both loops: the reported figures are right within 5 per cent.

The stub answers earlier by `lead`, which compensates for the time of the sockets, of both Python processes and of a
sleeping processor. A separate blocking client with its own clock, which shares no code with `nann bench`, measures it.

Nothing else may run on the machine meanwhile, so `make test` runs these tests alone. As other processes can still
disturb a measurement, each has several attempts; a figure that is really wrong is wrong in all of them.
"""

import http.client
import json
import os
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2

from benchmarks.serving.load_client import on_one_core
from benchmarks.serving.load_stub import STALL_EVERY, STALL_SECONDS, running_stub
from tfserving_ext.loadtest import ModelSpec, Scenario, bench

pytestmark = pytest.mark.alone

STUB = ModelSpec(name="stub")
CLOSE = 0.05
ATTEMPTS = 10
SERVICE = 5.0
FAST, SLOW, SLOW_PERCENT = 10.0, 40.0, 30
LOADS = {"closed": {"concurrency": "1"}, "open": {"rate": "60"}}
PAUSE = 1 / 60  # Seconds; the mean interval of the open loop.
KINDS = ["grpc", "rest"]


def blocking_client(stub, kind):
    """Returns a function that sends a request and waits for its answer."""
    if kind == "grpc":
        channel = grpc.insecure_channel(stub.grpc.removeprefix("grpc://"))
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "stub"
        return lambda: call(request.SerializeToString(), timeout=10)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(stub.rest).netloc, timeout=10)
    body = json.dumps({"inputs": [[0.0] * 4]})

    def send():
        connection.request("POST", "/v1/models/stub:predict", body)
        connection.getresponse().read()

    return send


def lead_ms(kind, loop):
    """Measures the median time that a request takes beyond its service time.

    For an open loop, the time counts from the intended send time, after a pause.
    """
    with running_stub("--service", f"fixed:{SERVICE}") as stub:
        send, taken = blocking_client(stub, kind), []
        for _ in range(220):
            pause = PAUSE if loop == "open" else 0.0
            meant = time.perf_counter() + pause
            if pause:
                time.sleep(pause)
            send()
            taken.append(1000 * (time.perf_counter() - meant) - SERVICE)
    return max(0.0, float(np.median(taken[20:])))


def near(value, wanted):
    assert value == pytest.approx(wanted, rel=CLOSE)


def check_level(kind, loop, *flags, seconds, quantiles, mean, errors):
    """Measures a stub with these flags that compensates for the sockets, until the figures are right.

    Args:
      kind: the protocol, "grpc" or "rest".
      loop: "closed" or "open".
      *flags: the stub's flags.
      seconds: the length of the measurement.
      quantiles: the expected latencies in ms by name.
      mean: returns the mean service time in ms of the requests in the stub's log.
      errors: whether some requests should fail.
    """
    for left in reversed(range(ATTEMPTS)):
        with running_stub("--lead", str(lead_ms(kind, loop)), *flags) as stub:
            scenario = Scenario(target=getattr(stub, kind), models=[STUB], warm_up=0, seconds=seconds, **LOADS[loop])
            (level,) = bench(scenario)["levels"]
            with urllib.request.urlopen(f"{stub.rest}/log") as answer:
                log = np.array(json.load(answer))
        # The first request is the one that `bench` sends before the load.
        log = log[1 : 1 + level["requests"]]
        failed = log[:, 2].sum()
        try:
            for name, wanted in quantiles.items():
                near(level["latency_ms"][name], wanted)
            near(level["per_second"], (len(log) - failed) / seconds)
            if loop == "closed":
                near(level["requests"] / seconds, 1000 / mean(log))
            assert (failed > 0) == errors
            assert set(level["errors"].values()) == ({failed} if errors else set())
            near(level["error_rate"], failed / len(log))
            assert set(level["errors"]) <= {"grpc": {"RESOURCE_EXHAUSTED"}, "rest": {"HTTP 503"}}[kind]
        except AssertionError:
            if not left:
                raise
        else:
            return


@pytest.mark.parametrize("loop", LOADS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_time(kind, loop):
    check_level(
        kind, loop, "--service", f"fixed:{SERVICE}",
        seconds=4, quantiles={"p50": SERVICE}, mean=lambda log: SERVICE, errors=False,
    )  # fmt: skip


@pytest.mark.parametrize("loop", LOADS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_times_and_a_fifth_that_fails(kind, loop):
    def mean(log):
        slow = (1000 * log[:, 1] > (FAST + SLOW) / 2).mean()
        return FAST + slow * (SLOW - FAST)

    check_level(
        kind, loop, "--service", f"bimodal:{FAST}:{SLOW}:{SLOW_PERCENT}", "--errors", "20",
        seconds=5, quantiles={"p50": FAST, "p90": SLOW}, mean=mean, errors=True,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_stall_shows_in_an_open_loops_high_percentiles(kind):
    """In an even stream of which the fraction q meets a stall, 1 in 1,000 waits at least 1 - 0.001 / q of the stall."""
    seconds = 2 * STALL_EVERY + 1
    part = 2 * STALL_SECONDS / seconds
    for left in reversed(range(ATTEMPTS)):
        with running_stub("--service", f"fixed:{SERVICE}", "--stall") as stub:
            scenario = Scenario(
                target=getattr(stub, kind), models=[STUB], warm_up=0, seconds=seconds, rate="200", arrivals="constant"
            )
            latency = bench(scenario)["levels"][0]["latency_ms"]
        try:
            for name, above in (("p99", 0.01), ("p99.9", 0.001)):
                near(latency[name], SERVICE + 1000 * STALL_SECONDS * (1 - above / part))
            near(latency["max"], SERVICE + 1000 * STALL_SECONDS)
        except AssertionError:
            if not left:
                raise
        else:
            return


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_goes_far_or_says_that_it_does_not(kind):
    with running_stub() as stub, on_one_core():
        (level,) = bench(Scenario(target=getattr(stub, kind), models=[STUB], warm_up=1, seconds=3, concurrency="16"))[
            "levels"
        ]
    assert level["errors"] == {}
    assert level["per_second"] >= 3000 or level["client"]["saturated"], level["client"]


def test_one_core_is_one_core_and_then_all_again():
    before = os.sched_getaffinity(0)
    with on_one_core():
        assert len(os.sched_getaffinity(0)) == 1
        with ThreadPoolExecutor(1) as pool:
            assert len(pool.submit(os.sched_getaffinity, 0).result()) == 1
    assert os.sched_getaffinity(0) == before
