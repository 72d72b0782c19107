"""The columns of an index's file of attributes as a table, and tables in the types of an index."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from tfserving_ext.errors import NannError
from tfserving_ext.index.attribute_file import parts_of
from tfserving_ext.index.attributes import ITEM_ID

# The type of a table's column by that of the attribute.
_DTYPES: Mapping[str, pl.DataType] = {
    "bool": pl.Boolean(),
    "int": pl.Int64(),
    "float": pl.Float64(),
    "string": pl.String(),
    "timestamp": pl.Datetime("us"),
    "ints": pl.List(pl.Int64),
    "strings": pl.List(pl.String),
}


def read_table(content: np.ndarray, types: Mapping[str, str], rows: np.ndarray) -> pl.DataFrame:
    """Returns attributes of items as a table, in the order of `rows`.

    Args:
      content: the content of a file of attributes, uint8 [bytes].
      types: the type of each column by its name.
      rows: int [m], places of items in the file.
    """
    columns = {}
    for name, parts in parts_of(content, types).items():
        kind = types[name]
        if kind in ("ints", "strings"):
            splits = parts["row_splits"]
            sizes = (splits[rows + 1] - splits[rows]).astype(np.int64)
            offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            values = _values(kind, parts, np.repeat(splits[rows], sizes) + offsets)
            owners = pl.Series(np.repeat(np.arange(len(rows)), sizes), dtype=pl.Int64)
            grouped = pl.DataFrame({"row": owners, name: values}).group_by("row", maintain_order=True).agg(name)
            series = pl.DataFrame({"row": np.arange(len(rows))}).join(grouped, on="row", how="left")[name]
            series = series.fill_null(pl.lit([], dtype=_DTYPES[kind])).cast(_DTYPES[kind])
        else:
            series = _values(kind, parts, rows)
        if len(parts["present"]):
            present = pl.Series(_bits(parts["present"], rows))
            series = pl.DataFrame({name: series}).select(pl.when(present).then(pl.col(name)).alias(name))[name]
        columns[name] = series.alias(name)
    return pl.DataFrame(columns)


def _values(kind: str, parts: Mapping[str, np.ndarray], places: np.ndarray) -> pl.Series:
    """Returns values of a column, without regard to nulls."""
    values = parts["values"]
    if kind == "bool":
        return pl.Series(_bits(values, places), dtype=pl.Boolean)
    taken = values[places]
    if kind in ("string", "strings"):
        ends = parts["text_ends"].tolist()
        text = parts["text"].tobytes()
        texts = pl.Series(
            [text[begin:end].decode() for begin, end in zip([0, *ends], ends, strict=False)], dtype=pl.String
        )
        return texts.gather(taken) if len(texts) else pl.Series([None] * len(taken), dtype=pl.String)
    if kind == "timestamp":
        return pl.Series(taken * 1_000_000).cast(pl.Datetime("us"))
    return pl.Series(taken)


def _bits(words: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns bits as bool."""
    return (words[places // 64] >> (places % 64).astype(np.uint64) & np.uint64(1)).astype(bool)


def in_types(table: pl.DataFrame, types: Mapping[str, str]) -> pl.DataFrame:
    """Returns the columns of a table in the types that an index has, `item_id` as it is.

    Raises:
      NannError: a column is not an attribute of the index, or does not fit its type.
    """
    columns = [table[ITEM_ID]]
    for series in table.drop(ITEM_ID):
        if series.name not in types:
            raise NannError(f"{series.name!r} is not an attribute of the index, which has {', '.join(types) or 'none'}")
        kind = types[series.name]
        try:
            if kind == "bool" and series.dtype not in (pl.Boolean, pl.Null):
                raise pl.exceptions.InvalidOperationError(f"it holds {series.dtype}")
            columns.append(series.cast(_DTYPES[kind]))
        except pl.exceptions.PolarsError as error:
            raise NannError(f"column {series.name!r} does not fit the index's attribute, {kind}: {error}") from error
    return pl.DataFrame(columns)
