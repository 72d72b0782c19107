"""Reads the index that the original's `build_hnsw_index.py` writes as .npy files."""

import os
import tokenize
from pathlib import Path

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Layer


def load_array(path: Path) -> np.ndarray:
    """Maps one .npy file; object arrays, which would need unpickling, are refused.

    Raises:
      NannError: the file is missing, truncated or not a plain array.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise NannError(f"{path} does not exist") from error
    except (ValueError, EOFError, OSError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise NannError(f"{path} is not a complete .npy array: {error}") from error


def read_original(
    index_folder: str | os.PathLike[str], embeddings_folder: str | os.PathLike[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Layer]]:
    """Reads the original's files, for `write_index`, which checks them.

    Args:
      index_folder: holds `enter_points.npy`, `neighbors_level_{l}_values.npy`, `neighbors_level_{l}_row_splits.npy`.
      embeddings_folder: holds `item_ids.npy` and `item_embs.npy`.

    Returns:
      item_ids int [n], item_embeddings float [n, dim], entry_points int [e], layers.

    Raises:
      NannError: a file is missing or is not a plain array, or a row_splits does not fit its values.
    """
    index_folder, embeddings_folder = Path(index_folder), Path(embeddings_folder)
    layers: list[Layer] = []
    while (path := index_folder / f"neighbors_level_{len(layers)}_values.npy").exists():
        splits_path = index_folder / f"neighbors_level_{len(layers)}_row_splits.npy"
        values, row_splits = load_array(path), load_array(splits_path)
        if values.ndim != 1:
            raise NannError(f"{path} has shape {list(values.shape)}, it must have one dimension")
        if row_splits.ndim != 1 or not len(row_splits) or row_splits[-1] != len(values):
            raise NannError(f"{splits_path} must end with {len(values)}, the length of {path.name}")
        layers.append(Layer(row_splits, values))
    if not layers:
        raise NannError(f"{index_folder} holds no neighbors_level_0_values.npy")
    return (
        load_array(embeddings_folder / "item_ids.npy"),
        load_array(embeddings_folder / "item_embs.npy"),
        load_array(index_folder / "enter_points.npy"),
        layers,
    )
