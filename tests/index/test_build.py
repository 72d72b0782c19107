"""The CSR arrays of a built index equal Faiss' graph, read here entry by entry through Faiss' own accessors."""

import faiss
import numpy as np
import pytest
import tensorflow as tf

from tests.ops.searching import any_search
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.index import build as build_module
from tfserving_ext.index.resource import MappedIndex


def vectors(n: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=[n, dim]).astype(np.float32)


def faiss_graph(embeddings: np.ndarray, m: int, ef_construction: int, chunk: int, seed: int | None = None):
    """Builds the same graph by Faiss alone; one thread and the same portions give the same graph."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(embeddings.shape[1], m)
    index.hnsw.efConstruction = ef_construction
    if seed not in (None, 12345):
        index.hnsw.rng = faiss.RandomGenerator(seed)
    for start in range(0, len(embeddings), chunk):
        index.add(embeddings[start : start + chunk])
    faiss.omp_set_num_threads(before)
    return index


def neighbors_of(hnsw, item: int, layer: int) -> list[int]:
    """Returns the item's links in a layer; Faiss stores -1 in free places."""
    if hnsw.levels.at(item) <= layer:
        return []
    first = hnsw.offsets.at(item) + hnsw.cum_nb_neighbors(layer)
    slots = faiss.rev_swig_ptr(hnsw.neighbors.data(), hnsw.neighbors.size())
    return [slot for slot in slots[first : first + hnsw.nb_neighbors(layer)].tolist() if slot >= 0]


@pytest.mark.parametrize(
    ("n", "m", "chunk", "seed"),
    [(500, 4, 8192, 12345), (500, 4, 64, 12345), (500, 4, 8192, 7), (64, 2, 8192, 0), (300, 16, 100, 12345)],
)
def test_layers_are_faiss_s_graph(tmp_path, monkeypatch, n, m, chunk, seed):
    """Compares with the levels that Faiss itself draws with each seed, of which 12345 is its default.

    First contact, line 27.
    """
    monkeypatch.setattr(build_module, "CHUNK", chunk)
    embeddings = vectors(n)
    ids = np.random.default_rng(1).permutation(n) * 3 + 1000
    index = build_index(ids, embeddings, tmp_path / "index", Hnsw(m=m, ef_construction=20, threads=1, seed=seed))
    graph = faiss_graph(embeddings, m, 20, chunk, seed)
    hnsw = graph.hnsw
    assert len(index.layers) == 2
    for number, layer in enumerate(index.layers):
        rows = [layer.neighbors[layer.row_splits[item] : layer.row_splits[item + 1]].tolist() for item in range(n)]
        expected = [neighbors_of(hnsw, item, number) for item in range(n)]
        assert [row[: len(wanted)] for row, wanted in zip(rows, expected, strict=True)] == expected
        # They are followed by links to items that no walk would reach.
        assert len(layer.neighbors) - sum(map(len, expected)) <= index.manifest["unreachable"]["before"][number]
    levels = [hnsw.levels.at(item) for item in range(n)]
    highest = min(2, max(levels) - 1)
    assert index.entry_points.tolist() == [item for item in range(n) if levels[item] > highest]
    assert len(index.entry_points) < n / 2
    np.testing.assert_array_equal(index.item_ids, ids)
    np.testing.assert_array_equal(index.item_embeddings, embeddings)


def test_the_shape_of_a_graph(tmp_path):
    """Items have up to 2 M links in the ground layer; about n / M are in layer 1, and n / M^2 in the start layer."""
    n, m = 4000, 8
    index = build_index(np.arange(n), vectors(n), tmp_path / "index", Hnsw(m=m))
    ground, upper = (np.diff(layer.row_splits) for layer in index.layers)
    assert ground.min() >= 1
    assert ground.max() <= 2 * m
    assert upper.max() <= m
    assert 0.7 * n / m < (upper > 0).sum() < 1.3 * n / m
    assert 0.5 * n / m**2 < len(index.entry_points) < 1.5 * n / m**2
    assert (upper[index.entry_points] > 0).all()
    above = np.flatnonzero(upper)
    assert set(index.layers[1].neighbors.tolist()) <= set(above.tolist())
    assert index.manifest["M"] == m
    assert index.manifest["efConstruction"] == 40
    assert index.manifest["metric"] == "L2"


def test_links_are_between_near_items(tmp_path):
    """Nearly every item links to its nearest other item by L2."""
    embeddings = vectors(1000, 4)
    index = build_index(np.arange(1000), embeddings, tmp_path / "index", Hnsw(m=16, threads=1))
    distances = ((embeddings[:, None] - embeddings[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    splits, neighbors = index.layers[0].row_splits, index.layers[0].neighbors
    found = [nearest in neighbors[splits[i] : splits[i + 1]] for i, nearest in enumerate(distances.argmin(1))]
    assert np.mean(found) > 0.97


@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_tiny_corpora(tmp_path, n):
    """Without a layer 2, the search starts in the highest layer that exists, and reaches every item."""
    embeddings = vectors(n, 3)
    index = build_index(np.arange(n) + 50, embeddings, tmp_path / "index", Hnsw(threads=1))
    graph = faiss_graph(embeddings, 32, 40, 8192)
    levels = [graph.hnsw.levels.at(item) for item in range(n)]
    highest = min(2, max(levels) - 1)
    assert index.entry_points.tolist() == [item for item in range(n) if levels[item] > highest]
    found = any_search(
        (mapped := MappedIndex(index)).resource_handle,
        [tf.ones([1, 3])],
        lambda user, items: tf.reduce_sum(items * user[:, None], -1),
        mapped.dim,
        n + 1,
        [n, n, n],
        [1, 2, n],
    )
    assert sorted(found.item_ids.numpy()[0]) == [-1, *range(50, 50 + n)]
    assert found.items_scored.numpy().tolist() == [n]


def test_a_flat_corpus_has_a_bounded_number_of_entry_points():
    """With a thousand times M items but no upper layer, which Faiss never draws, not all items are entry points."""
    levels = np.ones(5000, np.int32)
    entry_points = build_module._entry_points(levels, 2)
    np.testing.assert_array_equal(entry_points, np.arange(1024))
    levels[[7, 4000]] = 2
    np.testing.assert_array_equal(build_module._entry_points(levels, 2), [7, 4000])
    levels[9], levels[4999] = 3, 5
    np.testing.assert_array_equal(build_module._entry_points(levels, 2), [9, 4999])


def test_a_seed_draws_other_layers(tmp_path):
    """`seed` reaches Faiss, and the graph differs. First contact, line 27."""
    one, other = (
        build_index(np.arange(700), vectors(700), tmp_path / str(seed), Hnsw(m=4, seed=seed)) for seed in (5, 6)
    )
    assert one.entry_points.tolist() != other.entry_points.tolist()
    assert (one.manifest["seed"], other.manifest["seed"]) == (5, 6)


def test_one_thread_builds_the_same_bytes_every_time(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        build_index(np.arange(700), vectors(700), folder, Hnsw(m=4, threads=1))
    for path in Index.open(folders[0]).files:
        assert path.read_bytes() == (folders[1] / path.name).read_bytes()


@pytest.mark.parametrize("fails", [False, True])
def test_faiss_s_threads_are_left_as_they_were(tmp_path, monkeypatch, fails):
    before = faiss.omp_get_max_threads()
    if fails:
        monkeypatch.setattr(build_module, "progress", None)
        with pytest.raises(TypeError):
            build_index(np.arange(5), vectors(5), tmp_path / "index", Hnsw(threads=before + 3))
    else:
        build_index(np.arange(5), vectors(5), tmp_path / "index", Hnsw(threads=before + 3))
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"m": 1}, "m is 1, allowed are 2 to 512"),
        ({"m": 513}, "m is 513, allowed are 2 to 512"),
        ({"m": -4}, "m is -4, allowed are 2 to 512"),
        ({"ef_construction": 0}, "ef_construction is 0, allowed are 1 to 100000"),
        ({"ef_construction": 100_001}, "ef_construction is 100001, allowed are 1 to 100000"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path, parameters, message):
    with pytest.raises(NannError, match=message):
        build_index(np.arange(5), vectors(5), tmp_path / "index", Hnsw(**parameters))
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("ids", "embeddings", "message"),
    [
        (np.arange(4), vectors(5), "there are 4 item ids but 5 item embeddings"),
        (np.array([3, 1, 3]), vectors(3), "item id 3 appears 2 times"),
        (np.arange(2), np.array([[1, 2], [3, np.nan]]), r"the embedding of item 1 \(row 1\) holds NaN or infinity"),
        (np.arange(0), vectors(0), "there are no items"),
    ],
)
def test_bad_items_are_refused_before_the_graph_is_built(tmp_path, monkeypatch, ids, embeddings, message):
    monkeypatch.setattr(faiss, "IndexHNSWFlat", None)
    with pytest.raises(NannError, match=message):
        build_index(ids, embeddings, tmp_path / "index")
