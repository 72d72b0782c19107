"""The surrogate search gives the reference's numbers on random graphs."""

import dataclasses

import numpy as np
import pytest

from tests.ops.surrogate_reference import SurrogateAnswer, World, surrogate_search
from tests.ops.surrogates import Request, Surrogates, random_world

# Predictions are float32 in the op: numbers of up to ten, each from some hundred sums and products.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def surrogates(tmp_path_factory) -> Surrogates:
    return Surrogates(tmp_path_factory.mktemp("surrogates"))


def random_scores(rng: np.random.Generator, world: World) -> np.ndarray:
    """Makes a random smooth function of the features, with noise and, for some, ties, NaN and minus infinity."""
    x = world.features / 16
    hidden = np.tanh(x @ rng.normal(size=[x.shape[1], 8]) / np.sqrt(x.shape[1]) + rng.normal(size=8))
    scores = hidden @ rng.normal(size=8)
    scores += rng.choice([0, 0.1, 0.5, 3]) * rng.normal(size=len(scores))
    kind = rng.integers(8)
    if kind == 0:
        scores = np.rint(scores * rng.choice([1, 4]))
    elif kind == 1:
        scores[rng.random(len(scores)) < 0.1] = np.nan
    elif kind == 2:
        scores[rng.random(len(scores)) < 0.3] = -np.inf
    elif kind == 3:
        scores = np.clip(scores, -0.5, 0.5)
    return scores.astype(np.float32)


def random_request(rng: np.random.Generator, ids: np.ndarray) -> Request:
    counts = (0, 0, 1, 5, 40)
    return Request(
        k=int(rng.choice([1, 3, 10, 30, 100, 300])),
        frontier=int(rng.choice([1, 4, 16])),
        pool=int(rng.choice([1, 20, 100])),
        max_steps=int(rng.choice([0, 0, 0, 3, 1000])),
        batch=int(rng.choice([1, 8, 16, 64])),
        expected_coverage=float(rng.choice([0.5, 0.9, 0.99])),
        exclude=tuple(rng.choice(ids, rng.choice(counts)).tolist()),
        seeds=tuple(rng.choice([*ids, -1], rng.choice(counts)).tolist()),
    )


def reference(world: World, scores: np.ndarray, request: Request) -> SurrogateAnswer:
    places = {int(item_id): place for place, item_id in enumerate(world.graph.ids)}
    given = dataclasses.asdict(request)
    given["seeds"] = {places[item_id] for item_id in request.seeds if item_id in places}
    del given["budget"]
    return surrogate_search(world, scores, exclude=list(given.pop("exclude")), **given)


def compare(surrogates: Surrogates, seeds: range) -> None:
    """Compares as many requests. Where a number differs, a decision was closer than the rounding of predictions."""
    places = different = close = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        world = random_world(rng, int(rng.integers(50, 2001)), int(rng.integers(4, 41)), int(rng.integers(1, 4)))
        scores, request = random_scores(rng, world), random_request(rng, world.graph.ids)
        wanted = reference(world, scores, request)
        found, statistics = surrogates.open(world)(scores[None], request)
        places += request.k
        close += wanted.margin < ROUNDING
        ids = found.item_ids[0].tolist()
        alike = (ids, found.items_scored[0], found.rounds[0], found.stopped[0], statistics.fell_back[0]) == (
            wanted.ids,
            wanted.items_scored,
            wanted.rounds,
            wanted.stopped,
            wanted.fell_back,
        )
        if not alike:
            assert wanted.margin < ROUNDING, (seed, request)
            different += sum(one != other for one, other in zip(ids, wanted.ids, strict=True))
            continue
        assert found.scores[0].tolist() == wanted.scores
        assert found.nan_scores[0] == wanted.nan_scores
        assert statistics.candidates[0] == wanted.candidates
        np.testing.assert_allclose(statistics.prediction_error[0], wanted.prediction_error, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(statistics.estimated_coverage[0], wanted.estimated_coverage, rtol=1e-3, atol=2e-2)
    print(f"{different} of {places} places differ; a decision of {close} of {len(seeds)} searches was that close")
    assert different <= places / 1000
    assert close < len(seeds) / 3  # Or the bound above would excuse everything.


@pytest.mark.medium
def test_it_is_the_reference(surrogates):
    compare(surrogates, range(40))


@pytest.mark.slow
def test_it_is_the_reference_on_many_graphs(surrogates):
    compare(surrogates, range(40, 340))
