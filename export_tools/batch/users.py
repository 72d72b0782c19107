"""The table of users: a row for each with the inputs of a signature, in one file or many, read in parts."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local
from tfserving_ext.serving.models import Signature
from tfserving_ext.serving.requests import is_parquet, read_requests

ROW, ITEM_IDS, SCORES = "row", "item_ids", "scores"  # Columns of the answers.


@dataclasses.dataclass(frozen=True)
class Part:
    """Some rows of one file, which are answered together.

    Attributes:
      number: its place among all parts, from 0.
      path: the file.
      start: the first of its rows in the file, from 0.
      rows: how many rows it has.
      before: how many rows the files before this one have.
    """

    number: int
    path: Path
    start: int
    rows: int
    before: int

    def read(self) -> pl.DataFrame:
        """Returns the rows.

        Raises:
          NannError: the file cannot be read.
        """
        return _read(self.path, _table(self.path).slice(self.start, self.rows))

    def row(self, place: int) -> str:
        """Returns the name of the part's row at `place`, for messages."""
        return f"{self.path}, row {self.start + place} (from 0)"


class Users:
    """All users.

    Attributes:
      files: the files of the table, in order.
      schema: the columns and their types, the same in all files.
      count: the number of users.
    """

    def __init__(self, given: str | os.PathLike[str]) -> None:
        """Opens a table.

        Args:
          given: a file (Parquet, JSON or JSON lines) or a folder of Parquet files.

        Raises:
          NannError: a file is missing or damaged, the files have different columns, or there is no user.
        """
        check_local(given)
        path = Path(given)
        # Hidden files and marks such as _SUCCESS are skipped, as other readers of such folders do.
        self.files = (
            [path] if not path.is_dir() else sorted(one for one in path.glob("*.parquet") if one.name[0] not in "._")
        )
        if not self.files:
            raise NannError(f"{path} holds no table of users; a folder must hold files whose names end in .parquet")
        schemas = [_read(one, _table(one).head(0)).schema for one in self.files]
        self.schema = schemas[0]
        for file, schema in zip(self.files, schemas, strict=True):
            if schema != self.schema:
                raise NannError(
                    f"{file} has the columns {_told(schema)}, but {self.files[0]} has {_told(self.schema)}; all files "
                    "of a table must have the same"
                )
        self._rows = [int(_read(one, _table(one).select(pl.len())).item()) for one in self.files]
        self.count = sum(self._rows)
        if not self.count:
            raise NannError(f"{path} has no row; at least one user is expected")

    def parts(self, most: int) -> list[Part]:
        """Returns the parts, each with at most `most` rows of one file."""
        cuts = [
            (file, start, min(most, rows - start), before)
            for file, rows, before in zip(self.files, self._rows, np.cumsum([0, *self._rows]).tolist(), strict=False)
            for start in range(0, rows, most)
        ]
        return [Part(number, *cut) for number, cut in enumerate(cuts)]

    def identity(self) -> list[list[Any]]:
        """Returns what must be equal for two tables to be the same: name, size and time of change of every file."""
        stats = [(file.name, file.stat()) for file in self.files]
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def check(self, signature: Signature, name: str, keep: Sequence[str], given: Sequence[str] = ()) -> None:
        """Checks the columns before any user is answered.

        Args:
          signature: what will answer the users.
          name: its name.
          keep: columns to carry to the answers.
          given: inputs that all users have the same value of, which therefore must not be columns.

        Raises:
          NannError: a feature has no column, a column is no input and not kept or does not have the input's type, or a
            kept column is missing or has the name of a column of the answers.
        """
        where, inputs = self.files[0], signature.proto.inputs
        for column in keep:
            if column not in self.schema:
                raise NannError(f"{where} has no column {column!r} to keep; it has {', '.join(self.schema)}")
            if column in (ITEM_IDS, SCORES):
                raise NannError(f"the column {column!r} cannot be kept: the answers have a column of this name")
        for feature in inputs:
            if feature not in self.schema and feature not in signature.defaults:
                raise NannError(
                    f"{where} has no column {feature!r}, which signature {name!r} needs; it has "
                    f"{', '.join(self.schema)}"
                )
        for column, kind in self.schema.items():
            if column in given:
                raise NannError(f"{where} has the column {column!r}, which is given for all users too; give it once")
            if column in inputs:
                _check_type(where, column, kind, inputs[column])
            elif column not in keep:
                raise NannError(
                    f"{where} has the column {column!r}, which is no input of signature {name!r}; keep it in the "
                    f"answers (--keep {column}), or leave it out. The inputs are {', '.join(sorted(inputs))}"
                )


def _check_type(where: Path, column: str, kind: pl.DataType, info: Any) -> None:
    """Raises NannError if a column's values are not of the input's type or have too many dimensions."""
    value: Any = kind
    dtype, depth = tf.dtypes.as_dtype(info.dtype), 0
    while isinstance(value, (pl.List, pl.Array)):
        value, depth = value.inner, depth + 1
    if dtype == tf.string:
        fits = value in (pl.String, pl.Binary)
    elif dtype == tf.bool:
        fits = value == pl.Boolean
    else:
        fits = value.is_integer() or (dtype.is_floating and value.is_float())
    # The shape of a parameter is left open: it is one value, or one list.
    most = 1 if info.tensor_shape.unknown_rank else len(info.tensor_shape.dim)
    if not (fits or value == pl.Null) or depth > most:
        raise NannError(
            f"{where}: the column {column!r} is {kind}; the input takes {dtype.name} of at most {most} dimensions"
        )


def _told(schema: pl.Schema) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in schema.items())


def _table(path: Path) -> pl.LazyFrame:
    """Returns a file's rows, of which Parquet is read only as far as they are asked for."""
    try:
        if not is_parquet(path):
            return _json_table(path, path.stat().st_mtime_ns).lazy()
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror or error}") from error
    return pl.scan_parquet(path)


@functools.lru_cache(maxsize=1)
def _json_table(path: Path, changed: int) -> pl.DataFrame:
    """Reads JSON, once for all parts of a file that was last changed at `changed`."""
    del changed
    try:
        return pl.DataFrame(read_requests(path), infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise NannError(f"{path}: an input has values of several types: {str(error).splitlines()[0]}") from error


def _read(path: Path, wanted: pl.LazyFrame) -> pl.DataFrame:
    try:
        return wanted.collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NannError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
