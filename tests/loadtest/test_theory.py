"""Known service times in virtual time, compared with theory: within 5 per cent, mostly much closer."""

import numpy as np
import pytest

from tests.loadtest.virtual import StubTarget, measure

CLOSE = 0.05


def near(value, wanted, within=CLOSE):
    assert value == pytest.approx(wanted, rel=within), (value, wanted)


@pytest.mark.medium
@pytest.mark.parametrize("clients", [1, 8])
def test_closed_loop_of_a_fixed_service_time(clients):
    figures, _, _ = measure(StubTarget, "closed", clients)
    near(figures["per_second"], clients / 0.005, 0.001)
    for name in ("p50", "p99", "p99.99", "max", "mean"):
        near(figures["latency_ms"][name], 5.0, 0.002)
    assert figures["errors"] == {} and figures["error_rate"] == 0


@pytest.mark.medium
@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_open_loop_of_a_fixed_service_time(arrivals):
    figures, target, _ = measure(StubTarget, "open", 400, arrivals=arrivals)
    near(figures["per_second"], 400)
    near(figures["latency_ms"]["p50"], 5.0, 0.002)
    near(figures["latency_ms"]["max"], 5.0, 0.002)
    distances = np.diff(target.sent)
    spread = distances.std() / distances.mean()
    # The intervals of a Poisson process are exponential, so their standard deviation equals their mean.
    near(spread, 1.0) if arrivals == "poisson" else near(1 + spread, 1.0, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "amount"), [("closed", 4), ("open", 300)])
def test_bimodal_service_times(mode, amount):
    figures, _, _ = measure(
        lambda: StubTarget(lambda random: 0.050 if random.random() < 0.05 else 0.002), mode, amount, seconds=120
    )
    near(figures["latency_ms"]["p50"], 2.0, 0.002)
    near(figures["latency_ms"]["p90"], 2.0, 0.002)
    near(figures["latency_ms"]["p99"], 50.0, 0.002)
    near(figures["latency_ms"]["mean"], 0.95 * 2 + 0.05 * 50)
    near(figures["per_second"], amount if mode == "open" else amount / (0.95 * 0.002 + 0.05 * 0.050))


@pytest.mark.medium
@pytest.mark.parametrize(("mode", "amount"), [("closed", 4), ("open", 300)])
def test_a_fifth_fails(mode, amount):
    figures, target, _ = measure(lambda: StubTarget(errors=0.2), mode, amount)
    near(figures["error_rate"], 0.2)
    assert set(figures["errors"]) == {"RESOURCE_EXHAUSTED"}
    assert figures["answered"] + figures["errors"]["RESOURCE_EXHAUSTED"] == figures["requests"]
    near(figures["per_second"], 0.8 * (amount if mode == "open" else amount / 0.005))
    assert figures["error_examples"] == {"RESOURCE_EXHAUSTED": ["told to fail"]}
    assert len(target.sent) >= figures["requests"]


@pytest.mark.medium
def test_an_open_loop_shows_a_stall_and_a_closed_one_cannot():
    """With a stall of 200 ms every 5 s, 4 % of an even stream wait between 0 and 200 ms."""
    figures, _, _ = measure(lambda: StubTarget(stall=True), "open", 500, arrivals="constant", seconds=50)
    latency = figures["latency_ms"]
    near(latency["p50"], 5.0, 0.002)
    # Nine of ten periods of 5 seconds have a stall. Latencies above 5 ms are uniform up to 205 ms, which gives p99 and
    # p99.9.
    stalled = 9 / 10 * 0.2 / 5
    for name, above in (("p99", 0.01), ("p99.9", 0.001)):
        near(latency[name], 5 + 200 * (1 - above / stalled))
    near(latency["max"], 205.0)
    closed, _, _ = measure(lambda: StubTarget(stall=True), "closed", 1, seconds=50)
    # A client that waits for answers sends only one request into each stall, about 1 in 1,000.
    assert closed["latency_ms"]["p99"] < 6
    near(closed["per_second"], (50 - 9 * 0.2) / 50 / 0.005)


def test_a_queue_counts_from_the_intended_time():
    """With 300 requests per second and one server of 5 ms (load 1.5), the queue and the waiting times grow."""
    figures, _, _ = measure(
        lambda: StubTarget(servers=1), "open", 300, arrivals="constant", seconds=10, max_in_flight=4096, timeout=60
    )
    near(figures["per_second"], 200)
    near(figures["offered_per_second"], 300)
    # The last request, sent at 10 s, waits for the third of all requests not served by then: 3,000 x 5 ms - 10 s.
    near(figures["latency_ms"]["max"], 5000.0)
    near(figures["latency_ms"]["p50"], 2500.0)


@pytest.mark.medium
def test_m_d_1_waits_as_pollaczek_and_khinchine_say():
    """For Poisson arrivals at one server with a fixed time, the mean wait is load x service / (2 (1 - load))."""
    figures, _, _ = measure(
        lambda: StubTarget(servers=1), "open", 100, arrivals="poisson", seconds=300, max_in_flight=4096, timeout=60
    )
    load = 100 * 0.005
    near(figures["latency_ms"]["mean"], 5 * (1 + load / (2 * (1 - load))))


def test_a_low_limit_in_flight_is_reported_and_does_not_hide_the_wait():
    wide, _, _ = measure(
        lambda: StubTarget(servers=1), "open", 300, arrivals="constant", seconds=10, max_in_flight=4096, timeout=60
    )
    narrow, _, _ = measure(
        lambda: StubTarget(servers=1), "open", 300, arrivals="constant", seconds=10, max_in_flight=16, timeout=60
    )
    assert narrow["client"]["saturated"] and narrow["client"]["blocked"] > 0
    assert not wide["client"]["blocked"]
    # From the intended send time both waits are alike. From the actual one, the server, which sees 16 at once, would
    # seem fast.
    near(narrow["latency_ms"]["p50"], wide["latency_ms"]["p50"])
    assert narrow["service_ms"]["p50"] < 100


def test_warm_up_is_left_out_and_ends_when_steady():
    """The first 3 seconds are ten times slower."""

    def make():
        target = StubTarget()
        target.service = lambda random: 0.050 if len(target.sent) < 60 else 0.005
        return target

    figures, _, measured = measure(make, "closed", 1, warm_up=30, seconds=10)
    near(figures["latency_ms"]["max"], 5.0, 0.002)
    assert figures["warm_up"]["steady"] is True
    assert 6 <= figures["warm_up"]["seconds"] <= 9
    assert measured.windows[0].begin == figures["warm_up"]["seconds"]


def test_a_level_ends_when_its_intervals_are_narrow_enough():
    steady, _, _ = measure(StubTarget, "closed", 4, seconds=None, max_seconds=60)
    assert steady["stable"] is True and steady["seconds"] == 5
    wild, _, _ = measure(
        lambda: StubTarget(lambda random: random.lognormvariate(-5, 2)), "open", 20, seconds=None, max_seconds=20
    )
    assert wild["stable"] is False and wild["seconds"] == pytest.approx(20, abs=1)


def test_an_interrupt_keeps_what_was_measured():
    figures, _, _ = measure(StubTarget, "closed", 2, interrupt_at=7.5)
    assert figures["stopped_by"] == "interrupted"
    assert figures["seconds"] == 7
    near(figures["per_second"], 400, 0.01)


def test_an_interrupt_during_the_warm_up_reports_that():
    figures, _, _ = measure(StubTarget, "closed", 2, interrupt_at=2.5, warm_up=10)
    assert figures["stopped_by"] == "interrupted" and figures["warm_up"]["counted"]
    near(figures["per_second"], 400, 0.01)


def test_a_server_that_dies_ends_the_level():
    figures, _, _ = measure(lambda: StubTarget(dies_at=5), "open", 100, arrivals="constant")
    assert figures["stopped_by"] == "server lost"
    assert figures["answered"] == pytest.approx(500, abs=2)
    assert figures["seconds"] <= 12
