"""The `nann-sequences` folder: who behaved how, in what order. Conversion writes it; training and evaluation map it.

manifest.json        format, counts, rules, source
item_ids.npy         int64 [V]    the data's own ids, ascending
item_categories.npy  int32 [V]    1-based row of category_ids
item_counts.npy      int64 [V]    behaviours of training users
category_ids.npy     int64 [C]    ascending
user_ids.npy         int64 [U]    ascending
user_splits.npy      uint8 [U]    0 train, 1 validation, 2 test
row_splits.npy       int64 [U+1]  user u's history is sequence_*[row_splits[u]:row_splits[u+1]]
sequence_items.npy   int32 [R]    1-based row of item_ids, in time order; 0 is kept for "missing"
sequence_times.npy   int64 [R]    unix seconds
"""

import tokenize
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.artifacts import read_json
from tfserving_ext.errors import NannError

FORMAT = "nann-sequences"
FORMAT_VERSION = 1
SPLITS = ("train", "validation", "test")  # A user's split is stored as its position here.

_DTYPES = {
    "item_ids": np.int64,
    "item_categories": np.int32,
    "item_counts": np.int64,
    "category_ids": np.int64,
    "user_ids": np.int64,
    "user_splits": np.uint8,
    "row_splits": np.int64,
    "sequence_items": np.int32,
    "sequence_times": np.int64,
}


def load(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Maps and checks a folder.

    Returns:
      The manifest, and the arrays by name, read-only.

    Raises:
      NannError: the folder is missing, of another format or version, or its arrays do not fit together.
    """
    if not (folder / "manifest.json").exists():
        raise NannError(f"{folder} is not converted data: it has no manifest.json; make some with `nann convert`")
    manifest = read_json(folder / "manifest.json")
    got = (manifest.get("format"), manifest.get("format_version")) if isinstance(manifest, dict) else (None, None)
    if got != (FORMAT, FORMAT_VERSION):
        raise NannError(
            f"{folder / 'manifest.json'}: format {got[0]!r} version {got[1]!r}; "
            f"expected {FORMAT!r} version {FORMAT_VERSION}; convert the data again"
        )
    arrays = {name: _load(folder / f"{name}.npy", dtype) for name, dtype in _DTYPES.items()}
    _check(folder, arrays)
    return manifest, arrays


def _load(path: Path, dtype: type) -> np.ndarray:
    try:
        # A plain view: indexing np.memmap costs several times more a call.
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError as error:
        raise NannError(f"{path} does not exist; convert the data again") from error
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError) as error:
        raise NannError(f"{path} cannot be read ({error}); convert the data again") from error
    if array.dtype != dtype or array.ndim != 1:
        raise NannError(f"{path}: {array.dtype} {list(array.shape)}; expected {np.dtype(dtype)} of one dimension")
    return array


def _check(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Raises NannError unless lengths agree and every row lies inside its table."""
    items, categories, users = (len(arrays[name]) for name in ("item_ids", "category_ids", "user_ids"))
    splits = arrays["row_splits"]
    if not (len(splits) == users + 1 and splits[0] == 0 and np.all(np.diff(splits) >= 0)):
        raise NannError(
            f"{folder / 'row_splits.npy'}: expected {users + 1} ascending numbers from 0; got {len(splits)}"
        )
    for name, length in (
        ("item_categories", items),
        ("item_counts", items),
        ("user_splits", users),
        ("sequence_items", int(splits[-1])),
        ("sequence_times", int(splits[-1])),
    ):
        if len(arrays[name]) != length:
            raise NannError(f"{folder / f'{name}.npy'}: {len(arrays[name])} entries; expected {length}")
    for name, least, most in (
        ("item_categories", 1, categories),
        ("user_splits", 0, len(SPLITS) - 1),
        ("sequence_items", 1, items),
    ):
        array = arrays[name]
        if array.size and not (least <= array.min() and array.max() <= most):
            raise NannError(f"{folder / f'{name}.npy'}: {array.min()} to {array.max()}; allowed are {least} to {most}")
    for name in ("item_ids", "category_ids", "user_ids"):
        if np.any(np.diff(arrays[name]) <= 0):
            raise NannError(f"{folder / f'{name}.npy'}: not ascending")
