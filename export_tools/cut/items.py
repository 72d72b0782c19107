"""The table of items: ids, and the columns that a ranker takes as its item inputs."""

import dataclasses
import difflib
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.index.build import HNSW, Hnsw
from tfserving_ext.index.checks import check_ids
from tfserving_ext.index.item_keys import KeyedIds, store_keys

if TYPE_CHECKING:
    import polars as pl

ID_COLUMNS = ("item_id", "item")


@dataclasses.dataclass(frozen=True)
class Items:
    """A table of items with their raw features, from which `nann.export` builds the index of a ranker.

    Example:
      >>> items = nann.Items("items.parquet", columns={"target_category": "category"})

    Attributes:
      table: a .parquet or .csv file, or a Polars data frame, with a row per item.
      id_column: the column with the items' ids, integers or text; by default "item_id", or else "item".
      columns: the column that each item input of the ranker takes, by the input's name; an input of the same name as a
        column need not be listed.
      user_inputs: inputs that are the user's although a column has their name.
      embedding: the layer whose output the graph is built on; by default what the scorer takes of an item.
      filter_by: the columns by which requests can filter (docs/filters.md).
      hnsw: how to build the graph.
    """

    table: "str | os.PathLike[str] | pl.DataFrame"
    id_column: str = ""
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    user_inputs: Collection[str] = ()
    embedding: str = ""
    filter_by: Collection[str] = ()
    hnsw: Hnsw = HNSW


class Catalogue:
    """The rows of a table of items, as a ranker takes them.

    Attributes:
      ids: the items' ids, int64 [n], or str in an array of objects [n].
      columns: the column of each item input.
      doubts: a sentence for each input that is taken for the user's, though a column has nearly its name.
      attributes: the columns by which requests can filter, with the ids as `item_id`; None if there are none.
      name: what messages call the table.
    """

    def __init__(self, items: Items, inputs: Mapping[str, tf.TensorSpec]) -> None:
        """Reads the table.

        Args:
          items: the table and what is said about it.
          inputs: all inputs of the ranker.

        Raises:
          NannError: the table cannot be read or has no rows, its ids are no ids, or a column does not fit its input.
        """
        table, self.name = _read(items.table)
        self.ids = item_ids(table, items.id_column, self.name)
        self.attributes = _attributes(table, items.filter_by, self.ids, self.name)
        self.columns = _columns(items, inputs, table.columns, self.name)
        self.doubts = [
            f"the input {each!r} is taken for the user's, but {self.name} has a column {column!r}: if it is the "
            f"item's, say --item-column {each}={column}, if not, --user-input {each}"
            for each, column in _near(items, inputs, self.columns, table.columns).items()
        ]
        self._values = {
            name: _values(
                table[column], inputs[name], f"column {column!r} of {self.name}, the input {name!r}", self.ids
            )
            for name, column in self.columns.items()
        }

    def rows(self, begin: int, end: int) -> dict[str, np.ndarray]:
        """Returns the item inputs of some rows by name."""
        return {name: values[begin:end] for name, values in self._values.items()}

    def example(self, count: int) -> dict[str, np.ndarray]:
        """Returns the item inputs of the first items, which are repeated where there are fewer than `count`."""
        some = np.arange(count) % len(self.ids)
        return {name: values[some] for name, values in self._values.items()}


def item_ids(table: "pl.DataFrame", column: str, name: str) -> np.ndarray:
    """Returns the ids of a table of items: int64 [n], or str in an array of objects [n].

    Args:
      table: the table.
      column: the column with the ids; "" for the first of `ID_COLUMNS` that there is.
      name: what messages call the table.

    Raises:
      NannError: there is no such column, or its values are not integers, or texts, that are all different.
    """
    if column and column not in table.columns:
        raise NannError(f"{name} has no column {column!r} of item ids (--id); it has {', '.join(table.columns)}")
    found = [each for each in (column, *ID_COLUMNS) if each in table.columns]
    if not found:
        raise NannError(
            f"{name} has no column of item ids called {' or '.join(ID_COLUMNS)}; name one (--id) of "
            f"{', '.join(table.columns)}"
        )
    ids = table[found[0]]
    text = str(ids.dtype) in ("String", "Categorical", "Enum")
    if not (text or ids.dtype.is_integer()) or ids.null_count():
        raise NannError(
            f"the item ids in column {found[0]!r} of {name} are {ids.dtype} with {ids.null_count()} nulls; allowed are "
            "integers or text without nulls: name another column (--id)"
        )
    if not table.height:
        raise NannError(f"{name} has no rows")
    if text:
        keys = ids.cast(str).to_numpy().astype(object)
        store_keys(KeyedIds(np.arange(len(keys)), keys, len(keys)))  # Checks them before the model is run.
        return keys
    held = ids.to_numpy()
    if held.max() > np.iinfo(np.int64).max:
        raise NannError(f"an item id in column {found[0]!r} of {name} is {held.max()}, allowed are those of int64")
    held = held.astype(np.int64)
    check_ids(Path(f"column {found[0]!r} of {name}"), held)
    return held


def _read(table: Any) -> tuple["pl.DataFrame", str]:
    from tfserving_ext.index.attributes import read_table

    if isinstance(table, (str, os.PathLike)):
        return read_table(table, "items"), str(table)
    return table, "the table of items"


def _attributes(table: "pl.DataFrame", columns: Collection[str], ids: np.ndarray, name: str) -> "pl.DataFrame | None":
    """Returns the columns by which requests can filter, as `build_index` takes them."""
    import polars as pl

    for column in columns:
        if column not in table.columns or column == ID_COLUMNS[0]:
            allowed = ", ".join(each for each in table.columns if each != ID_COLUMNS[0])
            raise NannError(f"--filter-by names the column {column!r}; {name} has the columns {allowed} to filter by")
    return table.select(pl.Series(ID_COLUMNS[0], ids), *columns) if columns else None


def _columns(items: Items, inputs: Mapping[str, tf.TensorSpec], held: Collection[str], name: str) -> dict[str, str]:
    """Returns the column of each item input."""
    for what, names in (("--item-column", items.columns), ("--user-input", items.user_inputs)):
        for each in names:
            if each not in inputs:
                raise NannError(f"{what} names the input {each!r}; the model has {', '.join(inputs)}")
    for each, column in items.columns.items():
        if column not in held:
            raise NannError(
                f"{name} has no column {column!r} (--item-column {each}={column}); it has {', '.join(held)}"
            )
    found = {each: each for each in inputs if each in held and each not in items.user_inputs} | dict(items.columns)
    both = sorted(set(items.columns) & set(items.user_inputs))
    if both:
        raise NannError(f"the input {both[0]!r} is named by --item-column and by --user-input; give only one")
    listed = f"the inputs are {', '.join(inputs)}; {name} has the columns {', '.join(held)}"
    if not found:
        raise NannError(
            f"no input of the model is a column of {name}: name some (--item-column INPUT=COLUMN); {listed}"
        )
    if len(found) == len(inputs):
        raise NannError(
            f"every input of the model is a column of {name}, so that none is the user's: name some "
            f"(--user-input INPUT); {listed}"
        )
    return found


def _near(items: Items, inputs: Collection[str], taken: Mapping[str, str], held: Collection[str]) -> dict[str, str]:
    """Returns, for inputs of the user, a column that no input takes and whose name is nearly the input's."""
    left = {_plain(column): column for column in held if column not in (*taken.values(), *taken, *items.filter_by)}
    found = {}
    for name in inputs:
        if name not in taken and name not in items.user_inputs:
            near = difflib.get_close_matches(_plain(name), left, n=1, cutoff=0.8)
            if near:
                found[name] = left[near[0]]
    return found


def _plain(name: str) -> str:
    """Returns a name without case and separators, which differ between a model and a table that are not one team's."""
    return "".join(each for each in name.lower() if each.isalnum())


def _values(series: "pl.Series", spec: tf.TensorSpec, what: str, ids: np.ndarray) -> np.ndarray:
    """Returns a column as an input takes it, [n, ...]."""
    import polars as pl

    if series.null_count():
        place = int(series.is_null().arg_true()[0])
        raise NannError(f"{what}, has {series.null_count()} nulls, the first for item {ids[place]}; fill them first")
    lists = isinstance(series.dtype, (pl.List, pl.Array))
    inner = series.dtype.inner if lists else series.dtype  # type: ignore[attr-defined]
    text = inner in (pl.String, pl.Categorical, pl.Enum)
    wanted = spec.dtype
    fits = (
        text
        if wanted == tf.string
        else inner == pl.Boolean
        if wanted == tf.bool
        else inner.is_integer() or inner == pl.Boolean or (wanted.is_floating and inner.is_float())
    )
    if not fits:
        raise NannError(f"{what}, is {series.dtype}, the input takes {wanted.name} {spec.shape}")
    values = _rectangle(series, what) if lists else (series.cast(pl.String) if text else series).to_numpy()
    if wanted.is_integer and len(values):
        low, high = values.min(), values.max()
        if low < wanted.min or high > wanted.max:
            raise NannError(f"{what}, holds {low if low < wanted.min else high}, which {wanted.name} cannot hold")
    values = values.astype(object if text else wanted.as_numpy_dtype)
    extents = [1 if each is None else each for each in spec.shape[1:]]
    if values.ndim == 1 and extents == [1]:
        values = values[:, None]
    if not spec.shape[1:].is_compatible_with(values.shape[1:]):
        raise NannError(f"{what}, has rows of shape {list(values.shape[1:])}, the input takes {spec.shape}")
    return values


def _rectangle(series: "pl.Series", what: str) -> np.ndarray:
    """Returns a column of lists, which must all have the same length, as an array [n, length]."""
    import polars as pl

    lengths = series.cast(pl.List(series.dtype.inner)).list.len()  # type: ignore[attr-defined]
    if lengths.n_unique() > 1:
        raise NannError(f"{what}, has lists of {lengths.min()} to {lengths.max()} values; pad them to one length")
    flat = series.explode()
    if flat.null_count():
        raise NannError(f"{what}, has nulls in its lists; fill them first")
    return flat.to_numpy().reshape(len(series), int(lengths[0]))
