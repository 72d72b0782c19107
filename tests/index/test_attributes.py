"""A table of attributes on its way into an index: what is taken, what is refused, and damaged files."""

import datetime
import json

import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from tests.index.conftest import N
from tests.index.test_broken import edit_manifest, poke
from tfserving_ext.artifacts import sha256
from tfserving_ext.errors import NannError
from tfserving_ext.index import Graph, Hnsw, Index, ItemStorage, build_index, write_index
from tfserving_ext.index.attribute_file import attribute_facts
from tfserving_ext.index.attributes import read_attributes, store_attributes
from tfserving_ext.index.resource import MappedIndex


@pytest.fixture
def table(arrays) -> pl.DataFrame:
    """Attributes of five of the nine items, and of one that is unknown, in an order of their own."""
    ids = [*arrays["item_ids"][[4, 0, 8, 2, 1]], 12345]
    return pl.DataFrame(
        {
            "price": [1.5, -0.0, float("nan"), None, 2.0, 3.0],
            "item_id": ids,
            "day": [datetime.date(2024, 5, day) for day in range(1, 7)],
            "tags": [["x", None, "y"], [], None, ["y"], ["z"], ["unknown"]],
        }
    )


@pytest.fixture
def attributed(arrays, table, tmp_path) -> Index:
    ids, embeddings = arrays["item_ids"], arrays["item_embeddings"]
    graph = Graph(arrays["entry_points"], arrays["layers"])
    storage = ItemStorage(attributes=store_attributes(table, ids))
    return write_index(tmp_path / "index", ids, embeddings, graph, {"M": 3}, storage)


def passing(index: Index, text: str) -> list[int]:
    return MappedIndex(index).passing(text).numpy().tolist()


def test_rows_find_their_items(attributed):
    assert attributed.attributes == {"price": "float", "day": "timestamp", "tags": "strings"}
    for text, items in (
        ("price = 1.5", [4]),
        ("price = 0", [0]),
        ("price < 0", []),
        ("price IS NULL", [2, 3, 5, 6, 7, 8]),
        ("day >= '2024-05-04'", [1, 2]),
        ("tags HAS 'y'", [2, 4]),
        ("tags HAS 'unknown'", []),
        ("tags IS NULL", [3, 5, 6, 7, 8]),
    ):
        assert passing(attributed, text) == items, text
    facts = attributed.manifest["attributes"]
    assert (facts["unknown_ids"], facts["items_without"]) == (1, 4)
    lines = attribute_facts(attributed.manifest)
    assert lines[0] == "attributes price (float), day (timestamp), tags (strings)"
    assert "4 items have no row" in lines[1] and "1 rows of attributes are of items that are not" in lines[2]
    assert Index.open(attributed.folder, checksums=True).files[-1].name == "attributes.bin"


def test_an_index_without_attributes_is_as_it_was(index):
    assert index.attributes == {} and "attributes" not in index.manifest
    assert attribute_facts(index.manifest) == []
    assert not (index.folder / "attributes.bin").exists()


@pytest.mark.parametrize("name", ["items.parquet", "items.csv"])
def test_a_file_becomes_the_same_table(tmp_path, name):
    path = tmp_path / name
    table = pl.DataFrame(
        {
            "sku": [7, 8, 9],
            "price": [1.5, None, 2.0],
            "new": [True, None, False],
            "name": ["a", "b, 'c'", None],
            "since": [datetime.datetime(2024, 5, 1, 12), None, datetime.datetime(1969, 12, 31, 23, 59, 59)],
        }
    )
    table.write_parquet(path) if path.suffix == ".parquet" else table.write_csv(path)
    stored = store_attributes(read_attributes(path, "sku"), np.array([9, 8, 7]))
    kinds = {"price": "float", "new": "bool", "name": "string", "since": "timestamp"}
    assert stored.facts == {"columns": kinds, "unknown_ids": 0, "items_without": 0}
    wanted = store_attributes(table.rename({"sku": "item_id"}), np.array([9, 8, 7]))
    np.testing.assert_array_equal(stored.content, wanted.content)


def test_build_index_takes_a_table(arrays, table, tmp_path):
    parts = arrays["item_ids"], arrays["item_embeddings"]
    made = build_index(*parts, tmp_path / "index", Hnsw(threads=1), attributes=table)
    assert passing(made, "price > 1") == [1, 4]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"item_id": [1, 2, 1], "x": [1, 2, 3]}, "item id 1 appears 2 times in the attributes"),
        ({"item_id": [1, None], "x": [1, 2]}, "with 1 nulls, they must be integers"),
        ({"item_id": ["a"], "x": [1]}, "the ids of attributes are String"),
        ({"id": [1], "x": [1]}, "has no column 'item_id'; it has id, x"),
        ({"item_id": [1]}, "there are 0 columns of attributes, allowed are 1 to 1024"),
        ({"item_id": [1], "x": [b"a"]}, "column 'x' of the attributes is Binary; allowed are"),
        ({"item_id": [1], "x": [[1.5]]}, r"column 'x' of the attributes is List\(Float64\); allowed"),
        ({"item_id": [1], "x": [datetime.timedelta(1)]}, "column 'x' of the attributes is Duration"),
        ({"item_id": [1], "x": pl.Series([2**64 - 1], dtype=pl.UInt64)}, "column 'x' of the attributes does not fit"),
        ({"item_id": [1], "x" * 257: [1]}, "allowed are 1 to 256 bytes"),
    ],
)
def test_what_cannot_be_an_attribute_is_refused(columns, words):
    with pytest.raises(NannError, match=words):
        store_attributes(pl.DataFrame(columns), np.array([1, 2]))


def test_files_that_are_no_tables_are_refused(tmp_path):
    (tmp_path / "a.parquet").write_text("not Parquet")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    for name, words in (
        ("none.csv", "does not exist"),
        ("a.parquet", "cannot read"),
        ("a.csv", "has no column 'item_id' of item ids; it has a, b"),
    ):
        with pytest.raises(NannError, match=words):
            read_attributes(tmp_path / name)
    (tmp_path / "a.txt").touch()
    with pytest.raises(NannError, match=r"read from \.parquet and \.csv files"):
        read_attributes(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, 7, "does not begin as a file of 3 attributes"),
        (1, N + 1, "does not begin as a file of 3 attributes of 9 items"),
        (2, 2, "does not begin as a file of 3 attributes"),
        (3, 9, "price: the type is 9, allowed are 0 to 6"),
        (6, 10**9, "column price: a part begins at byte 1000000000"),
        (7, 64, "column price: there are 8 values, expected 9"),
        (8, -1, "column price: a part begins at byte"),
    ],
)
def test_damaged_files_are_refused(attributed, at, value, words):
    poke(attributed, "attributes.bin", "<i8", at, value)
    with pytest.raises((NannError, tf.errors.InvalidArgumentError), match=words) as raised:
        MappedIndex(Index.open(attributed.folder))
    assert "attributes.bin" in str(raised.value)
    with pytest.raises(NannError, match=r"attributes.bin does not have the checksum"):
        Index.open(attributed.folder, checksums=True)


def test_a_damaged_manifest_is_refused(attributed):
    manifest = json.loads((attributed.folder / "manifest.json").read_text())
    for changes, words in (
        ({"attributes": {"columns": {"price": "complex"}}}, "attributes must have columns, each of one of the types"),
        ({"attributes": 3}, "attributes must have columns"),
        (
            {"files": manifest["files"] | {"attributes.bin": {"shape": ["a"]}}},
            r"the shape of attributes.bin is \['a'\]",
        ),
    ):
        edit_manifest(attributed, **{"attributes": manifest["attributes"], "files": manifest["files"], **changes})
        with pytest.raises(NannError, match=words):
            Index.open(attributed.folder)


def test_the_manifest_has_the_checksum(attributed):
    entry = attributed.manifest["files"]["attributes.bin"]
    assert entry["sha256"] == sha256(attributed.folder / "attributes.bin")
