"""Requests as people write them: values by input name, as a JSON object, or many of them in a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.extras import require

MAX_FILE_BYTES = 1 << 30


def as_inputs(signature: Any, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the values as arrays of the signature's types and numbers of dimensions.

    A value with fewer dimensions than the input gets leading ones: a list is the history of one user, a number its age.

    Args:
      signature: a `Signature`.
      values: values by input name; inputs with a default may be left out.

    Raises:
      NannError: an input is unknown, or a value is not of its type.
    """
    import tensorflow as tf

    inputs = {}
    for name, value in values.items():
        info = signature.proto.inputs.get(name)
        if info is None:
            raise NannError(f"the signature has no input {name!r}; it has {', '.join(sorted(signature.proto.inputs))}")
        dtype = np.dtype(tf.dtypes.as_dtype(info.dtype).as_numpy_dtype)
        try:
            array = np.asarray(value, dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise NannError(f"{name} is {value!r}, which is not {dtype.name}: {error}") from error
        missing = 0 if info.tensor_shape.unknown_rank else len(info.tensor_shape.dim) - array.ndim
        inputs[name] = array.reshape((1,) * max(missing, 0) + array.shape)
    return inputs


def item_keys_of(data: Path) -> dict[int, str]:
    """Returns the text of each item id, where `nann convert` numbered ids that were text; otherwise nothing."""
    path = data / "item_keys.parquet"
    if not path.exists():
        return {}
    require("train")
    import polars as pl

    return dict(pl.read_parquet(path, columns=["id", "key"]).iter_rows())


def spelled(info: Any, item_ids: np.ndarray, keys: Mapping[int, str]) -> np.ndarray:
    """Returns item ids as an input takes them: the texts that they stand for if it takes strings.

    Args:
      info: the input's TensorInfo.
      item_ids: int64 [n], ids of a converted data set.
      keys: the text of each id, as `item_keys_of` returns it; an id without text is written as a number.
    """
    import tensorflow as tf

    if tf.dtypes.as_dtype(info.dtype) != tf.string:
        return item_ids
    return np.array([keys.get(one, str(one)).encode() for one in item_ids.tolist()], object)


def is_parquet(path: Path) -> bool:
    """Returns whether a file is Parquet.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def read_requests(path: Path) -> list[dict[str, Any]]:
    """Reads requests, one for each user: a JSON list of objects, JSON lines, or Parquet with a row for each.

    Raises:
      NannError: the file is missing, too large, empty, or holds something else.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise NannError(f"{path} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are allowed")
        if is_parquet(path):
            require("train")
            import polars as pl

            requests = pl.read_parquet(path).to_dicts()
        else:
            text = path.read_text().strip()
            requests = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    except NannError:
        raise
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # Polars raises errors of its own.
        raise NannError(f"{path} is neither JSON nor Parquet: {error}") from error
    if not requests or not all(isinstance(one, dict) for one in requests):
        raise NannError(f"{path} must hold at least one object of inputs by name, and nothing else")
    # Parquet has a column in every row; a value that is missing is one that the request does not give.
    return [{name: value for name, value in one.items() if value is not None} for one in requests]
