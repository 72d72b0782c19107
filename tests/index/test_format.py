"""The index on disk: reading returns what was written, and invalid arrays are not written."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tests.index.conftest import DIM, N, write
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index import Index, Layer
from tfserving_ext.index.features import edge_distances, item_features


def test_what_was_written_is_what_is_read(arrays, index):
    for opened in (index, Index.open(index.folder), Index.open(str(index.folder), checksums=True)):
        np.testing.assert_array_equal(opened.item_ids, arrays["item_ids"])
        np.testing.assert_array_equal(opened.item_embeddings, arrays["item_embeddings"])
        np.testing.assert_array_equal(opened.entry_points, arrays["entry_points"])
        assert opened.dim == DIM
        for layer, written in zip(opened.layers, arrays["layers"], strict=True):
            np.testing.assert_array_equal(layer.row_splits, written.row_splits)
            np.testing.assert_array_equal(layer.neighbors, written.neighbors)
    ops.index_open(ops.index_handle(), [str(path) for path in index.files], dim=DIM, features=True)


def test_the_files_are_the_bytes_that_the_format_promises(arrays, index):
    expected = {
        "item_ids.bin": arrays["item_ids"].astype("<i8"),
        "item_embeddings.bin": arrays["item_embeddings"].astype("<f4"),
        "entry_points.bin": arrays["entry_points"].astype("<i4"),
        "row_splits_0.bin": np.arange(0, 3 * N + 1, 3).astype("<i8"),
        "neighbors_0.bin": arrays["layers"][0].neighbors.astype("<i4"),
        "row_splits_1.bin": np.array([0, 1, 1, 1, 2, 2, 2, 3, 3, 3], "<i8"),
        "neighbors_1.bin": np.array([3, 6, 0], "<i4"),
        "item_features.bin": item_features(arrays["item_embeddings"]),
        "edge_distances.bin": edge_distances(arrays["item_embeddings"], arrays["layers"][0]),
    }
    assert {path.name for path in index.folder.iterdir()} == {"manifest.json", *expected}
    assert [path.name for path in index.files] == list(expected)
    manifest = json.loads((index.folder / "manifest.json").read_text())
    for name, array in expected.items():
        data = (index.folder / name).read_bytes()
        assert data == array.tobytes()
        sha256 = hashlib.sha256(data).hexdigest()
        assert manifest["files"].pop(name) == {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": sha256}
    assert manifest == {
        "format": "nann-index",
        "format_version": 2,
        "num_items": N,
        "dim": DIM,
        "dtype": "float32",
        "layers": 2,
        "entry_points": 2,
        "features": 32,
        "metric": "L2",
        "M": 3,
        "files": {},
    }


def test_other_integer_and_float_types_are_converted(arrays, tmp_path):
    arrays["item_ids"] = np.arange(N, dtype=np.uint16)
    arrays["item_embeddings"] = arrays["item_embeddings"].astype(np.float16).astype(">f8")
    arrays["layers"] = [
        Layer(layer.row_splits.astype(np.uint32), layer.neighbors.astype(">i8")) for layer in arrays["layers"]
    ]
    index = write(tmp_path / "index", **arrays, parameters={})
    np.testing.assert_array_equal(index.item_ids, np.arange(N))
    np.testing.assert_array_equal(index.item_embeddings, arrays["item_embeddings"].astype(np.float32))
    np.testing.assert_array_equal(index.layers[0].neighbors, arrays["layers"][0].neighbors)


def replaced(name: str, at: dict):
    """Returns `write`'s arguments with wrong entries in one array."""

    def make(arrays: dict) -> dict:
        value = arrays[name].copy()
        for place, entry in at.items():
            value[place] = entry
        return arrays | {name: value}

    return make


def with_layer(**parts):
    """Returns `write`'s arguments with a ground layer alone, one array of which is wrong."""
    return lambda arrays: arrays | {"layers": [dataclasses.replace(arrays["layers"][0], **parts)]}


NEIGHBORS = np.zeros(3 * N, np.int64)
REFUSED = {
    "repeated id": (replaced("item_ids", at={3: 70}), "item id 70 appears 2 times; ids must be all different"),
    "NaN": (
        replaced("item_embeddings", at={(2, 1): np.nan}),
        "embedding of item 4611686018427387904 (row 2) holds NaN",
    ),
    "infinity": (replaced("item_embeddings", at={(8, 0): -np.inf}), "the embedding of item 9 (row 8) holds NaN or inf"),
    "too large for float32": (
        lambda a: a | {"item_embeddings": np.full([N, DIM], 1e300)},
        "the embedding of item 70 (row 0) holds NaN or infinity",
    ),
    "fewer ids": (lambda a: a | {"item_ids": a["item_ids"][:-1]}, "there are 8 item ids but 9 item embeddings"),
    "fewer embeddings": (lambda a: a | {"item_embeddings": np.zeros([5, 2])}, "9 item ids but 5 item embeddings"),
    "no items": (lambda a: a | {"item_ids": NEIGHBORS[:0], "item_embeddings": np.zeros([0, 3])}, "there are no items"),
    "no width": (lambda a: a | {"item_embeddings": np.zeros([N, 0], np.float32)}, "[9, 0]"),
    "text ids": (
        lambda a: a | {"item_ids": np.array(list("abcdefghi"))},
        "item ids are <U1 [9], they must be integers",
    ),
    "float ids": (lambda a: a | {"item_ids": np.arange(9.0)}, "item ids are float64 [9], they must be integers [n]"),
    "ids above int64": (
        lambda a: a | {"item_ids": a["item_ids"].astype(np.uint64) + np.uint64(2**63)},
        "allowed are",
    ),
    "id matrix": (
        lambda a: a | {"item_ids": np.zeros([9, 1], int)},
        "item ids are int64 [9, 1], they must be integers",
    ),
    "integer embeddings": (
        lambda a: a | {"item_embeddings": np.zeros([9, 3], int)},
        "embeddings are int64 [9, 3], they",
    ),
    "embedding vector": (lambda a: a | {"item_embeddings": np.zeros(9)}, "item embeddings are float64 [9], they must"),
    "entry point": (
        replaced("entry_points", at={1: N}),
        "entry_points.bin[1] is 9, allowed are the item indices 0 to 8",
    ),
    "no entry points": (lambda a: a | {"entry_points": np.zeros(0, int)}, "entry_points.bin is empty"),
    "entry point that wraps": (lambda a: a | {"entry_points": np.array([2**32])}, "entry_points.bin[0] is 4294967296"),
    "the mark for none": (
        lambda a: a | {"item_ids": np.array([5, 6, -1, 7, 8, 9, -1, 10, 11])},
        "item_ids[2] is -1, the mark for 'no item' in requests and answers; allowed are all other int64: drop that row",
    ),
    "ids beyond int64": (
        lambda a: a | {"item_ids": np.arange(9, dtype=np.uint64) + 2**63},
        "item_ids[0] is 9223372036854775808, allowed are -9223372036854775808 to 9223372036854775807",
    ),
    "no layers": (lambda a: a | {"layers": []}, "layers is 0"),
    "neighbor": (with_layer(neighbors=NEIGHBORS + N), "neighbors_0.bin[0] is 9, allowed are the item indices 0 to 8"),
    "neighbor that wraps": (with_layer(neighbors=NEIGHBORS + 2**32), "neighbors_0.bin[0] is 4294967296"),
    "float neighbors": (with_layer(neighbors=NEIGHBORS + 0.5), "neighbors_0.bin is float64 [27], it must be integers"),
    "neighbor matrix": (with_layer(neighbors=NEIGHBORS.reshape(-1, 3)), "neighbors_0.bin is int64 [9, 3], it must be"),
    "few rows": (with_layer(row_splits=np.array([0, 27])), "row_splits_0.bin has 2 entries, expected 10"),
    "rows fall": (with_layer(row_splits=np.array([0, 9, 8, *[27] * 7])), "row_splits_0.bin[2] is 8, below the entry"),
    "rows end early": (
        with_layer(row_splits=np.arange(10)),
        "row_splits_0.bin must end with 27, the length of neighbors_0.bin; it ends with 9",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("error")
def test_wrong_arrays_are_not_written(arrays, tmp_path, name):
    make, message = REFUSED[name]
    with pytest.raises(NannError) as refused:
        write(tmp_path / "index", **make(arrays), parameters={})
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_index(arrays, index):
    before = {path.name: path.read_bytes() for path in index.folder.iterdir()}
    with pytest.raises(NannError):
        write(index.folder, **arrays | {"entry_points": np.array([99])}, parameters={})
    assert {path.name: path.read_bytes() for path in index.folder.iterdir()} == before
    assert [path.name for path in index.folder.parent.iterdir()] == ["index"]


def test_an_index_is_replaced_while_it_is_mapped(arrays, index):
    """A reader that has the old index open still reads the old one."""
    old = np.array(arrays["item_embeddings"])
    write(index.folder, **arrays | {"item_embeddings": old + 1}, parameters={})
    np.testing.assert_array_equal(index.item_embeddings, old)
    np.testing.assert_array_equal(Index.open(index.folder).item_embeddings, old + 1)


def test_opened_tables_are_mapped_and_read_only(index):
    assert not index.item_embeddings.flags.writeable
    maps = Path("/proc/self/maps").read_text()
    assert str(index.folder / "item_embeddings.bin") in maps
    assert str(index.folder / "neighbors_0.bin") in maps
