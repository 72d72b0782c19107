"""The harness measures peers whose answers are known."""

import numpy as np
import pytest

from benchmarks.search.harness import Measured, contenders, measure, race


class Known:
    """A peer that answers the first `setting` of the exact ids, and 99 for the others; it counts its calls."""

    name, settings = "known", (5, 20)

    def __init__(self, workload) -> None:
        self.workload, self.calls = workload, []

    def __call__(self, first, last, setting):
        self.calls.append((first, last))
        found = self.workload.exact[first:last].copy()
        found[:, setting:] = 99
        return found


def test_coverage_and_recall_are_those_of_the_answers(workload):
    peer = Known(workload)
    for setting in peer.settings:
        measured = measure(peer, workload, setting, cases=21)
        hits = [t in row[:setting] for t, row in zip(workload.targets[:21], workload.exact[:21], strict=True)]
        assert measured.coverage == pytest.approx(setting / 20)
        assert measured.recall == pytest.approx(np.mean(hits))
        assert (measured.setting, measured.cases) == (setting, 21)
    assert peer.calls == [(0, 16), (16, 21)] * 2


def test_no_more_cases_than_there_are(workload):
    assert measure(Known(workload), workload, 5, cases=10**6).cases == len(workload.targets)


def test_runners_take_turns(workload):
    order = []

    class Noted(Known):
        def __call__(self, first, last, setting):
            order.append((self.name, last - first))
            return super().__call__(first, last, setting)

    one, other = Noted(workload), Noted(workload)
    other.name = "other"
    runners = {
        "one": (one, [Measured(5, 24, 1, 1, 9), Measured(20, 24, 1, 1, 9)]),
        "other": (other, [Measured(5, 3, 1, 1, 9)]),
    }
    fastest = race(runners, {"one": 4, "other": 16}, repeats=3)
    assert order == [("known", 4), ("known", 4), ("other", 3)] * 3
    assert set(fastest) == {"one", "other"} and min(ms for _, ms in fastest.values()) > 0


def test_the_fastest_setting_wins_by_its_fastest_turn(workload, monkeypatch):
    seconds = iter([0.3, 0.2, 0.1, 0.2])  # The times of the settings 5 and 20, in two turns.
    monkeypatch.setattr("benchmarks.search.harness.answer", lambda *_: (None, next(seconds)))
    settings = [Measured(5, 4, 1, 1, 1), Measured(20, 4, 1, 1, 9)]
    fastest, ms = race({"one": (Known(workload), settings)}, {"one": 4}, repeats=2)["one"]
    assert (fastest.setting, ms) == (5, pytest.approx(25))


def test_contenders_cover_enough_and_are_not_much_slower_than_the_fastest():
    found = [
        Measured("a", 1, 0.90, 0, 1.0),
        Measured("b", 1, 0.98, 0, 2.6),
        Measured("c", 1, 0.99, 0, 2.0),
        Measured("d", 1, 0.98, 0, 2.4),
    ]
    assert [one.setting for one in contenders(found, 0.98)] == ["c", "d"]
    assert [one.setting for one in contenders(found, 0.90)] == ["a"]
    assert [one.setting for one in contenders(found, 0.999)] == ["c"]
