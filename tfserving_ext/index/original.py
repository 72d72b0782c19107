"""Reads the index that the original's `build_hnsw_index.py` writes as .npy files."""

import os
import re
import tokenize
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.build import storage_of
from tfserving_ext.index.checks import as_integers, check_graph, check_items
from tfserving_ext.index.format import MAX_LAYERS, Index, write_index
from tfserving_ext.index.graph import Graph, Layer
from tfserving_ext.index.reach import unreachable
from tfserving_ext.outputs import INDEX, check_replaceable

if TYPE_CHECKING:
    import polars as pl

# The errors that NumPy raises for files that are not arrays, or have a damaged header or archive.
_NOT_AN_ARRAY = (
    ValueError,
    EOFError,
    OSError,
    SyntaxError,
    TypeError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    NotImplementedError,
    MemoryError,
    OverflowError,
    RecursionError,
)


def load_array(path: Path) -> np.ndarray:
    """Maps one .npy file; object arrays, which would need unpickling, are refused.

    Raises:
      NannError: the file is missing, truncated or not a plain array.
    """
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise NannError(f"{path} does not exist") from error
    except _NOT_AN_ARRAY as error:
        raise NannError(f"{path} is not a complete .npy array: {error}") from error
    if not isinstance(loaded, np.ndarray):
        held = ", ".join(loaded.files) or "nothing"
        loaded.close()
        raise NannError(
            f"{path} is an .npz archive (of {held}), not a .npy array; write the array alone with numpy.save"
        )
    return loaded


def read_original(
    index_folder: str | os.PathLike[str], embeddings_folder: str | os.PathLike[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Layer]]:
    """Reads and checks the original's files.

    Args:
      index_folder: the folder with `enter_points.npy`, `neighbors_level_{l}_values.npy` and
        `neighbors_level_{l}_row_splits.npy`.
      embeddings_folder: the folder with `item_ids.npy` and `item_embs.npy`.

    Returns:
      item_ids int64 [n], item_embeddings float32 [n, dim], entry_points int32 [e], and the layers, for `write_index`.

    Raises:
      NannError: a file is missing or is not a plain array, a level below another is missing, or an entry is out of its
        bounds; the message names the file.
    """
    index_folder, embeddings_folder = Path(index_folder), Path(embeddings_folder)
    paths = [embeddings_folder / "item_ids.npy", embeddings_folder / "item_embs.npy", index_folder / "enter_points.npy"]
    for level in range(_levels(index_folder)):
        paths += [index_folder / f"neighbors_level_{level}_{part}.npy" for part in ("row_splits", "values")]
    item_ids, item_embeddings, entry_points, *arrays = (load_array(path) for path in paths)
    layers = [Layer(*pair) for pair in zip(arrays[::2], arrays[1::2], strict=True)]
    item_ids, item_embeddings = check_items(item_ids, item_embeddings, paths[:2])
    entry_points, layers = as_integers(paths, entry_points, layers)
    check_graph(paths, len(item_ids), entry_points, layers)
    return item_ids, item_embeddings, entry_points, layers


def import_original(
    index_folder: str | os.PathLike[str],
    embeddings_folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    dtype: str = "float32",
    force: bool = False,
    attributes: "pl.DataFrame | None" = None,
) -> Index:
    """Converts the original's files to an index, with the graph unchanged.

    The manifest records for each layer, ground layer first, how many items no walk reaches (`unreachable`).

    Args:
      index_folder: see `read_original`.
      embeddings_folder: see `read_original`.
      target: the folder to write; it replaces an earlier index.
      dtype: the type of the stored embeddings: "float32", "float16" or "int8".
      force: replace whatever `target` holds.
      attributes: attributes of the items, as in `build_index`.

    Returns:
      The index, opened.

    Raises:
      NannError: as `read_original`, `store_attributes` and `write_index` do.
    """
    check_replaceable(target, INDEX, force, [index_folder, embeddings_folder])
    item_ids, item_embeddings, entry_points, layers = read_original(index_folder, embeddings_folder)
    left = [len(items) for items in unreachable(entry_points, layers)]
    about = {"imported_from": "alibaba/nann", "unreachable": {"before": left, "after": left}}
    storage = storage_of(dtype, attributes, item_ids)
    return write_index(target, item_ids, item_embeddings, Graph(entry_points, layers), about, storage, force)


def _levels(folder: Path) -> int:
    """Returns the number of levels in `folder`; each level from 0 to the highest must have both of its files."""
    found = [re.fullmatch(r"neighbors_level_(\d+)_(values|row_splits)\.npy", path.name) for path in _listed(folder)]
    files = {(int(name[1]), name[2]) for name in found if name}
    levels = max((level for level, _ in files), default=0) + 1
    if levels > MAX_LAYERS:
        raise NannError(f"{folder} holds a file of level {levels - 1}, allowed are the levels 0 to {MAX_LAYERS - 1}")
    for level in range(levels):
        for part in ("values", "row_splits"):
            if (level, part) not in files:
                held = ", ".join(f"neighbors_level_{number}_{name}.npy" for number, name in sorted(files)) or "none"
                raise NannError(
                    f"{folder / f'neighbors_level_{level}_{part}.npy'} does not exist; every level from 0 to the "
                    f"highest needs its values and row_splits, and there are: {held}"
                )
    return levels


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise NannError(f"cannot read the folder {folder}: {error.strerror or error}") from error
