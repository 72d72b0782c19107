"""Attributes of items, by which searches filter: a table becomes the columns of one mapped file (docs/format.md)."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.extras import require
from tfserving_ext.index.attribute_file import MAX_COLUMNS, MAX_NAME_BYTES, Parts, StoredAttributes, file_of
from tfserving_ext.index.item_keys import KeyedIds
from tfserving_ext.local_paths import check_local

require("train")
import polars as pl  # noqa: E402

ITEM_ID = "item_id"


def read_attributes(path: str | os.PathLike[str], id_column: str = ITEM_ID) -> pl.DataFrame:
    """Reads a table of attributes.

    Args:
      path: a .parquet file, or a .csv file with a header.
      id_column: the column with the items' ids; it is called `item_id` in the table that is returned.

    Returns:
      A table with a row per item, for `build_index`.

    Raises:
      NannError: the file is missing, is of another kind, cannot be read, or does not have the column.
    """
    table = read_table(path, "attributes")
    if id_column not in table.columns:
        raise NannError(f"{path} has no column {id_column!r} of item ids; it has {', '.join(table.columns)}")
    if id_column != ITEM_ID and ITEM_ID in table.columns:
        raise NannError(f"{path} has a column {ITEM_ID!r} besides the ids in {id_column!r}; rename it or drop it")
    return table.rename({id_column: ITEM_ID})


def read_table(path: str | os.PathLike[str], what: str) -> pl.DataFrame:
    """Reads a table from a .parquet file, or a .csv file with a header.

    Args:
      path: the file.
      what: what the table holds, for messages.

    Raises:
      NannError: the file is missing, is of another kind, or cannot be read.
    """
    check_local(path)
    path = Path(path)
    if not path.exists():
        raise NannError(f"{path} does not exist")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if path.suffix == ".csv":
            return pl.read_csv(path, try_parse_dates=True, infer_schema_length=None)
        raise NannError(f"{what} are read from .parquet and .csv files; got {path}")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NannError(f"cannot read {path}: {error}") from error


def store_attributes(table: pl.DataFrame, item_ids: np.ndarray, keyed: KeyedIds | None = None) -> StoredAttributes:
    """Makes the columns of a table into the content of an index's file, in the order of the index's items.

    Args:
      table: a row per item, with the column `item_id`; see docs/filters.md for the types of the others.
      item_ids: int64 [n], the index's ids. An item without a row has nulls.
      keyed: the texts that stand for these ids; the table has either.

    Raises:
      NannError: ids are not those of the index's kind, are null or repeat; there are no other columns or too many; or a
        column is of a type that cannot be filtered by.
    """
    ids = item_ids_of(table, keyed)
    unknown = int(np.isin(ids, item_ids, invert=True).sum())
    rows = pl.DataFrame({ITEM_ID: item_ids}).join(
        table.with_columns(pl.Series(ITEM_ID, ids)), on=ITEM_ID, how="left", maintain_order="left"
    )
    columns, types = {}, {}
    for series in rows.drop(ITEM_ID):
        types[series.name], columns[series.name] = _column(series)
    if not 1 <= len(columns) <= MAX_COLUMNS:
        raise NannError(f"there are {len(columns)} columns of attributes, allowed are 1 to {MAX_COLUMNS}")
    facts = {"columns": types, "unknown_ids": unknown, "items_without": len(item_ids) - len(ids) + unknown}
    return StoredAttributes(file_of(len(item_ids), columns, types), facts)


def item_ids_of(table: pl.DataFrame, keyed: KeyedIds | None = None) -> np.ndarray:
    """Returns the column `item_id` of a table as an index numbers items, int64 [m]; unknown texts get numbers below -1.

    Args:
      table: the table.
      keyed: the texts that stand for the ids of the index, if any do.

    Raises:
      NannError: there is none, or ids are not those of the index's kind, are null or repeat.
    """
    allowed = "strings" if keyed is not None and keyed.of_rows else "integers" if keyed is None else "either"
    ids = ids_column(table, allowed)
    if keyed is None or not _is_text(ids.dtype):
        return _cast(ids, pl.Int64).to_numpy()
    keys = [key.decode() if isinstance(key, bytes) else key for key in np.asarray(keyed.keys, object).tolist()]
    known = pl.DataFrame({ITEM_ID: keys, "number": np.asarray(keyed.numbers)})
    numbers = table.select(pl.col(ITEM_ID).cast(pl.String)).join(known, on=ITEM_ID, how="left", maintain_order="left")
    unknown = np.iinfo(np.int64).min + np.arange(len(ids))
    return np.where(numbers["number"].is_null(), unknown, numbers["number"].fill_null(0).to_numpy())


def ids_column(table: pl.DataFrame, kind: str) -> pl.Series:
    """Returns the column `item_id` of a table.

    Args:
      table: the table.
      kind: which ids are allowed: "strings", "integers" or "either".

    Raises:
      NannError: there is none, or ids are of another kind, are null or repeat.
    """
    if ITEM_ID not in table.columns:
        raise NannError(f"the table of attributes has no column {ITEM_ID!r}; it has {', '.join(table.columns)}")
    ids = table[ITEM_ID]
    fits = (kind != "integers" and _is_text(ids.dtype)) or (kind != "strings" and ids.dtype.is_integer())
    if not fits or ids.null_count():
        words = {"either": "strings or the integers that they stand for"}.get(kind, kind)
        raise NannError(
            f"the ids of attributes are {ids.dtype} with {ids.null_count()} nulls, they must be {words} without nulls, "
            "as the index's ids are"
        )
    if ids.is_duplicated().any():
        again = ids.filter(ids.is_duplicated())[0]
        raise NannError(
            f"item id {again} appears {(ids == again).sum()} times in the attributes; ids must be all different"
        )
    return ids


def _column(series: pl.Series) -> tuple[str, Parts]:
    """Returns the type of a column and its parts."""
    if not 1 <= len(series.name.encode()) <= MAX_NAME_BYTES:
        raise NannError(f"a column of attributes is called {series.name!r}; allowed are 1 to {MAX_NAME_BYTES} bytes")
    dtype = series.dtype
    if isinstance(dtype, (pl.List, pl.Array)):
        return _lists(series.cast(pl.List(dtype.inner)).list.drop_nulls())
    if dtype.is_float() or dtype.is_decimal():
        series = _cast(series, pl.Float64).fill_nan(None)
    elif dtype == pl.Date:
        series = series.cast(pl.Datetime("us"))
    present = series.is_not_null().to_numpy()
    parts = {} if present.all() else {"present": _bits(present)}
    if dtype == pl.Boolean:
        return "bool", {**parts, "values": _bits(series.fill_null(False).to_numpy())}
    if dtype.is_integer():
        return "int", {**parts, "values": _cast(series, pl.Int64).fill_null(0).to_numpy()}
    if dtype.is_float() or dtype.is_decimal():
        return "float", {**parts, "values": series.fill_null(0.0).to_numpy() + 0.0}  # Turns -0 into 0.
    if dtype.is_temporal() and series.dtype.base_type() == pl.Datetime:
        return "timestamp", {**parts, "values": series.dt.timestamp("us").fill_null(0).to_numpy() // 1_000_000}
    if _is_text(dtype):
        return "string", {**parts, **_codes(series)}
    raise _unknown_type(series)


def _lists(series: pl.Series) -> tuple[str, Parts]:
    """Returns the type of a column of lists and its parts; a list has no nulls, but may be null or empty itself."""
    present = series.is_not_null().to_numpy()
    sizes = series.list.len().fill_null(0).to_numpy().astype(np.int64)
    parts = {} if present.all() else {"present": _bits(present)}
    parts["row_splits"] = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    values = series.filter(pl.Series(sizes > 0)).explode()
    if values.dtype.is_integer():
        return "ints", {**parts, "values": _cast(values, pl.Int64).to_numpy()}
    if _is_text(values.dtype):
        return "strings", {**parts, **_codes(values)}
    raise _unknown_type(series)


def _is_text(dtype: pl.DataType) -> bool:
    # A column without any value has the type Null.
    return dtype in (pl.String, pl.Categorical, pl.Enum, pl.Null)


def _codes(series: pl.Series) -> Parts:
    """Returns strings as places in a dictionary, which ascends by bytes."""
    series = series.cast(pl.String)
    texts = series.drop_nulls().unique().sort()
    codes = np.zeros(len(series), np.int32)
    if len(texts):
        codes = series.cast(pl.Enum(texts)).to_physical().fill_null(0).to_numpy().astype(np.int32)
    text = np.frombuffer("".join(texts).encode(), np.uint8)
    ends = texts.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy()
    return {"values": codes, "text_ends": ends, "text": text}


def _cast(series: pl.Series, dtype: Any) -> pl.Series:
    try:
        return series.cast(dtype)
    except pl.exceptions.PolarsError as error:
        raise NannError(f"column {series.name!r} of the attributes does not fit {dtype}: {error}") from error


def _unknown_type(series: pl.Series) -> NannError:
    return NannError(
        f"column {series.name!r} of the attributes is {series.dtype}; allowed are booleans, integers, floats, strings, "
        "dates and times, and lists of integers or strings: convert the column, or drop it"
    )


def _bits(flags: np.ndarray) -> np.ndarray:
    """Returns a bit per flag, in words of 64 bits: uint64 [ceil(n / 64)]."""
    packed = np.packbits(flags, bitorder="little")
    return np.pad(packed, [0, -len(packed) % 8]).view("<u8")
