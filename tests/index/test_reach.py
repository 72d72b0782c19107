"""Unreachable items, compared with a plain walk in Python; a built graph has none."""

from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.index.conftest import csr
from tfserving_ext.index import Graph, Hnsw, Index, Layer, build_index, import_original, write_index
from tfserving_ext.index.reach import graph_facts, link_unreachable, unreachable, unreachable_items


def rows_of(layer: Layer) -> list[list[int]]:
    splits, neighbors = layer.row_splits.tolist(), layer.neighbors.tolist()
    return [neighbors[splits[item] : splits[item + 1]] for item in range(len(splits) - 1)]


def walked(entry_points, layers) -> list[set[int]]:
    """Returns what a search of unlimited width reaches in each layer, ground layer first; walks link by link."""
    met, found = {int(item) for item in entry_points}, []
    for layer in reversed(layers):
        rows, waiting = rows_of(layer), deque(met)
        while waiting:
            for neighbor in rows[waiting.popleft()]:
                if neighbor not in met:
                    met.add(neighbor)
                    waiting.append(neighbor)
        found.append(set(met))
    return found[::-1]


def lost(index: Index) -> set[int]:
    return set(range(len(index.item_ids))) - walked(index.entry_points, index.layers)[0]


@st.composite
def graphs(draw, most_links: int = 4):
    """Draws entry points and two layers with any links; those of the upper layer are among some of the items."""
    n = draw(st.integers(1, 25))
    ground = draw(st.lists(st.lists(st.integers(0, n - 1), max_size=most_links), min_size=n, max_size=n))
    above = draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True))
    rows = [draw(st.lists(st.sampled_from(above), max_size=most_links)) if item in above else [] for item in range(n)]
    entries = draw(st.lists(st.sampled_from(above), min_size=1, max_size=3))
    return np.array(entries, np.int32), [csr(ground), csr(rows)]


def members_of(entry_points, layer: Layer) -> set[int]:
    rows = rows_of(layer)
    return {item for item, row in enumerate(rows) if row} | {item for row in rows for item in row} | set(entry_points)


@settings(deadline=None)
@given(graph=graphs())
def test_unreachable_items_are_those_that_a_plain_walk_leaves_out(graph):
    entry_points, layers = graph
    n = len(layers[0].row_splits) - 1
    met = walked(entry_points, layers)
    expected = [sorted(set(range(n)) - met[0]), sorted(members_of(entry_points.tolist(), layers[1]) - met[1])]
    assert [items.tolist() for items in unreachable(entry_points, layers)] == expected
    opened = SimpleNamespace(entry_points=entry_points, layers=tuple(layers))
    assert unreachable_items(opened).tolist() == expected[0]


@settings(deadline=None)
@given(graph=graphs(), seed=st.integers(0, 99), values=st.sampled_from([1, 3, 1000]))
def test_links_make_every_item_of_any_graph_reachable(graph, seed, values):
    """In any graph, with any ties, all items are reached, old links stay in place, and no item gets too many."""
    entry_points, layers = graph
    n = len(layers[0].row_splits) - 1
    table = np.random.default_rng(seed).integers(values, size=[n, 2]).astype(np.float32)
    missed = [len(items) for items in unreachable(entry_points, layers)]
    made, counts = link_unreachable(entry_points, layers, table.__getitem__, [6, 6])
    assert counts == missed
    assert not any(len(items) for items in unreachable(entry_points, made))
    for before, after in zip(layers, made, strict=True):
        for old, new in zip(rows_of(before), rows_of(after), strict=True):
            assert new[: len(old)] == old
            assert len(new) <= 6
    added = [len(after.neighbors) - len(before.neighbors) for before, after in zip(layers, made, strict=True)]
    assert all(more <= count for more, count in zip(added, missed, strict=True))


def test_an_item_is_linked_from_the_nearest_of_its_own_neighbours():
    table = np.array([[0], [10], [11], [11.4]], np.float32)
    layers = [csr([[1, 2], [0], [0], [0, 1, 2]])]  # No item links to item 3.
    made, counts = link_unreachable(np.array([0]), layers, table.__getitem__, [4])
    assert counts == [1]
    assert rows_of(made[0]) == [[1, 2], [0], [0, 3], [0, 1, 2]]


def test_an_item_without_neighbours_is_linked_from_the_nearest_of_all():
    table = np.array([[0], [10], [11], [11.4], [12]], np.float32)
    made, counts = link_unreachable(np.array([0]), [csr([[1, 2], [0], [0], [4], [3]])], table.__getitem__, [4])
    assert counts == [2]
    assert rows_of(made[0])[2] == [0, 3, 4]


STRUCTURES = {
    "zero rows": lambda rng, e: e.__setitem__(rng.permutation(len(e))[: len(e) // 5], 0),
    "a few copies": lambda rng, e: e.__setitem__(slice(0, len(e), 7), e[: len(e[::7])]),
    "clusters of copies": lambda rng, e: e.__setitem__(
        slice(0, len(e) // 2), e[rng.integers(min(3, len(e)), size=len(e) // 2)]
    ),
    "nearly all": lambda rng, e: e.__setitem__(slice(3, None), e[0]),
    "all equal": lambda rng, e: e.__setitem__(slice(None), 0.3),
    "minus zero": lambda rng, e: e.__setitem__(slice(None), np.where(rng.random(e.shape) < 0.5, -0.0, 0.0)),
    "near ties": lambda rng, e: e.__setitem__(
        slice(0, len(e) // 2), 1 + rng.integers(3, size=e[: len(e) // 2].shape) * 1.2e-7
    ),
    "closer than float32's squares": lambda rng, e: e.__imul__(np.where(rng.random([len(e), 1]) < 0.3, 1e-25, 1)),
    "a lattice": lambda rng, e: np.rint(e, out=e),
    "all equally far": lambda rng, e: e.__setitem__(
        slice(None), np.eye(len(e), e.shape[1]) * (1 + np.arange(len(e)))[:, None]
    ),
    "one-hot": lambda rng, e: e.__setitem__(slice(None), np.eye(e.shape[1])[rng.integers(e.shape[1], size=len(e))]),
    "huge": lambda rng, e: e.__imul__(np.float32(1e30)),
    "tiny": lambda rng, e: e.__imul__(np.float32(1e-30)),
    "ordinary": lambda rng, e: None,
}


def structured(name: str, n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=[n, dim]).astype(np.float32)
    STRUCTURES[name](rng, embeddings)
    return embeddings


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(STRUCTURES)),
    n=st.integers(1, 400),
    dim=st.sampled_from([1, 2, 8]),
    m=st.sampled_from([2, 4, 32]),
    dtype=st.sampled_from(["float32", "float16", "int8"]),
    seed=st.integers(0, 9),
)
def test_every_item_of_a_built_index_is_reachable(tmp_path, name, n, dim, m, dtype, seed):
    """More than 2 M copies of one embedding must not tear the graph apart. First contact, line 3."""
    embeddings = structured(name, n, dim, seed)
    dtype = "float32" if name == "huge" else dtype
    index = build_index(np.arange(n) + 7, embeddings, tmp_path / "index", Hnsw(m, 20, 1, seed), dtype)
    assert lost(index) == set()
    assert index.manifest["unreachable"]["after"] == [0, 0]
    values = embeddings + 0.0  # Turns -0 into 0.
    assert index.manifest["copies"] == n - len(np.unique(values, axis=0))
    if dtype == "float32":
        np.testing.assert_array_equal(index.item_embeddings, embeddings)


@pytest.mark.parametrize("name", sorted(STRUCTURES))
def test_a_thousand_items_of_each_structure(tmp_path, name):
    """Like the test above, with many more copies than links, once for each structure."""
    n = 1500
    index = build_index(np.arange(n), structured(name, n, 8, 0), tmp_path / "index", Hnsw(m=8, threads=1))
    assert lost(index) == set()
    most = np.diff(index.layers[0].row_splits).max()
    assert most <= 4 * 8 + 9


def test_unreachable_items_of_an_import_are_counted_and_left(tmp_path, arrays):
    """No item links to item 4: the graph stays the original's, and the manifest and the output report the item."""
    rows = [[other for other in row if other != 4] for row in rows_of(arrays["layers"][0])]
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    np.save(theirs / "item_ids.npy", arrays["item_ids"])
    np.save(theirs / "item_embs.npy", arrays["item_embeddings"])
    np.save(theirs / "enter_points.npy", arrays["entry_points"])
    for level, layer in enumerate([csr(rows), arrays["layers"][1]]):
        np.save(theirs / f"neighbors_level_{level}_values.npy", layer.neighbors)
        np.save(theirs / f"neighbors_level_{level}_row_splits.npy", layer.row_splits)
    index = import_original(theirs, theirs, tmp_path / "index")
    assert rows_of(index.layers[0]) == rows
    assert index.manifest["unreachable"] == {"before": [1, 0], "after": [1, 0]}
    (line,) = graph_facts(index.manifest)
    assert line.startswith("1 of 9 items cannot be reached from the entry points")


def test_what_was_done_is_said(tmp_path):
    embeddings = structured("zero rows", 500, 8, 0)
    index = build_index(np.arange(500), embeddings, tmp_path / "index", Hnsw(m=2, threads=1))
    before = index.manifest["unreachable"]["before"]
    assert before[0] > 0
    copies, linked = graph_facts(index.manifest)
    assert copies.startswith("99 items have the embedding of another item")
    assert linked.startswith(f"{before[0]} items of the ground layer and {before[1]} of upper layers could not")
    assert (
        graph_facts(
            write_index(
                tmp_path / "plain", np.arange(1), np.ones([1, 2]), Graph(np.array([0]), [csr([[]])]), {}
            ).manifest
        )
        == []
    )
