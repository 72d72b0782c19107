"""Python functions for the ops of an index. The ops' own docs are in `custom_ops/ops/index_ops.cc`."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfserving_ext.ops._library import load


def index_handle(shared_name: str = "") -> tf.Tensor:
    """Returns a handle, resource [], to an index that `index_open` fills."""
    return load().nann_index_handle(shared_name=shared_name)


def index_open(
    index: tf.Tensor,
    files: Sequence[Any],
    dim: int,
    validate: bool = True,
    dtype: str = "float32",
    **parts: bool,
) -> tf.Operation:
    """Maps the files of an index into the resource `index`, without copying them.

    Args:
      index: resource [], from `index_handle`.
      files: paths: item_ids, item_embeddings, entry_points, then row_splits and neighbors of every
        layer, ground layer first (docs/format.md); for int8 also item_scales; with `features` also item_features and
        edge_distances; with `attributes` also attributes; with `keys` also item_keys.
      dim: width of an item embedding.
      validate: read all edges once and check that they are within their bounds.
      dtype: type of item_embeddings: "float32", "float16" or "int8".
      **parts: what not every index has, False where it is left out: whether there are `features`, the two files of the
        surrogate search; `attributes`, the file of the items' attributes; and `keys`, that of the texts that stand for
        their ids.

    Raises:
      tf.errors.InvalidArgumentError: a file has the wrong size, or an entry is out of bounds.
      tf.errors.NotFoundError: a file is missing.
    """
    return load().nann_index_open(
        index=index,
        files=tf.stack(list(files)),
        dim=dim,
        validate=validate,
        dtype=tf.dtypes.as_dtype(dtype),
        **parts,
    )


def index_items(index: tf.Tensor) -> tf.Tensor:
    """Returns the index's item ids, int64 [n], as a view of the mapped file."""
    return load().nann_index_items(index=index)


def index_filter(index: tf.Tensor, filter: Any) -> tf.Tensor:
    """Returns the items that pass a filter, int32 [m], dense indices in ascending order.

    Args:
      index: resource [], an open index.
      filter: string [], see docs/filters.md; all items pass an empty one.

    Raises:
      tf.errors.InvalidArgumentError: `filter` is not a filter of the index's attributes.
    """
    return load().nann_index_filter(index=index, filter=filter)


def index_rows(index: tf.Tensor, item_ids: Any, dim: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the rows of items by the data's own ids, as a search that begins now reads them.

    Args:
      index: resource [], an open index.
      item_ids: int64 [m].
      dim: width of a row.

    Returns:
      Rows, float32 [m, dim], which are zeros for unknown ids, and whether each id is known, bool [m].

    Raises:
      tf.errors.InvalidArgumentError: the index has another width.
    """
    return load().nann_index_rows(index=index, item_ids=item_ids, dim=dim)


def index_column(index: tf.Tensor, column: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a column of the attributes as integers, int64 [n], that are equal where the values are.

    Args:
      index: resource [], an open index.
      column: string [], a column of integers, strings or booleans.

    Returns:
      The integers, and whether each item has a value, bool [n].

    Raises:
      tf.errors.InvalidArgumentError: the index has no such column.
    """
    return load().nann_index_column(index=index, column=column)


def index_keys(index: tf.Tensor, item_ids: Any) -> tf.Tensor:
    """Returns the texts that stand for ids, string of the shape of `item_ids`; empty where no text stands for the id.

    Args:
      index: resource [], an open index.
      item_ids: int64 of any shape.

    Raises:
      tf.errors.InvalidArgumentError: the index has no keys.
    """
    return load().nann_index_keys(index=index, item_ids=item_ids)


def index_numbers(index: tf.Tensor, keys: Any) -> tf.Tensor:
    """Returns the ids that texts stand for, int64 of the shape of `keys`; -1 where the index does not know the text.

    Args:
      index: resource [], an open index.
      keys: string of any shape.

    Raises:
      tf.errors.InvalidArgumentError: the index has no keys.
    """
    return load().nann_index_numbers(index=index, keys=keys)


def index_gather(index: tf.Tensor, items: Any, dim: int) -> tf.Tensor:
    """Returns the embeddings of items, float32 [m, dim], whatever the type of the table.

    Args:
      index: resource [], an open index.
      items: int32 [m], dense indices.
      dim: width of an item embedding.

    Raises:
      tf.errors.InvalidArgumentError: an item is out of bounds, or the index has another width.
    """
    return load().nann_index_gather(index=index, items=items, dim=dim)
