"""The features of items and the distances along edges, against NumPy's own decomposition and one edge at a time."""

import numpy as np
import pytest

from tfserving_ext.index import Index, Layer
from tfserving_ext.index.features import edge_distances, item_features
from tfserving_ext.index.format import FEATURE_FILES


def embeddings_like(n: int, dim: int, rank: int, seed: int = 0) -> np.ndarray:
    """Returns float32 [n, dim] that varies most along a few directions, around a mean far from 0."""
    rng = np.random.default_rng(seed)
    spread = np.diag(3.0 / (1 + np.arange(rank)))
    made = rng.normal(size=[n, rank]) @ spread @ rng.normal(size=[rank, dim]) + 50 * rng.normal(size=dim)
    return made.astype(np.float32)


@pytest.mark.parametrize(("n", "dim", "rank"), [(500, 40, 40), (400, 33, 5), (30, 60, 60), (700, 8, 8)])
def test_features_are_the_coordinates_along_the_directions_of_most_variance(n, dim, rank):
    embeddings = embeddings_like(n, dim, rank)
    found = item_features(embeddings)
    assert found.shape == (n, 32) and found.dtype == np.int8
    centred = embeddings.astype(np.float64) - embeddings.astype(np.float64).mean(axis=0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    width = min(32, dim)
    coordinates = centred @ directions[:width].T
    wanted = np.clip(coordinates * 16 / np.sqrt(np.sum(coordinates**2) / (n * width)), -127, 127)
    # Directions of equal variance may be mixed, and each may point either way: compare those that stand apart.
    apart = [i for i in range(min(len(sizes), width)) if sizes[i] > 1e-6 * sizes[0]]
    for i in apart:
        sign = np.sign(np.dot(wanted[:, i], found[:, i].astype(np.float64)))
        np.testing.assert_allclose(sign * found[:, i], wanted[:, i], atol=0.75)
    assert not found[:, width:].any()


def test_features_do_not_depend_on_scale_or_place():
    embeddings = embeddings_like(200, 24, 24)
    found = item_features(embeddings)
    for other in (embeddings * np.float32(1e18), embeddings * np.float32(1e-18), embeddings + np.float32(8)):
        assert np.abs(item_features(other).astype(int) - found).max() <= 1


def test_wide_embeddings_and_few_or_equal_items():
    assert item_features(embeddings_like(50, 3000, 10)).any()
    assert not item_features(np.ones([5, 7], np.float32)).any()
    assert item_features(np.zeros([0, 7], np.float32)).shape == (0, 32)
    assert item_features(np.float32([[1, 2]])).shape == (1, 32)


def test_distances_are_relative_to_the_median_of_those_above_zero():
    rng = np.random.default_rng(3)
    embeddings = rng.normal(size=[300, 12]).astype(np.float32)
    embeddings[7] = embeddings[3]
    degrees = rng.integers(0, 9, 300)
    degrees[3] = 2
    row_splits = np.concatenate([[0], np.cumsum(degrees)])
    neighbors = rng.integers(0, 300, row_splits[-1]).astype(np.int32)
    neighbors[row_splits[3]] = 7
    found = edge_distances(embeddings, Layer(row_splits, neighbors))
    squares = np.array(
        [
            np.sum((embeddings[item].astype(np.float64) - embeddings[neighbor]) ** 2)
            for item in range(300)
            for neighbor in neighbors[row_splits[item] : row_splits[item + 1]]
        ]
    )
    assert found[row_splits[3]] == 0
    np.testing.assert_array_equal(found, np.minimum(np.rint(64 * squares / np.median(squares[squares > 0])), 255))


def test_an_index_without_features_opens_as_version_1(index):
    from tests.index.test_broken import edit_manifest

    for name in FEATURE_FILES:
        (index.folder / name).unlink()
    files = {
        name: facts for name, facts in index.manifest["files"].items() if "feature" not in name and "dist" not in name
    }
    edit_manifest(index, format_version=1, files=files)
    opened = Index.open(index.folder, checksums=True)
    assert not opened.has_features and opened.item_features is None
