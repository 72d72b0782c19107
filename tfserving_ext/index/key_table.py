"""Reads the table of the texts that stand for item ids, as `nann convert` writes it where ids were text."""

import os
from pathlib import Path

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.extras import require
from tfserving_ext.index.item_keys import KeyedIds, is_text
from tfserving_ext.local_paths import check_local

require("train")
import polars as pl  # noqa: E402

COLUMNS = {"id": pl.Int64, "key": pl.String}


def read_keys(path: str | os.PathLike[str], item_ids: np.ndarray) -> KeyedIds:
    """Gives the ids of an index the texts that stand for them in requests and answers.

    Example:
      >>> from tfserving_ext.index.key_table import read_keys
      >>> ids = read_keys("data/item_keys.parquet", np.load("embeddings/item_ids.npy"))  # doctest: +SKIP

    Args:
      path: a .parquet or .csv table with the columns `id`, integers, and `key`, text, such as item_keys.parquet of
        `nann convert`. Ids that are no items of the index stand for items that the model knows from histories.
      item_ids: int64 [n], the items of the index.

    Returns:
      The ids for `build_index`.

    Raises:
      NannError: the file is missing, of another kind, or cannot be read; a column is missing, of another type or has
        nulls; an item has no key; or an id appears twice.
    """
    check_local(path)
    path = Path(path)
    if is_text(item_ids):
        raise NannError(f"the item ids are text already, for which {path} can give no other; leave out one of the two")
    if not path.exists():
        raise NannError(f"{path} does not exist")
    if path.suffix not in (".parquet", ".csv"):
        raise NannError(f"keys are read from .parquet and .csv files; got {path}")
    try:
        read = pl.read_parquet if path.suffix == ".parquet" else lambda of: pl.read_csv(of, infer_schema=False)
        table = read(path)
        if missing := [name for name in COLUMNS if name not in table.columns]:
            raise NannError(f"{path} has no column {missing[0]!r}; it has {', '.join(table.columns)}")
        table = table.select(pl.col(name).cast(dtype) for name, dtype in COLUMNS.items())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NannError(f"cannot read {path}: {error}") from error
    if nulls := [name for name in COLUMNS if table[name].null_count()]:
        raise NannError(f"{path} has nulls in its column {nulls[0]!r}")
    return KeyedIds.of_table(item_ids, table["id"].to_numpy(), table["key"].to_numpy())
