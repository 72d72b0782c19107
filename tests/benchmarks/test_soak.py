import dataclasses

import numpy as np
import pytest

from benchmarks.serving.soak import failures, growth, soak
from benchmarks.serving.soak_requests import ask, fault, make_requests
from tfserving_ext.errors import NannError
from tfserving_ext.serving.models import load_servable


@pytest.mark.slow
def test_many_clients_get_what_each_gets_alone(world):
    """Memory is not checked, as it needs longer to settle than a test may take."""
    found = soak(world.saved_model, seconds=1.5, settings=[(1, 1), (2, 2)])
    assert [(figures["inter"], figures["intra"]) for figures in found] == [(1, 1), (2, 2)]
    for figures in found:
        assert not figures["deadlock"]
        assert (figures["faults"], figures["first_faults"]) == (0, [])
        assert set(figures["by_kind"]) == {
            "retrieve",
            "retrieve_rounds",
            "serving_default",
            "budget",
            "deadline",
            "wrong",
        }
        assert sum(figures["by_kind"].values()) == figures["requests"] >= 64


@pytest.fixture(scope="module")
def servable(world):
    servable = load_servable(world.saved_model)
    yield servable
    servable.close()


def test_wrong_answers_are_noticed(world, servable):
    requests = make_requests(servable, world.saved_model, 16)
    answers = [ask(servable, request, alone=True) for request in requests]
    for place, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        assert fault(request, answer, answer) == ""
        other = answers[place - 1]
        assert isinstance(answer, str) == request.wrong
        if request.wrong:
            assert "answered" in fault(request, other, answer)
            assert "refused by" in fault(request, answer + ".", answer)
            assert "refused by" in fault(request, "INTERNAL: lost", "INTERNAL: lost")
            assert "refused by" in fault(dataclasses.replace(request, wrong=False), answer, answer)
            continue
        assert "refused by" in fault(request, "INTERNAL: lost", answer)
        for name, part in answer.items():
            changed = part.copy()
            changed.flat[-1] = np.nextafter(changed.flat[-1], 9) if part.dtype == np.float32 else changed.flat[-1] + 5
            assert f"{name} differs from that of the request alone" in fault(request, {**answer, name: changed}, answer)


def test_what_a_deadline_leaves_may_be_less_but_must_be_an_answer(world, servable):
    requests = make_requests(servable, world.saved_model, 16)
    request = next(request for request in requests if request.kind == "deadline")
    answer = ask(servable, request, alone=True)
    cut = {**answer, "stopped": np.full_like(answer["stopped"], 2)}
    assert fault(request, cut, answer) == ""
    fewer = {**cut, "item_ids": np.full_like(cut["item_ids"], -1), "scores": np.full_like(cut["scores"], -np.inf)}
    assert fault(request, fewer, answer) == ""
    for name, part in {
        "items_scored": answer["items_scored"] + 1,
        "scores": np.cumsum(np.ones_like(answer["scores"]), axis=1),
        "item_ids": np.zeros_like(answer["item_ids"]),
    }.items():
        assert "cut short is wrong" in fault(request, {**cut, name: part}, answer)


def test_memory_is_flat_after_its_climb():
    assert growth([1.0] * 100 + [50.0] * 300) == (50.0, 50.0)
    assert growth(np.arange(400.0)) == (149.5, 349.5)
    assert growth([50.0] * 399 + [900.0]) == (50.0, 50.0)


def test_says_what_failed():
    good = {"inter": 1, "intra": 2, "deadlock": False, "faults": 0, "first_faults": [], "flat": True}
    assert failures([{**good, "memory_mb": [3.0, 3.0]}]) == []
    bad = {
        "deadlock": True,
        "faults": 7,
        "first_faults": ["retrieve: lost"],
        "flat": False,
        "memory_mb": [100.0, 200.0],
    }
    assert failures([{**good, **bad}]) == [
        "inter-op 1, intra-op 2: deadlock, no request ended for 30 s",
        "inter-op 1, intra-op 2: 7 wrong answers or errors, such as retrieve: lost",
        "inter-op 1, intra-op 2: memory rose from 100.0 to 200.0 MB",
    ]


def test_says_what_is_missing(tmp_path):
    with pytest.raises(NannError, match="is not a SavedModel; make one with `nann demo`"):
        soak(tmp_path)
