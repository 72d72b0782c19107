"""The passes over whole models, as their users write them: the same scores, the same searches, less work."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.scorer.models import MIXED, SCORERS, ReferenceScorer
from tests.ops.searching import any_search
from tfserving_ext import ops
from tfserving_ext.index import Graph, Hnsw, build_index, write_index
from tfserving_ext.index.resource import MappedIndex

ITEMS, CHUNK = 10_000, 2_500  # Scored a chunk at a time: some models take megabytes an item.
INDEX_ITEMS = 800
SEARCH = {"k": 50, "ef": [16, 150], "rounds": [200], "algorithm": "best_first"}
# Relative to the largest score. A bfloat16 has 8 bits, and a rewrite may round elsewhere than the original did.
FLOAT32_BOUND, BFLOAT16_BOUND = 1e-5, 2e-2


@functools.cache
def made(name: str) -> ReferenceScorer:
    return SCORERS[name](0)


@functools.cache
def rewritten(name: str, fold_items: bool) -> ops.RewrittenScorer:
    model = made(name)
    return ops.rewrite_scorer(ops.trace_scorer(model, model.user, model.dim), model.user, model.dim, fold_items)


def items_of(dim: int, n: int = ITEMS) -> np.ndarray:
    return np.random.default_rng(11).normal(size=[n, dim]).astype(np.float32)


def scores_of(found: ops.RewrittenScorer, user: tuple[tf.Tensor, ...], items: np.ndarray) -> np.ndarray:
    """As a search runs it: `prepare` once, then the scorer on what the index holds, batch by batch."""
    scorer = found.scorer
    prepared = [] if scorer.prepare is None else scorer.prepare(*user, *scorer.captured)
    prepared = prepared if isinstance(prepared, list | tuple) else [prepared]
    parts = []
    for first in range(0, len(items), CHUNK):
        rows = tf.constant(items[None, first : first + CHUNK])
        rows = rows if found.fold is None else found.fold(rows)
        assert rows.shape[-1] == found.row_dim
        parts.append(scorer.plain(*user, *prepared, rows, *scorer.captured).numpy()[0])
    return np.concatenate(parts)


def original_scores(model: ReferenceScorer, items: np.ndarray) -> np.ndarray:
    parts = [items[None, first : first + CHUNK] for first in range(0, len(items), CHUNK)]
    return np.concatenate([model(*model.user, tf.constant(part)).numpy()[0] for part in parts])


def error(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    assert np.isfinite(wanted).all()
    assert wanted.std() > 0.01  # Scores that are all alike would show nothing.
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.medium
@pytest.mark.parametrize("fold_items", [False, True])
@pytest.mark.parametrize("name", SCORERS)
def test_scores_are_the_original_s(name, fold_items):
    model, items = made(name), items_of(made(name).dim)
    assert (
        error(scores_of(rewritten(name, fold_items), model.user, items), original_scores(model, items)) < FLOAT32_BOUND
    )


@pytest.mark.medium
@pytest.mark.parametrize("fold_items", [False, True])
@pytest.mark.parametrize("name", SCORERS)
def test_another_user_s_scores_are_the_original_s_as_well(name, fold_items):
    """Nothing of the user whom the scorer was rewritten for may have become a part of it."""
    model, items = made(name), items_of(made(name).dim, CHUNK)
    other = ReferenceScorer(model.name, model.dim, SCORERS[name](1).user, model.score)
    assert any(np.any(mine != its) for mine, its in zip(model.user, other.user, strict=True))
    assert (
        error(scores_of(rewritten(name, fold_items), other.user, items), original_scores(other, items)) < FLOAT32_BOUND
    )


def test_every_scenario_of_the_mixture_of_experts_has_its_own_towers():
    model, items = made("mmoe"), items_of(64, CHUNK)
    scores = []
    for scenario in range(3):
        user = (model.user[0], tf.constant([scenario], tf.int32))
        wanted = original_scores(ReferenceScorer(model.name, model.dim, user, model.score), items)
        assert error(scores_of(rewritten("mmoe", False), user, items), wanted) < FLOAT32_BOUND
        scores.append(wanted)
    assert np.abs(scores[0] - scores[1]).max() > 0.05
    assert np.abs(scores[1] - scores[2]).max() > 0.05


@pytest.mark.medium
@pytest.mark.parametrize("fold_items", [False, True])
@pytest.mark.parametrize("name", MIXED)
def test_scores_with_products_in_bfloat16_are_close(name, fold_items):
    model = MIXED[name](0, "bfloat16")
    items = items_of(model.dim)
    wanted = original_scores(model, items)
    assert 1e-4 < error(wanted, original_scores(made(name), items)) < 5e-2  # They are bfloat16's.
    scorer = ops.trace_scorer(model, model.user, model.dim)
    found = ops.rewrite_scorer(scorer, model.user, model.dim, fold_items)
    assert error(scores_of(found, model.user, items), wanted) < BFLOAT16_BOUND


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    """A small index per width of an item."""

    @functools.cache
    def of(dim: int):
        folder = tmp_path_factory.mktemp("index") / f"items_{dim}"
        return build_index(np.arange(INDEX_ITEMS) * 3, items_of(dim, INDEX_ITEMS), folder, Hnsw(m=8, threads=1))

    return of


@pytest.mark.parametrize("name", SCORERS)
def test_a_search_finds_the_same(name, indexes, tmp_path):
    """Of the original, of the scorer that the search rewrites, and of rows: the same items in the same order."""
    model, index, folded = made(name), indexes(made(name).dim), rewritten(name, True)
    mapped = MappedIndex(index)
    wanted = any_search(mapped.resource_handle, model.user, model, model.dim, rewrite=False, **SEARCH)
    found = any_search(mapped.resource_handle, model.user, model, model.dim, rewrite=True, **SEARCH)
    np.testing.assert_array_equal(found.item_ids, wanted.item_ids)
    np.testing.assert_array_equal(found.items_scored, wanted.items_scored)
    assert int(wanted.items_scored[0]) > SEARCH["k"]
    assert (wanted.item_ids.numpy() >= 0).all()
    if folded.fold is not None:
        rows = folded.fold(tf.constant(index.embeddings()[None]))[0].numpy()
        of_rows = MappedIndex(
            write_index(tmp_path / "rows", index.item_ids, rows, Graph(index.entry_points, index.layers), {})
        )
        found = any_search(of_rows.resource_handle, model.user, folded.scorer, folded.row_dim, **SEARCH)
        np.testing.assert_array_equal(found.item_ids, wanted.item_ids)


# Multiply-adds per item: of the model, at most after the passes, and at most of folded rows.
SHRINK = {
    "nann_attention": (83_616, 40_000, 35_000),
    "dnn": (30_752, 18_500, 10_300),
    "din": (717_280, 327_000, 320_500),
    "dien": (36_608, 34_400, 26_200),
    "dcn_v2": (73_920, 57_600, 41_200),
    "deepfm": (28_896, 16_600, 8_300),
    "transformer": (37_184, 35_200, 31_100),
}


@pytest.mark.parametrize("name", SHRINK)
def test_products_shrink(name):
    before, unfolded, folded = SHRINK[name]
    for fold_items, most in ((False, unfolded), (True, folded)):
        report = rewritten(name, fold_items).report
        assert report[0].multiply_adds_before == before
        assert report[-1].multiply_adds_after <= most
    assert rewritten(name, True).fold is not None


@pytest.mark.parametrize("fold_items", [False, True])
@pytest.mark.parametrize("name", SCORERS)
def test_no_pass_adds_products(name, fold_items):
    for one in rewritten(name, fold_items).report:
        # Towers behind a partition have an unknown number of rows and count for nothing, until branch_switch has them
        # run on all items.
        if one.name != "branch_switch":
            assert one.multiply_adds_after <= one.multiply_adds_before, one
