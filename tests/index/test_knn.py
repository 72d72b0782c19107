"""A ground layer of nearest neighbours, compared with brute force in NumPy."""

import faiss
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.index.test_copies import answers
from tests.index.test_reach import STRUCTURES, lost, rows_of, structured
from tests.ops.searching import any_search
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.builds import _hnsw
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.index import knn as knn_module
from tfserving_ext.index.knn import islands, symmetric
from tfserving_ext.index.reach import graph_facts
from tfserving_ext.index.resource import MappedIndex


def normal(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=[n, dim]).astype(np.float32)


def clusters(n: int, number: int, seed: int = 0) -> np.ndarray:
    """Clusters so far apart that no item has a near neighbour in another."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=[number, 16])
    return (centres[rng.integers(number, size=n)] + 0.1 * rng.normal(size=[n, 16])).astype(np.float32)


def distances(embeddings: np.ndarray) -> np.ndarray:
    """Returns all squared distances, float64 [n, n], infinite from an item to itself."""
    table = embeddings.astype(np.float64)
    squared = np.stack([np.square(table - row).sum(axis=1) for row in table])
    np.fill_diagonal(squared, np.inf)
    return squared


def build(folder, embeddings: np.ndarray, k: int | None = None, **options) -> Index:
    hnsw = Hnsw(graph="knn", neighbors=k, **{"m": 8, "threads": 1, **options})
    return build_index(np.arange(len(embeddings)), embeddings, folder / "index", hnsw)


@pytest.mark.parametrize(
    ("n", "dim", "offset"), [(500, 1, 0), (500, 3, 0), (500, 20, 0), (500, 3, 300), (2200, 65, 0), (2200, 65, 300)]
)
def test_every_item_has_its_nearest_neighbours(tmp_path, n, dim, offset):
    """Also far from the origin, where squares in float32 are coarser than the distances."""
    embeddings, k = normal(n, dim) + np.float32(offset), 12
    index = build(tmp_path, embeddings, k)
    squared = distances(embeddings)
    kth = np.sort(squared, axis=1)[:, k - 1]
    rows = rows_of(index.layers[0])
    for item, row in enumerate(rows):
        assert item not in row
        assert len(set(row)) == len(row)
        # Items whose distances differ by less than float32 can tell are equally near.
        assert set(np.flatnonzero(squared[item] < kth[item] * (1 - 1e-5))) <= set(row)
        assert (np.sort(squared[item, row])[:k] <= kth[item] * (1 + 1e-5)).all()
    assert index.manifest["graph"] == "knn"
    assert index.manifest["knn"]["exact"] is True
    np.testing.assert_array_equal(index.item_embeddings, embeddings)


def test_links_go_both_ways_up_to_the_bound(tmp_path):
    """A hub, the nearest neighbour of hundreds, keeps the nearest of the links to it; all others are symmetric."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=[600, 40])
    far = directions / np.linalg.norm(directions, axis=1, keepdims=True) * (10 + rng.random([600, 1]))
    embeddings = np.concatenate([np.zeros([1, 40]), far]).astype(np.float32)
    k = 5
    index = build(tmp_path, embeddings, k)
    rows, squared = [set(row) for row in rows_of(index.layers[0])], distances(embeddings)
    own = [set(row) for row in np.argsort(squared, axis=1)[:, :k].tolist()]
    assert sum(0 in row for row in own) > 500
    cut = 0
    for item, row in enumerate(rows):
        both = own[item] | {other for other in range(601) if item in own[other]}
        assert row <= both
        expected = sorted(both, key=lambda other: squared[item, other])[: 2 * k]
        assert row == set(expected)
        assert own[item] <= row
        cut += len(both) - len(row)
    assert len(rows[0]) == 2 * k == index.manifest["knn"]["most_links"]
    assert cut > 400


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(1, 30), k=st.integers(0, 5), most=st.integers(5, 9), seed=st.integers(0, 99), rows=st.integers(1, 9)
)
def test_both_directions_and_islands_of_any_lists(n, k, most, seed, rows):
    """Compares with Python's sets and a plain walk; ties are many, and some neighbours are missing."""
    rng = np.random.default_rng(seed)
    k = min(k, n - 1)
    table = rng.integers(4, size=n).astype(np.float32)
    lists = np.array([rng.permutation([other for other in range(n) if other != item])[:k] for item in range(n)])
    neighbors = np.where(rng.random([n, k]) < 0.2, -1, lists.reshape(n, k)).astype(np.int32)
    squared = np.square(table[neighbors] - table[:, None])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn_module, "ROWS_AT_ONCE", rows)
        layer, label = symmetric(neighbors, squared, most), islands(neighbors)
    both: list[set[int]] = [set() for _ in range(n)]
    for item, row in enumerate(neighbors.tolist()):
        for other in set(row) - {-1}:
            both[item].add(other)
            both[other].add(item)
    nearest = [sorted(row, key=lambda other: (abs(table[item] - table[other]), other)) for item, row in enumerate(both)]
    assert rows_of(layer) == [row[:most] for row in nearest]
    for item in range(n):
        met, waiting = {item}, [item]
        while waiting:
            new = both[waiting.pop()] - met
            met |= new
            waiting += new
        assert label[item] == min(met)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 33, 34])
def test_fewer_items_than_neighbours(tmp_path, n):
    """Of up to 33 items, each is linked with all others; a walk scores every item once."""
    index = build(tmp_path, normal(n, 4))
    for item, row in enumerate(rows_of(index.layers[0])):
        assert len(set(row)) == len(row) >= min(32, n - 1)
        assert item not in row
    found = any_search(
        (mapped := MappedIndex(index)).resource_handle,
        [tf.ones([1, 4])],
        lambda user, items: tf.reduce_sum(items * user[:, None], -1),
        mapped.dim,
        n + 1,
        [16, n],
        [1000],
        algorithm="best_first",
    )
    assert sorted(found.item_ids.numpy()[0]) == [-1, *range(n)]
    assert found.items_scored.numpy().tolist() == [n]


@pytest.mark.parametrize("name", sorted(STRUCTURES))
@pytest.mark.parametrize("k", [2, 16])
def test_every_item_is_reached_whatever_the_embeddings(tmp_path, name, k):
    """Copies, ties, islands and distances of 0 or beyond float32 do not tear the graph apart."""
    n, m = 900, 8
    embeddings = structured(name, n, 8, 0)
    index = build(tmp_path, embeddings, k, m=m)
    assert lost(index) == set()
    assert index.manifest["unreachable"]["after"] == [0, 0]
    assert index.manifest["copies"] == n - len(np.unique(embeddings + 0.0, axis=0))
    assert np.diff(index.layers[0].row_splits).max() <= 4 * k + 2 * m + 9


def test_copies_have_the_links_of_their_item(tmp_path):
    """Other items have the links that they have without the copies, followed by those to copies."""
    alone = normal(600, 8)
    both = np.concatenate([alone, alone[np.random.default_rng(1).integers(600, size=200)]])
    plain, index = build(tmp_path / "plain", alone, 6), build(tmp_path, both, 6)
    assert index.manifest["copies"] == 200
    for old, new in zip(rows_of(plain.layers[0]), rows_of(index.layers[0])[:600], strict=True):
        assert new[: len(old)] == old
        assert all(item >= 600 for item in new[len(old) :])
    np.testing.assert_array_equal(plain.entry_points, index.entry_points)


def test_upper_layers_and_entry_points_are_hnsw_s(tmp_path):
    embeddings = normal(1500, 8)
    ours = build(tmp_path, embeddings, 7)
    theirs = build_index(np.arange(1500), embeddings, tmp_path / "hnsw", Hnsw(m=8, threads=1))
    np.testing.assert_array_equal(ours.entry_points, theirs.entry_points)
    assert rows_of(ours.layers[1]) == rows_of(theirs.layers[1])
    assert rows_of(ours.layers[0]) != rows_of(theirs.layers[0])
    assert (theirs.manifest["graph"], "knn" in theirs.manifest) == ("hnsw", False)


def test_a_walk_leaves_the_island_where_it_starts(tmp_path):
    """Users whose history lies in another cluster than the answer: without bridges they would not leave theirs.

    Clusters have 100 items, and an item 16 neighbours, all in its own cluster.
    """
    embeddings = clusters(2000, 20)
    index = build(tmp_path, embeddings, 16)
    assert index.manifest["knn"]["islands"] == 20
    assert index.manifest["knn"]["bridges"] > 0
    rng = np.random.default_rng(1)
    users = embeddings[rng.permutation(2000)[:40]]
    exact = np.sort(-np.square(users[:, None] - embeddings[None]).sum(-1), axis=1)[:, -50]
    scores = answers(index, users, rng.integers(2000, size=[40, 3]), 50)
    assert (scores >= exact[:, None] - 1e-3).mean() > 0.97
    islands_line = next(line for line in graph_facts(index.manifest) if "islands" in line)
    assert islands_line.startswith("nearest neighbours alone form 20 islands")


@pytest.mark.parametrize("seeded", [False, True])
def test_the_walk_covers_what_it_covers_on_hnsw_s_graph(tmp_path, seeded):
    embeddings = normal(4000, 12)
    rng = np.random.default_rng(4)
    users = normal(40, 12, 5)
    exact = np.sort(-np.square(users[:, None] - embeddings[None]).sum(-1), axis=1)[:, -100]
    seeds = rng.integers(4000, size=[40, 5]) if seeded else None
    scores = answers(build(tmp_path, embeddings, 24, m=16), users, seeds, 100)
    assert (scores >= exact[:, None] - 1e-3).mean() > 0.99


def test_a_search_of_the_graph_finds_nearly_all_neighbours(tmp_path, monkeypatch):
    """In a large corpus, neighbours are searched in HNSW's graph."""
    embeddings = normal(3000, 16)
    exact = build(tmp_path / "exact", embeddings, 16)
    monkeypatch.setattr(knn_module, "EXACT_ITEMS", 2999)
    searched = build(tmp_path, embeddings, 16)
    assert (exact.manifest["knn"]["exact"], searched.manifest["knn"]["exact"]) == (True, False)
    pairs = list(zip(rows_of(exact.layers[0]), rows_of(searched.layers[0]), strict=True))
    assert sum(len(set(one) & set(other)) for one, other in pairs) / len(exact.layers[0].neighbors) > 0.98
    assert lost(searched) == set()


@pytest.mark.parametrize("exact", [True, False])
def test_one_thread_builds_the_same_bytes_every_time(tmp_path, monkeypatch, exact):
    monkeypatch.setattr(knn_module, "EXACT_ITEMS", 10_000 if exact else 10)
    one, other = (build(tmp_path / name, clusters(900, 9), 8) for name in ("one", "other"))
    for path in one.files:
        assert path.read_bytes() == (other.folder / path.name).read_bytes()


def test_true_neighbours_do_not_depend_on_threads(tmp_path):
    embeddings = normal(6000, 24) + np.float32(30)
    one, other = (build(tmp_path / str(threads), embeddings, 8, threads=threads) for threads in (1, 3))
    assert rows_of(one.layers[0]) == rows_of(other.layers[0])


def test_faiss_is_left_as_it_was(tmp_path):
    before = faiss.cvar.distance_compute_blas_threshold
    build(tmp_path, normal(100, 4))
    assert faiss.cvar.distance_compute_blas_threshold == before


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"graph": "nsg"}, "graph is 'nsg', allowed are 'hnsw' and 'knn'"),
        ({"graph": "knn", "neighbors": 1}, "neighbors is 1, allowed are 2 to 512"),
        ({"graph": "knn", "neighbors": 513}, "neighbors is 513, allowed are 2 to 512"),
        ({"neighbors": 24}, "neighbors is 24, but graph is 'hnsw', whose ground layer has 2 m links"),
        ({"graph": "knn", "gpu": True}, "graph is 'knn', but a GPU builds only 'hnsw'"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(NannError, match=message):
        Hnsw(**parameters)


def test_further_builds_for_an_evaluation_are_of_the_same_kind(tmp_path):
    """`nann evaluate --builds` builds like the index that it is given, also one from before there was a choice."""
    index = build(tmp_path, normal(200, 4), 9, ef_construction=20)
    assert _hnsw(index, 3) == Hnsw(m=8, ef_construction=20, seed=3, graph="knn", neighbors=9)
    hnsw = build_index(np.arange(200), normal(200, 4), tmp_path / "hnsw", Hnsw(m=5))
    assert _hnsw(hnsw, 3) == Hnsw(m=5, seed=3)
    del hnsw.manifest["graph"]
    assert _hnsw(hnsw, 3) == Hnsw(m=5, seed=3)
