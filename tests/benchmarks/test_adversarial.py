import numpy as np
import pytest

from benchmarks.search import adversarial


@pytest.mark.medium
def test_a_small_run_has_the_figures_of_every_weight(monkeypatch):
    monkeypatch.setattr(adversarial, "WEIGHTS", (0.0, 1.0))
    found = adversarial.bench_adversarial(items=150, users=3, pairs=1000, seeds=1)
    assert [one["weight"] for one in found] == [0.0, 1.0]
    for one in found:
        assert 0 <= one["recall"] <= 1
        # Beams of 400 hold all 150 items.
        assert one["rounds"] == {"coverage": 1.0, "items_scored": 150.0}
    assert [one["recall"] for one in adversarial.over_seeds(found)] == [one["recall"] for one in found]


def test_users_click_what_the_logits_say():
    world = adversarial.World(50, seed=3)
    users = world.drawn(1)
    taken = np.bincount(world.next_of(np.repeat(users, 4000, axis=0)), minlength=50) / 4000
    logits = world._logits(np.repeat(users, 50, axis=0), world._items)
    np.testing.assert_allclose(taken, np.exp(logits) / np.exp(logits).sum(), atol=0.04)
