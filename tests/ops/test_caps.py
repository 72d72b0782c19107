"""Caps on the items of an answer that share a value, in every search and `BruteForce`, against a greedy NumPy sort."""

from collections import Counter

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.ops.searching import any_search
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.retrieval import BruteForce, NeuralTopK

N, DIM, K = 1200, 8, 20
IDS = np.random.default_rng(0).permutation(10**6)[:N]
ROWS = np.random.default_rng(1).normal(size=[N, DIM]).astype(np.float32)
# Items along the first coordinate have the same brand, so that the best ones for a user have few.
BRANDS = [f"b{place}" for place in np.digitize(ROWS[:, 0], np.linspace(-2, 2, 12))]
BRANDS = [None if number % 29 == 0 else brand for number, brand in enumerate(BRANDS)]
TABLE = pl.DataFrame(
    {
        "item_id": IDS,
        "brand": BRANDS,
        "shelf": np.arange(N) % 7,
        "new": np.arange(N) % 2 == 0,
        "price": np.arange(N) / 8,
        "tags": [["a"]] * N,
    }
)
USERS = np.concatenate([np.full([4, 1], 2), np.random.default_rng(2).normal(size=[4, DIM - 1])], axis=1)
USERS = USERS.astype(np.float32)
ALGORITHMS = {"best_first": ([8, 100], [0]), "surrogate": ([8, 100], [0, 16]), "rounds": (None, None)}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(IDS, ROWS, tmp_path_factory.mktemp("caps") / "index", Hnsw(threads=1), attributes=TABLE)


@pytest.fixture(scope="module")
def mapped(index):
    return MappedIndex(index)


def greedy(user: np.ndarray, values: list, cap: int, allowed: np.ndarray | None = None, k: int = K) -> np.ndarray:
    """The ids of the best items by the dot product, at most `cap` of each value."""
    counts: dict = {}
    answer = []
    for item in np.argsort(-(ROWS @ user), kind="stable"):
        if allowed is not None and not allowed[item]:
            continue
        counts[values[item]] = counts.get(values[item], 0) + 1
        if values[item] is None or counts[values[item]] <= cap:
            answer.append(IDS[item])
    return np.array(answer[:k])


def search(index, mapped, algorithm, **options):
    ef, rounds = ALGORITHMS[algorithm]
    if ef is None:
        ef, rounds = [100] * (len(index.layers) + 1), [1] * len(index.layers) + [6]
    return any_search(mapped.resource_handle, [USERS], "dot", DIM, K, ef, rounds, algorithm=algorithm, **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("column", "cap"), [("brand", 2), ("shelf", 1), ("new", 5)])
def test_answers_keep_to_the_cap_and_are_the_best_that_do(index, mapped, algorithm, column, cap):
    found = search(index, mapped, algorithm, cap_by=[column], cap=[cap])
    values = TABLE[column].to_list()
    recall = []
    by_id = dict(zip(IDS.tolist(), values, strict=True))
    for row, scores, user in zip(found.item_ids.numpy(), found.scores.numpy(), USERS, strict=True):
        wanted = greedy(user, values, cap)
        got = row[row != -1]
        assert (np.diff(scores[: len(got)]) <= 0).all()
        counts = Counter(by_id[one] for one in got.tolist())
        assert all(count <= cap for value, count in counts.items() if value is not None)
        assert len(got) == len(wanted)
        recall.append(np.isin(wanted, got).mean())
    assert np.mean(recall) >= 0.98


def test_each_user_has_a_cap_a_filter_and_exclusions_of_ones_own(index, mapped):
    exclude = np.array([greedy(user, BRANDS, N)[:3] for user in USERS])
    caps = {"cap_by": ["brand", "shelf", "", "brand"], "cap": [1, 2, 1, 3]}
    found = search(index, mapped, "best_first", exclude=exclude, filter=["price < 100", "", "new", ""], **caps)
    allowed = np.array([TABLE["price"] < 100, np.full(N, True), TABLE["new"], np.full(N, True)])
    for user, row in enumerate(found.item_ids.numpy()):
        column, cap = caps["cap_by"][user], caps["cap"][user]
        values = TABLE[column].to_list() if column else [None] * N
        wanted = greedy(USERS[user], values, cap, allowed[user] & ~np.isin(IDS, exclude[user]))
        assert np.isin(wanted, row).mean() >= 0.95
        assert len(row[row != -1]) == len(wanted)


def test_a_cap_that_excludes_nothing_changes_nothing(index, mapped):
    plain, capped = search(index, mapped, "best_first"), search(index, mapped, "best_first", cap_by=["brand"], cap=[N])
    np.testing.assert_array_equal(plain.item_ids, capped.item_ids)
    np.testing.assert_array_equal(plain.items_scored, capped.items_scored)


def test_a_budget_holds_over_all_searches(index, mapped):
    found = search(index, mapped, "best_first", cap_by=["brand"], cap=[1], budget=150)
    assert found.items_scored.numpy().tolist() == [150] * 4 and (found.stopped.numpy() == 1).all()
    values = dict(zip(IDS.tolist(), BRANDS, strict=True))
    for row in found.item_ids.numpy():
        brands = [values[one] for one in row if one != -1 and values[one] is not None]
        assert len(set(brands)) == len(brands)


def test_brute_force_is_greedy(index):
    exact = BruteForce(index, lambda user, items: tf.einsum("bd,bnd->bn", user[0], items))
    for row, user in zip(exact.capped([USERS], K, "brand", 2), USERS, strict=True):
        np.testing.assert_array_equal(row, greedy(user, BRANDS, 2))
    allowed = (np.arange(N) / 8 < 50) & (greedy(USERS[0], BRANDS, 1)[0] != IDS)
    [row] = exact.capped([USERS[:1]], K, "brand", 1, "price < 50", greedy(USERS[0], BRANDS, 1)[:1])
    np.testing.assert_array_equal(row, greedy(USERS[0], BRANDS, 1, allowed))


@pytest.mark.parametrize(
    ("cap_by", "cap", "words"),
    [
        (["colour"], [1], "cap_by is 'colour', the index has the columns brand, shelf, new, price, tags"),
        (["price"], [1], "cap_by is 'price', a float; allowed are columns of integers, strings and booleans"),
        (["tags"], [1], "a list of strings"),
        (["brand"], [0], "cap is 0, allowed are 1 and above"),
        (["brand"] * 3, [1], r"cap_by has shape \[3\], it must be \[1\] or"),
        (["brand"], [1, 2], r"cap has shape \[2\]"),
    ],
)
def test_a_wrong_cap_is_refused_before_anything_is_scored(index, mapped, cap_by, cap, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        search(index, mapped, "best_first", cap_by=cap_by, cap=cap)


def test_neural_top_k_takes_caps(index):
    model = NeuralTopK(index, lambda user, items: tf.einsum("bd,bnd->bn", user[0], items))
    found = model.best_first([tf.constant(USERS)], K, cap_by=["shelf"], cap=[3])
    assert found.item_ids.shape == [4, K]
    shelves = (np.argsort(IDS)[np.searchsorted(np.sort(IDS), found.item_ids.numpy())]) % 7
    assert all(np.bincount(row).max() == 3 for row in shelves)
