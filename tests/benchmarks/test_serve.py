"""The benchmarks of the server notice what goes wrong, on the small world and with known answers."""

import random

import numpy as np
import pytest

from benchmarks.serving import run as serving
from benchmarks.serving.fuzz import fuzz_server
from benchmarks.serving.fuzz_requests import grpc_request, rest_request
from benchmarks.serving.served import asking, running
from benchmarks.serving.swaps import WRONG, CheckedTarget, _answers, _figures, bench_swaps
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import Scenario, bench


@pytest.fixture(scope="module")
def histories(world):
    return np.random.default_rng(0).choice(np.asarray(world.sequences.item_ids), [8, 10])


@pytest.mark.slow
def test_swaps_under_load(world, histories, tmp_path):
    found = bench_swaps(world.saved_model, world.index, tmp_path, histories, clients=6, seconds=48, swaps=5)
    assert (found["failed"], found["wrong"], found["faults"]) == (0, 0, [])
    # There are five new versions, or a sixth as the time ends. All serve except the broken one, and one for which the
    # time ended too early.
    assert found["versions"] in (5, 6)
    assert found["versions"] - 2 <= found["versions_served"] <= found["versions"] - 1
    assert 4 <= found["versions_that_answered"] <= found["versions_served"] + 1
    assert not found["broken_version_answered"]
    assert found["requests"] > 100
    # At the end, the files of one version are mapped, not those of six.
    assert found["memory_end_mb"]["mapped"] <= found["memory_quiet_mb"]["mapped"] * 1.01


@pytest.mark.slow
def test_a_wrong_answer_and_a_version_that_was_never_there_are_seen(world, histories, tmp_path):
    model = asking(histories, tmp_path)
    right = _answers(world.saved_model, histories)
    with running(world.saved_model.parent) as server:

        def ask(expected):
            target = CheckedTarget(f"127.0.0.1:{server.grpc_port}", lambda version: expected)
            (level,) = bench(Scenario(models=[model], warm_up=0, seconds=1, trace=0), target=target)["levels"]
            assert target.answered == {1}
            return level

        assert ask(right)["errors"] == {}
        first = histories[0].tobytes()
        level = ask({**dict.fromkeys(right, np.zeros([1, 20], np.int64)), first: right[first]})
        assert set(level["errors"]) == {WRONG} and 0 < level["errors"][WRONG] < level["requests"]
        assert level["error_examples"] == {WRONG: ["the answer is not that of version 1"]}
        with pytest.raises(NannError, match="version 1 answered, which must never serve"):
            ask(None)


@pytest.mark.slow
def test_server_and_process_are_measured_by_turns(world, histories, tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "SECONDS", 1)
    monkeypatch.setattr(serving, "WARM_UP_SECONDS", 0)
    (found,) = serving._race(world.saved_model, histories, tmp_path, 1)
    assert list(found) == ["in_process", "server"]
    assert all(one["per_second"] > 0 and one["p99_ms"] > 0 for one in found.values())


def test_figures_tell_failed_from_wrong_and_swaps_from_quiet_time():
    def swap(version, served, p99):
        return {"version": version, "served": served, "latency_ms": {"p99": p99}}

    level = {
        "requests": 113,
        "errors": {WRONG: 1, "UNAVAILABLE": 2},
        "error_examples": {WRONG: ["the answer is not that of version 2"], "UNAVAILABLE": ["gone"]},
        "swaps": [swap(2, 1.5, 4.0), swap(3, None, 6.0), swap(4, 5.0, 5.0), swap(5, None, None)],
        "quiet_latency_ms": {"p99": 2.0},
    }
    found = _figures(level, {1, 2, 4}, 3)
    assert (found["requests"], found["failed"], found["wrong"]) == (113, 2, 1)
    assert found["faults"] == ["gone", "the answer is not that of version 2"]
    assert (found["p99_quiet_ms"], found["p99_swap_ms"], found["p99_swap_to_quiet"]) == (2.0, 5.0, 2.5)
    assert (found["versions"], found["versions_that_answered"], found["broken_version_answered"]) == (4, 3, False)
    assert found["versions_served"] == 2
    with pytest.raises(NannError, match="version 3 did not begin to serve"):
        _figures(level, {1, 2, 4}, 4)


@pytest.mark.medium
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
    # The draw is useful only if some requests are good and most are wrong, in many ways.
    assert {"grpc OK", "grpc INVALID_ARGUMENT", "grpc NOT_FOUND", "rest 200", "rest 400", "rest 404"} <= set(
        found["answers"]
    )


def test_draws_are_repeatable():
    def draw(seed):
        rng = random.Random(seed)
        return [(grpc_request(rng, "nann", [5, 6]), rest_request(rng, "nann", [5, 6])) for _ in range(50)]

    assert draw(1) == draw(1) != draw(2)
