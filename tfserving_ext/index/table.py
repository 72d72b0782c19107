"""The types of an index's item embeddings: float32, float16, or int8 with one scale per item.

The narrower types halve and quarter the bytes that a search reads from memory and that the index takes on disk. The
scorer always gets float32: rows are converted when they are gathered.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from tfserving_ext.errors import NannError

# The NumPy type of a table's values, little-endian, by its name in the manifest.
DTYPES: Mapping[str, str] = MappingProxyType({"float32": "<f4", "float16": "<f2", "int8": "|i1"})


def check_dtype(dtype: object, where: str) -> str:
    """Returns `dtype` if it names a type of embeddings.

    Args:
      dtype: the name.
      where: the subject of the message.

    Raises:
      NannError: it does not.
    """
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise NannError(f"{where} has embeddings of type {dtype!r}, allowed are {', '.join(map(repr, DTYPES))}")
    return dtype


def encode(embeddings: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Converts embeddings to the values of a table, and scales if `dtype` is int8.

    Args:
      embeddings: float32 [n, dim], finite.
      dtype: "float32", "float16" or "int8".

    Returns:
      Values [n, dim] of `dtype`; and for int8, scales float32 [n], otherwise None. A coordinate is its value times the
      item's scale; the largest coordinate of an item has the value 127 or -127.

    Raises:
      NannError: the dtype is unknown, or a coordinate does not fit into float16.
    """
    check_dtype(dtype, "the table")
    if dtype == "int8":
        largest = np.abs(embeddings).max(axis=1)
        # TensorFlow's threads flush subnormal numbers to zero, so the embedding of such an item is stored as zero.
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
    """Converts the values of a table, and for int8 its scales, to the scorer's float32 [n, dim]."""
    wide = values.astype(np.float32, copy=False)
    return wide if scales is None else wide * scales[:, None]
