import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving_ext.index.format import Layer, write_index
from tfserving_ext.index.graph import Graph
from tfserving_ext.retrieval import BruteForce

ITEMS, VALUES = 11, (0.0, -0.0, 1.0, -2.5, 3e38, -3e38, float("inf"), float("-inf"), float("nan"))


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index whose items' embeddings are their places."""
    layer = Layer(np.zeros(ITEMS + 1, np.int64), np.zeros(0, np.int32))
    embeddings = np.arange(ITEMS, dtype=np.float32)[:, None]
    folder = tmp_path_factory.mktemp("brute_force") / "index"
    return write_index(folder, 100 + np.arange(ITEMS), embeddings, Graph(np.array([0]), [layer]), {})


@pytest.fixture(scope="module")
def searches(index):
    """The searches by (chunk, shared_items)."""

    def score(user, items):
        (table,) = user
        places = tf.broadcast_to(tf.cast(items[..., 0], tf.int32), [tf.shape(table)[0], tf.shape(items)[1]])
        return tf.gather(table, places, batch_dims=1)

    return {
        (chunk, shared): BruteForce(index, score, chunk=chunk, shared_items=shared)
        for chunk in (1, 7, 99)
        for shared in (True, False)
    }


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.lists(st.sampled_from(VALUES), min_size=ITEMS, max_size=ITEMS), min_size=1, max_size=3),
    st.integers(1, ITEMS + 2),
)
def test_any_chunk_gives_the_sort_by_score_and_then_by_place(searches, tables, k):
    scores = np.array(tables, np.float32)
    for search in searches.values():
        found = search.search((tf.constant(scores),), tf.constant(k))
        for row, ids, values, nans in zip(scores, found.item_ids, found.scores, found.nan_scores, strict=True):
            # NaN comes last, after minus infinity.
            order = sorted(range(ITEMS), key=lambda item: (np.isnan(row[item]), -row[item], item))[:k]
            wanted = [100 + item for item in order] + [-1] * (k - ITEMS)
            assert ids.numpy().tolist() == wanted
            told = np.where(np.isnan(row[order]), -np.inf, row[order])
            np.testing.assert_array_equal(values.numpy()[: len(order)], told)
            assert np.isneginf(values.numpy()[len(order) :]).all()
            assert nans == np.isnan(row).sum()
