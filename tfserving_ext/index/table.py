"""How an index holds its item embeddings: float32, float16, or int8 with one scale an item.

The narrower ones halve and quarter what a search reads from memory, and what the index takes on disk. The scorer always
gets float32: rows are widened when they are gathered.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from tfserving_ext.errors import NannError

# The type of a table's values, little-endian, by the name that the manifest has.
DTYPES: Mapping[str, str] = MappingProxyType({"float32": "<f4", "float16": "<f2", "int8": "|i1"})


def check_dtype(dtype: object, where: str) -> str:
    """Returns `dtype` where it is a name that a table may have.

    Raises:
      NannError: it is not.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise NannError(f"{where} has embeddings of type {dtype!r}, allowed are {', '.join(map(repr, DTYPES))}")
    return dtype


def encode(embeddings: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of a table, and its scales where `dtype` is int8.

    Args:
      embeddings: float32 [n, dim], finite.
      dtype: "float32", "float16" or "int8".

    Returns:
      values [n, dim] of `dtype`, and for int8 scales float32 [n]: a coordinate is its value times its item's scale, the
      largest of an item 127 times.

    Raises:
      NannError: an unknown dtype, or a coordinate that float16 cannot hold.
    """
    check_dtype(dtype, "the table")
    if dtype == "int8":
        largest = np.abs(embeddings).max(axis=1)
        # Subnormal scales count as zero in TensorFlow's threads; an item that small is zero.
        scales = np.where(largest > 1e-30, largest / 127, 1).astype("<f4")
        return np.rint(embeddings / scales[:, None]).astype(DTYPES[dtype]), scales
    with np.errstate(over="ignore"):
        values = embeddings.astype(DTYPES[dtype], copy=False)
    if dtype == "float16":
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(rows):
            largest = np.abs(embeddings[rows[0]]).max()
            raise NannError(
                f"the embedding in row {rows[0]} holds {largest:g}, float16 holds at most 65504; use float32"
            )
    return values, None


def decode(values: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    """float32 [n, dim], what the scorer is given for rows of a table."""
    wide = values.astype(np.float32, copy=False)
    return wide if scales is None else wide * scales[:, None]
