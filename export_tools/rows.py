"""Writes an index with the rows that a scorer takes in place of the embeddings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.artifacts import sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.index.table import encode
from tfserving_ext.progress import progress

ROWS_AT_ONCE = 1 << 15


def write_rows(index: Index, fold: Any, row_dim: int, folder: Path) -> Index:
    """Writes `index` with the rows that a folded scorer takes in place of the embeddings, and opens it.

    Memory is bounded, as rows are computed and written in parts. The files of the HNSW graph are linked.

    Args:
      index: an open index.
      fold: computes rows from embeddings, float32 [1, n, dim] -> [1, n, row_dim].
      row_dim: width of a row.
      folder: an empty folder.

    Returns:
      The new index, whose files are in `folder`.

    Raises:
      NannError: a row is not finite, or float16 cannot hold it.
    """

    def computed(part: slice) -> np.ndarray:
        rows = np.asarray(fold(tf.constant(index.embeddings(part)[None])))[0]
        if not np.isfinite(rows).all():
            wrong = part.start + int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise NannError(f"the row that the scorer computes from item {index.item_ids[wrong]} is not finite")
        return rows

    return _written(index, computed, row_dim, folder)


def write_table(index: Index, rows: np.ndarray, folder: Path) -> Index:
    """Writes `index` with other rows in place of the embeddings, float32 [n, dim], to an empty folder, and opens it."""
    return _written(index, lambda part: rows[part], rows.shape[1], folder)


def _written(index: Index, computed: Callable[[slice], np.ndarray], row_dim: int, folder: Path) -> Index:
    """Writes `index` with rows that are computed part by part."""
    count = len(index.item_ids)
    for path in index.files:
        if path.name not in ("item_embeddings.bin", "item_scales.bin"):
            (folder / path.name).symlink_to(path.resolve())
    described: dict[str, Any] = {}
    with (
        (folder / "item_embeddings.bin").open("wb") as table,
        (folder / "item_scales.bin").open("wb") as held_scales,
        progress("rows of the scorer", count) as advance,
    ):
        for start in range(0, count, ROWS_AT_ONCE):
            rows = computed(slice(start, min(start + ROWS_AT_ONCE, count)))
            values, scales = encode(rows, index.dtype)
            values.tofile(table)
            described["item_embeddings.bin"] = {"dtype": values.dtype.str, "shape": [count, row_dim]}
            if scales is not None:
                scales.tofile(held_scales)
                described["item_scales.bin"] = {"dtype": scales.dtype.str, "shape": [count]}
            advance(len(rows))
    if "item_scales.bin" not in described:
        (folder / "item_scales.bin").unlink()
    files = dict(index.manifest["files"])
    for name, entry in described.items():
        files[name] = {**entry, "sha256": sha256(folder / name)}
    manifest: Mapping[str, Any] = {**index.manifest, "dim": row_dim, "files": files}
    write_json(folder / "manifest.json", manifest)
    return Index.open(folder)
