"""The benchmarks of the server see what goes wrong: on the small world, and on answers that are known."""

import random

import numpy as np
import pytest

from benchmarks.serving.fuzz import fuzz_server
from benchmarks.serving.fuzz_requests import grpc_request, rest_request
from benchmarks.serving.served import Answer, Load, make_requests, running
from benchmarks.serving.swaps import _figures, bench_swaps
from tfserving_ext.errors import NannError


@pytest.fixture(scope="module")
def histories(world):
    return np.random.default_rng(0).choice(np.asarray(world.sequences.item_ids), [8, 10])


@pytest.mark.slow
def test_swaps_under_load(world, histories, tmp_path):
    found = bench_swaps(world.saved_model, world.index, tmp_path, histories, clients=6, seconds=12, swaps=5)
    assert (found["failed"], found["wrong"], found["faults"]) == (0, 0, [])
    assert found["versions_that_answered"] == 5  # The first and five new ones, but for the broken one.
    assert not found["broken_version_answered"]
    assert found["requests"] > 100
    # What is mapped at the end is one version's, not six.
    assert found["memory_end_mb"]["mapped"] <= found["memory_quiet_mb"]["mapped"] * 1.01


def test_a_wrong_answer_and_a_failed_request_are_seen(world, histories):
    with running(world.saved_model.parent) as server:
        requests = make_requests(histories)
        load = Load(server.grpc_port, requests, 2, {1: [np.zeros([1, 20], np.int64)] * len(requests)})
        while len(load.answers) < 20:
            pass
        assert {one.wrong for one in load.stop()} == {"not what version 1 answers"}
        load = Load(server.grpc_port, requests, 1, {7: []})
        while not load.answers:
            pass
        assert load.stop()[0].wrong == "version 1 answered, which was never there"
        load = Load(server.grpc_port, make_requests(histories, "nobody"), 1)
        while not load.answers:
            pass
        first = load.stop()[0]
        assert first.version == -1 and "NOT_FOUND" in first.wrong


def test_latencies_are_those_of_swaps_or_of_quiet_time():
    quiet = [Answer(float(second), 0.001, 1, "") for second in range(100)]
    swapping = [Answer(200 + second, 0.004, 2, "") for second in range(10)]
    reaching = [Answer(199.0, 1.5, 1, "")]  # Sent before, answered within.
    lost = [Answer(205.0, 9.0, -1, "UNAVAILABLE"), Answer(206.0, 0.001, 2, "not what version 2 answers")]
    memory = [{"anonymous": 1.0, "mapped": 2.0, "assets": 1.0}] * 3
    found = _figures(quiet + swapping + reaching + lost, [(200.0, 210.0)], memory, {1: [], 2: [], 3: []}, 3)
    assert found["p99_quiet_ms"] == pytest.approx(1)
    assert found["p99_swap_ms"] == pytest.approx(1000 * np.percentile([0.004] * 10 + [1.5, 0.001], 99))
    assert (found["requests"], found["failed"], found["wrong"]) == (113, 1, 1)
    assert found["faults"] == ["UNAVAILABLE", "not what version 2 answers"]


def test_a_server_that_does_not_start_is_told(tmp_path):
    with (
        pytest.raises(NannError, match=r"does not start: (?s:.*)error: .* is not a folder"),
        running(tmp_path / "none"),
    ):
        pass


@pytest.mark.slow
def test_damaged_requests_are_refused_in_words(world):
    found = fuzz_server(world.saved_model.parent, 800, seed=5)
    assert found["requests"] == 800
    # The draw is worth something: some requests are good, most are not, in many ways.
    assert {"grpc OK", "grpc INVALID_ARGUMENT", "grpc NOT_FOUND", "rest 200", "rest 400", "rest 404"} <= set(
        found["answers"]
    )


def test_draws_are_repeatable():
    def draw(seed):
        rng = random.Random(seed)
        return [(grpc_request(rng, "nann", [5, 6]), rest_request(rng, "nann", [5, 6])) for _ in range(50)]

    assert draw(1) == draw(1) != draw(2)
