"""Checks the arrays of an index; errors name the file and the position of the bad entry."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.graph import Layer

CHECKED_AT_ONCE = 1 << 20
NO_ITEM = -1  # The id that means "no item": the padding of histories and of answers.


def check_items(
    item_ids: np.ndarray, item_embeddings: np.ndarray, paths: Sequence[Path] = (Path("item_ids"), Path("item_embs"))
) -> tuple[np.ndarray, np.ndarray]:
    """Checks an item table and returns it as int64 [n] and float32 [n, dim].

    Args:
      item_ids: the data's own ids: any integers except `NO_ITEM`, all different.
      item_embeddings: any floats.
      paths: the names of the two in messages: the files that they were read from.

    Raises:
      NannError: types or shapes are wrong, lengths differ, an id is -1 or appears twice, or a value is not finite.
    """
    ids, table = paths
    if item_ids.ndim != 1 or not np.issubdtype(item_ids.dtype, np.integer):
        raise NannError(f"item ids are {item_ids.dtype} {list(item_ids.shape)}, they must be integers [n] ({ids})")
    if (
        item_embeddings.ndim != 2
        or not item_embeddings.shape[1]
        or not np.issubdtype(item_embeddings.dtype, np.floating)
    ):
        raise NannError(
            f"item embeddings are {item_embeddings.dtype} {list(item_embeddings.shape)}, they must be floats [n, dim] "
            f"({table})"
        )
    if len(item_ids) != len(item_embeddings):
        raise NannError(
            f"there are {len(item_ids)} item ids but {len(item_embeddings)} item embeddings ({ids}, {table})"
        )
    if len(item_ids) == 0:
        raise NannError(f"there are no items ({ids} is empty)")
    item_ids = _integers(ids, item_ids, "int64")
    check_ids(ids, item_ids)
    with np.errstate(over="ignore"):  # A value too large for float32 becomes infinite and is refused below.
        item_embeddings = item_embeddings.astype(np.float32, copy=False)
    for start in range(0, len(item_embeddings), 1 << 18):
        rows = np.flatnonzero(~np.isfinite(item_embeddings[start : start + (1 << 18)]).all(axis=1))
        if len(rows):
            row = start + int(rows[0])
            raise NannError(
                f"the embedding of item {item_ids[row]} (row {row}) holds NaN or infinity; allowed are finite numbers: "
                f"train again, or drop that row from {ids} and {table}"
            )
    return item_ids, item_embeddings


def check_ids(path: Path, ids: np.ndarray) -> None:
    """Checks that ids, int64 [n], are all different and none is `NO_ITEM`; messages call them `path`.

    Raises:
      NannError: an id is `NO_ITEM`, or appears twice.
    """
    check_no_sentinel(path, ids)
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(ids[order[1:]] == ids[order[:-1]])
    if len(again):
        value = ids[order[again[0]]]
        places = np.flatnonzero(ids == value)
        raise NannError(
            f"item id {value} appears {len(places)} times; ids must be all different: {path}[{places[0]}] and "
            f"[{places[1]}] are the first; drop all but one of the rows, from the embeddings too"
        )


def check_vocabulary(path: Path, ids: np.ndarray) -> None:
    """Checks the ids of a model, which must ascend since they are looked up by bisection; messages call them `path`.

    Raises:
      NannError: they are not int64 [n] in ascending order, or one is `NO_ITEM`.
    """
    if ids.ndim != 1 or ids.dtype != np.int64:
        raise NannError(f"{path} is {ids.dtype} {list(ids.shape)}, it must be int64 [n]")
    at = _first(ids[1:] <= ids[:-1]) + 1
    if at > 0:
        raise NannError(
            f"{path}[{at}] is {ids[at]}, after {ids[at - 1]}; ids must ascend, as `nann train` writes them, or they "
            "would name other rows of the weights"
        )
    check_no_sentinel(path, ids)


def check_no_sentinel(path: Path, ids: np.ndarray) -> None:
    """Raises NannError if one of `ids`, which messages call `path`, is `NO_ITEM`."""
    at = _first(ids == NO_ITEM)
    if at >= 0:
        raise NannError(
            f"{path}[{at}] is {NO_ITEM}, the mark for 'no item' in requests and answers; allowed are all other int64: "
            "drop that row, from the embeddings too, or give it another id (the vocabularies of Keras' StringLookup "
            "and IntegerLookup begin with an entry that is not an item)"
        )


def check_graph(paths: Sequence[Path], n: int, entry_points: np.ndarray, layers: Sequence[Layer]) -> None:
    """Checks that the entries of a graph of `n` items are within their bounds.

    Args:
      paths: the files that messages name, in the order of `Nann>IndexOpen`: the two files of the items, which are not
        checked, then the entry points', then two per layer.
      n: number of items.
      entry_points: int [e].
      layers: each with row_splits int [n + 1], whose last entry must be the length of its neighbors.

    Raises:
      NannError: an entry is out of bounds; the message names the file and the first such position.
    """
    if n and not len(entry_points):
        raise NannError(f"{paths[2]} is empty")
    _check_items(paths[2], entry_points, n)
    for number, layer in enumerate(layers):
        path = paths[3 + 2 * number]
        if len(layer.row_splits) != n + 1:
            raise NannError(f"{path} has {len(layer.row_splits)} entries, expected {n + 1}: one more than items")
        if layer.row_splits[0] != 0:
            raise NannError(f"{path}[0] is {layer.row_splits[0]}, must be 0")
        at = _first(layer.row_splits[1:] < layer.row_splits[:-1]) + 1
        if at > 0:
            raise NannError(f"{path}[{at}] is {layer.row_splits[at]}, below the entry before it")
        if layer.row_splits[n] != len(layer.neighbors):
            raise NannError(
                f"{path} must end with {len(layer.neighbors)}, the length of {paths[4 + 2 * number].name}; it ends "
                f"with {layer.row_splits[n]}"
            )
        _check_items(paths[4 + 2 * number], layer.neighbors, n)


def _check_items(path: Path, items: np.ndarray, n: int) -> None:
    # Checked in pieces, so that memory does not depend on the size of the index.
    for start in range(0, len(items), CHECKED_AT_ONCE):
        piece = items[start : start + CHECKED_AT_ONCE]
        if piece.min() < 0 or piece.max() >= n:
            at = start + _first((piece < 0) | (piece >= n))
            raise NannError(f"{path}[{at}] is {items[at]}, allowed are the item indices 0 to {n - 1}")


def as_integers(
    paths: Sequence[Path], entry_points: np.ndarray, layers: Sequence[Layer]
) -> tuple[np.ndarray, list[Layer]]:
    """Casts the arrays of a graph to the types of the format; `paths` as in `check_graph`.

    Raises:
      NannError: an array does not hold integers in one dimension, or an entry does not fit its type; the message names
        the file and the position.
    """
    made = []
    for number, layer in enumerate(layers):
        splits, neighbors = paths[3 + 2 * number : 5 + 2 * number]
        made.append(Layer(_integers(splits, layer.row_splits, "<i8"), _integers(neighbors, layer.neighbors, "<i4")))
    return _integers(paths[2], entry_points, "<i4"), made


def _integers(name: str | Path, values: np.ndarray, dtype: str) -> np.ndarray:
    """Casts `values` to `dtype`; refuses values out of its range, which a plain cast would turn into other items."""
    values = np.asarray(values)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise NannError(f"{name} is {values.dtype} {list(values.shape)}, it must be integers in one dimension")
    limits = np.iinfo(dtype)
    if not np.can_cast(values.dtype, dtype):
        wrong = np.flatnonzero((values < limits.min) | (values > limits.max))
        if len(wrong):
            raise NannError(f"{name}[{wrong[0]}] is {values[wrong[0]]}, allowed are {limits.min} to {limits.max}")
    return values.astype(dtype, copy=False)


def _first(wrong: np.ndarray) -> int:
    """Returns the place of the first true, or -1 if there is none."""
    at = int(wrong.argmax()) if len(wrong) else 0
    return at if len(wrong) and wrong[at] else -1
