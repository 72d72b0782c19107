"""`nann index --keys`: the table of the text that stands for each item id."""

import numpy as np
import polars as pl
import pytest

from tfserving_ext.errors import NannError
from tfserving_ext.index.key_table import read_keys

IDS = np.array([3, 1])
TABLE = pl.DataFrame({"id": [1, 2, 3], "key": ["007", "b", "é"], "count": [1, 1, 1]})


@pytest.mark.parametrize("name", ["keys.parquet", "keys.csv"])
def test_a_table_is_read(tmp_path, name):
    path = tmp_path / name
    TABLE.write_parquet(path) if path.suffix == ".parquet" else TABLE.write_csv(path)
    keyed = read_keys(path, IDS)
    assert keyed.items == 2 and not keyed.of_rows
    assert dict(zip(keyed.numbers.tolist(), keyed.keys, strict=True)) == {3: "é", 1: "007", 2: "b"}
    assert keyed.numbers[:2].tolist() == IDS.tolist()


def test_what_is_no_table_of_keys_is_refused(tmp_path):
    for name, table, ids, words in (
        ("a.parquet", TABLE.drop("key"), IDS, "has no column 'key'; it has id, count"),
        ("b.parquet", TABLE.with_columns(key=pl.Series(["a", None, "c"])), IDS, "has nulls in its column 'key'"),
        ("c.parquet", TABLE.with_columns(id=pl.Series(["x", "y", "z"])), IDS, "cannot read"),
        ("d.parquet", TABLE, np.array([4]), "no key for item 4"),
        ("e.parquet", TABLE, np.array(["a"]), "the item ids are text already"),
    ):
        table.write_parquet(tmp_path / name)
        with pytest.raises(NannError, match=words):
            read_keys(tmp_path / name, ids)
    with pytest.raises(NannError, match=r"keys are read from \.parquet and \.csv files"):
        (tmp_path / "a.txt").touch()
        read_keys(tmp_path / "a.txt", IDS)
    with pytest.raises(NannError, match="does not exist"):
        read_keys(tmp_path / "none.csv", IDS)
