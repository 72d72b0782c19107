import asyncio

import pytest

from tfserving_ext.loadtest.limits import search_rate
from tfserving_ext.loadtest.recorder import PERCENTILES
from tfserving_ext.loadtest.scenario import Scenario


def search(capacity, *, slow_above=None, saturated_above=float("inf"), **fields):
    """Searches the limit of a server that answers at most `capacity` per second, in 5 ms, or 100 above `slow_above`."""
    tried = []

    async def level(mode, rate):
        assert mode == "open"
        tried.append(rate)
        latency = 100.0 if slow_above is not None and rate > slow_above else 5.0
        answered = min(rate, capacity)
        return {
            "latency_ms": dict.fromkeys(("mean", "min", *PERCENTILES, "max"), latency),
            "per_second": answered, "offered_per_second": rate, "requests": int(10 * rate), "answered": int(10 * rate),
            "error_rate": 0.0, "errors": {}, "stopped_by": None, "client": {"saturated": rate > saturated_above},
        }  # fmt: skip

    found = asyncio.run(search_rate(Scenario(max_rate_with=["p99_ms <= 20"], **fields), level))
    assert [one["rate"] for one in found["tried"]] == tried
    return found, tried


@pytest.mark.parametrize("limit", [1, 3, 7.5, 11, 64, 437, 5000])
def test_the_limit_is_found_to_five_per_cent(limit):
    found, tried = search(1e9, slow_above=limit)
    assert limit / 1.06 <= found["rate"] <= limit
    assert len(tried) <= 20
    assert not found["client_limited"]


def test_less_than_one_a_second_is_not_tried():
    found, tried = search(1e9, slow_above=0.9)
    assert found["rate"] is None and min(tried) == 1


def test_a_server_that_falls_behind_does_not_serve_the_rate_however_fast_it_answers():
    found, _ = search(300)
    assert 300 / 1.06 <= found["rate"] <= 300 / 0.95


def test_a_client_that_was_saturated_may_have_been_the_limit():
    for saturated_above, limited in ((1000, False), (100, True)):
        found, _ = search(1e9, slow_above=400, saturated_above=saturated_above)
        assert (
            400 / 1.06 <= found["rate"] <= 400
        )  # A rate that met the condition counts even if the client was saturated.
        assert found["per_second"] == found["rate"]
        assert found["client_limited"] == limited


def test_the_ends_of_a_range_bound_the_search():
    assert search(1e9, rate="50:200")[0]["rate"] == 200
    assert search(1e9, slow_above=20, rate="50:200")[0]["rate"] is None
    assert min(search(1e9, slow_above=120, rate="50:200")[1]) == 50
