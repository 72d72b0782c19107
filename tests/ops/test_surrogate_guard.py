"""Whatever the scores are, the surrogate search finds what best-first finds, at about its cost at most.

The corpus is clustered, and the model a small network; the other scores are made from the model's. A found item counts
if its score is no worse than the k-th best of all, so that ties count.
"""

from typing import NamedTuple

import numpy as np
import pytest

from tests.ops.surrogates import Request, Surrogates
from tfserving_ext.index import Hnsw, build_index

ITEMS, DIM, USERS, K = 5000, 24, 50, 100
LESS_COVERAGE, MORE_EVALUATIONS = 0.01, 1.3


class Corpus(NamedTuple):
    """An open index, its items' ids, and the model's scores, float32 [USERS, ITEMS]."""

    search: Surrogates
    ids: np.ndarray
    scores: np.ndarray


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=[40, DIM])[rng.integers(0, 40, ITEMS)] + 0.5 * rng.normal(size=[ITEMS, DIM])
    embeddings = embeddings.astype(np.float32)
    folder = tmp_path_factory.mktemp("guard")
    index = build_index(rng.permutation(ITEMS) * 7 + 3, embeddings, folder / "index", Hnsw(threads=1))
    users = rng.normal(size=[USERS, DIM])
    of_user, of_item, second = (rng.normal(size=shape) for shape in ([DIM, 64], [DIM, 64], [64, 32]))
    hidden = np.tanh(1.5 * ((users @ of_user)[:, None] + embeddings @ of_item) / np.sqrt(DIM))
    scores = np.tanh(1.5 * hidden @ second / 8) @ rng.normal(size=32) + 0.3 * users @ embeddings.T / np.sqrt(DIM)
    return Corpus(Surrogates(folder, ITEMS).open_index(index), index.item_ids, scores.astype(np.float32))


def with_nan(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(scores.shape) < 0.1, np.nan, scores)


def standardized(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)


def noisy(share: float):
    return lambda scores, rng: standardized(scores) + share * rng.normal(size=scores.shape)


KINDS = {
    "the model's": lambda scores, rng: scores,
    "a sigmoid that saturates": lambda scores, rng: (
        1 / (1 + np.exp(-np.clip(20 * (standardized(scores) - 1), -80, 80)))
    ),
    "a ramp from the 1.5th standard deviation": lambda scores, rng: np.maximum(standardized(scores) - 1.5, 0),
    "zero or one": lambda scores, rng: standardized(scores) > 1,
    "one for fewer than k": lambda scores, rng: standardized(scores) > 2.5,
    "shuffled": lambda scores, rng: rng.permuted(scores, axis=1),
    "noise 0.25": noisy(0.25),
    "noise 0.5": noisy(0.5),
    "noise 1": noisy(1),
    "one in ten is NaN": with_nan,
    "constant": lambda scores, rng: np.ones_like(scores),
    "all NaN": lambda scores, rng: np.full_like(scores, np.nan),
    "an exponential": lambda scores, rng: np.exp(scores),
}


def some_of_the_best(corpus: Corpus, count: int) -> np.ndarray:
    """Draws seeds from the best twentieth of each user's items."""
    rng = np.random.default_rng(9)
    best = np.argsort(-corpus.scores, axis=1)[:, : ITEMS // 20]
    return corpus.ids[rng.permuted(best, axis=1)[:, :count]]


def coverage(corpus: Corpus, scores: np.ndarray, item_ids: np.ndarray) -> float:
    """Returns the mean share of the K best that are found."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    least = np.sort(scores, axis=1)[:, -K]
    place = {item: number for number, item in enumerate(corpus.ids.tolist())}
    shares = []
    for row, bound, found in zip(scores, least, item_ids.tolist(), strict=True):
        shares.append(sum(row[place[item]] >= bound for item in found if item != -1) / K)
    return float(np.mean(shares))


@pytest.mark.parametrize("seeds", [30, 3, 1, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_what_best_first_finds(corpus, kind, seeds):
    scores = KINDS[kind](corpus.scores, np.random.default_rng(7)).astype(np.float32)
    request = Request(k=K, frontier=16, pool=K, max_steps=1000, batch=64, seeds=some_of_the_best(corpus, seeds))
    found, statistics = corpus.search(scores, request)
    plain = corpus.search.best_first(scores, request)
    own, other = (coverage(corpus, scores, answer.item_ids) for answer in (found, plain))
    evaluations, most = found.items_scored.mean(), plain.items_scored.mean()
    print(
        f"{kind}, {seeds} seeds: coverage {own:.3f} against {other:.3f}, evaluations {evaluations:.0f} against ", end=""
    )
    print(f"{most:.0f}, fell back {statistics.fell_back.mean():.2f}")
    assert own >= other - LESS_COVERAGE
    assert evaluations <= MORE_EVALUATIONS * most


def test_where_it_falls_back_no_user_s_answer_is_worse(corpus):
    """Best-first starts over from where it would have started, and what was evaluated before is in the answer too."""
    scores = KINDS["noise 1"](corpus.scores, np.random.default_rng(7)).astype(np.float32)
    for seeds in (30, 0):
        request = Request(k=K, frontier=16, pool=K, seeds=some_of_the_best(corpus, seeds))
        found, statistics = corpus.search(scores, request)
        plain = corpus.search.best_first(scores, request)
        assert statistics.fell_back.sum() > USERS / 2
        assert (statistics.estimated_coverage[statistics.fell_back] == 0).all()
        assert (found.scores >= plain.scores)[statistics.fell_back].all()


def test_with_the_model_s_scores_it_evaluates_fewer_items(corpus):
    request = Request(k=K, frontier=16, pool=K, batch=64, seeds=some_of_the_best(corpus, 100))
    found, statistics = corpus.search(corpus.scores, request)
    plain = corpus.search.best_first(corpus.scores, request)
    assert found.items_scored.mean() < 0.7 * plain.items_scored.mean()
    assert statistics.fell_back.mean() < 0.3


@pytest.mark.parametrize("seeds", [30, 0])
@pytest.mark.parametrize("increasing", [lambda x: np.exp(x), lambda x: 1e6 * x + 3, lambda x: x**3 / 1e3])
def test_any_increasing_function_of_the_scores_is_the_same_walk(corpus, increasing, seeds):
    """Scores are multiples of 2^-10 of a few units, so that the function in float32 makes no two of them equal."""
    scores = np.rint(corpus.scores.astype(np.float64) * 1024) / 1024
    other = increasing(scores).astype(np.float32)
    for row, transformed in zip(scores, other, strict=True):
        order = np.argsort(row, kind="stable")
        assert (np.sign(np.diff(row[order])) == np.sign(np.diff(transformed[order]))).all()
    request = Request(k=K, frontier=16, pool=K, batch=64, seeds=some_of_the_best(corpus, seeds))
    found, statistics = corpus.search(other, request)
    wanted, wanted_statistics = corpus.search(scores.astype(np.float32), request)
    for name in ("item_ids", "items_scored", "rounds", "stopped"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    for part, same in zip(statistics, wanted_statistics, strict=True):
        np.testing.assert_array_equal(part, same)
