"""Items that share an embedding are grouped as NumPy groups them, linked like the item that they copy, and found."""

import numpy as np
import pytest
import tensorflow as tf

from tests.index.test_reach import rows_of
from tests.ops.searching import any_search
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.index import copies as copies_module
from tfserving_ext.index.copies import find_copies
from tfserving_ext.index.resource import MappedIndex


@pytest.mark.parametrize("kind", ["normal", "few values", "zeros of both signs", "small integers", "one hash"])
def test_groups_are_numpy_s(monkeypatch, kind):
    rng = np.random.default_rng(0)
    embeddings = {
        "normal": rng.normal(size=[3000, 5]),
        "few values": rng.normal(size=[20, 5])[rng.integers(20, size=3000)],
        "zeros of both signs": np.where(rng.random([3000, 5]) < 0.5, -0.0, 0.0),
        "small integers": rng.integers(-2, 3, size=[3000, 3]),
        "one hash": rng.integers(0, 3, size=[3000, 2]),
    }[kind].astype(np.float32)
    if kind == "one hash":  # Different embeddings with the same hash must not be taken for copies.
        monkeypatch.setattr(copies_module, "_hashes", lambda table: (table[:, 0] > 1).astype(np.uint64))
    found = find_copies(embeddings)
    _, first, place = np.unique(embeddings + 0.0, axis=0, return_index=True, return_inverse=True)
    if kind == "one hash":
        np.testing.assert_array_equal(embeddings[found.kept[found.place]], embeddings)
        assert set(first) <= set(found.kept.tolist())
    else:
        np.testing.assert_array_equal(found.kept, np.sort(first))
        np.testing.assert_array_equal(found.kept[found.place], first[place.ravel()])
    assert found.number == 3000 - len(found.kept)


def test_without_copies_the_graph_is_that_of_the_embeddings_alone(tmp_path):
    """With copies, the other items have the same links first, followed by those to copies."""
    rng = np.random.default_rng(1)
    alone = rng.normal(size=[800, 8]).astype(np.float32)
    plain = build_index(np.arange(800), alone, tmp_path / "plain", Hnsw(m=16, threads=1))
    both = np.concatenate([alone, alone[rng.integers(800, size=300)]])
    index = build_index(np.arange(1100), both, tmp_path / "index", Hnsw(m=16, threads=1))
    assert plain.manifest["copies"] == 0
    assert index.manifest["copies"] == 300
    for old, new in zip(rows_of(plain.layers[0]), rows_of(index.layers[0])[:800], strict=True):
        assert new[: len(old)] == old
        assert all(item >= 800 for item in new[len(old) :])
    assert rows_of(plain.layers[1]) == rows_of(index.layers[1])[:800]
    np.testing.assert_array_equal(plain.entry_points, index.entry_points)


def test_copies_lead_where_their_item_leads(tmp_path):
    """A walk that is seeded with any copy reaches all copies, and what a walk from the item itself reaches."""
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=[600, 8]).astype(np.float32)
    same = np.sort(rng.permutation(600)[:200])
    embeddings[same] = 0.5
    index = build_index(np.arange(600), embeddings, tmp_path / "index", Hnsw(m=4, threads=1))
    rows = rows_of(index.layers[0])
    outside = set(rows[same[0]]) - set(same.tolist())
    assert outside
    for copy in same[1:]:
        assert outside <= set(rows[copy])
    met, waiting = {int(same[-1])}, [int(same[-1])]
    while waiting:
        for other in set(rows[waiting.pop()]) & set(same.tolist()) - met:
            met.add(other)
            waiting.append(other)
    assert met == set(same.tolist())


def answers(index: Index, users: np.ndarray, seeds: np.ndarray | None, k: int) -> np.ndarray:
    """Returns the scores of the best-first search by squared distance, float32 [users, k]."""
    mapped = MappedIndex(index)
    found = any_search(
        mapped.resource_handle,
        [tf.constant(users)],
        lambda user, items: -tf.reduce_sum(tf.square(items - user[:, None]), -1),
        mapped.dim,
        k,
        [16, 200],
        [1000],
        algorithm="best_first",
        seeds=seeds,
    )
    return found.scores.numpy()


@pytest.mark.parametrize("seeded", [False, True])
def test_a_thousand_items_of_one_score_do_not_hide_the_best(tmp_path, seeded):
    """The best k = 100 are found even while copies, with a middling or the best score, fill the pool of 200."""
    rng = np.random.default_rng(3)
    n, k = 3000, 100
    embeddings = rng.normal(size=[n, 8]).astype(np.float32)
    embeddings[rng.permutation(n)[:1000]] = 0
    index = build_index(np.arange(n), embeddings, tmp_path / "index", Hnsw(m=16, threads=1))
    users = np.concatenate([rng.normal(size=[20, 8]), 0.1 * rng.normal(size=[20, 8])]).astype(np.float32)
    exact = np.sort(-np.square(users[:, None] - embeddings[None]).sum(-1), axis=1)[:, -k]
    scores = answers(index, users, rng.integers(n, size=[40, 5]) if seeded else None, k)
    assert (scores >= exact[:, None] - 1e-3).mean() > 0.98
