"""Tensors in JSON, as TensorFlow Serving's REST API writes and reads them.

Row form: `instances`, a list of examples, each a value or an object with a value for each input. Column form: `inputs`,
a value or an object with a value for each input, each with all its dimensions. Bytes are {"b64": "..."}.

Differences from TensorFlow Serving: text after the JSON document, `Inf` for Infinity, and strings that are not UTF-8
are refused here and accepted there. A string output that is not UTF-8 is {"b64": "..."} here; there it is raw bytes,
which is not valid JSON.
"""

import base64
import contextlib
import struct
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from tfserving_ext.serving.json_text import read_object, shown
from tfserving_ext.serving.models import ServingError, invalid
from tfserving_ext.serving.tensors import MAX_RANK

_INTEGERS = (tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64)
_FLOATS = (tf.float32, tf.float64)
_CPP_NAMES = {tf.float32: "float", tf.float64: "double", tf.float16: "half"}
_KINDS = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}


def read_request(body: bytes) -> dict[str, Any]:
    """Parses the body of a `:predict` request: a JSON object with either `instances` or `inputs`.

    Raises:
      ServingError: the body is anything else.
    """
    request = read_object(body)
    if "instances" in request and "inputs" in request:
        raise invalid(
            f"JSON Value: {shown(request)} Not formatted correctly expecting only one of 'inputs' or 'instances' keys "
            "to exist "
        )
    if "instances" not in request and "inputs" not in request:
        raise invalid("Missing 'inputs' or 'instances' key")
    return request


def columns(value: Any, types: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """Converts `inputs`, column form, to arrays.

    Args:
      value: the value of `inputs`.
      types: the dtype of each input of the signature, by name.

    Returns:
      The arrays by name.

    Raises:
      ServingError: an input is missing, or a value is ragged or not of its input's type.
    """
    if not isinstance(value, dict) or is_bytes(value):
        if len(types) != 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {next(iter(types)): value}
    for name in sorted(types):
        if name not in value:
            raise invalid(f"Missing named input: {name} in 'inputs' object.")
    return {name: to_array(value[name], dtype) for name, dtype in types.items()}


def rows(instances: Any, types: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    """Converts `instances`, row form, to arrays.

    Args:
      instances: the value of `instances`.
      types: the dtype of each input of the signature, by name.

    Returns:
      The arrays by name, each with one row per instance.

    Raises:
      ServingError: `instances` is not a list, or an instance lacks an input or has a value of another type or of
        another shape than the first instance.
    """
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {shown({'instances': instances})} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid(f"JSON Value: {shown({'instances': instances})} No values in 'instances' array")
    named = _is_object(instances[0])
    if not named and len(types) != 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    only = next(iter(types))
    parts: dict[str, list[np.ndarray]] = {name: [] for name in types}
    for place, instance in enumerate(instances):
        if _is_object(instance) != named:
            wanted, got = ("object", "list") if named else ("value/list", "object")
            raise invalid(f"Expecting {wanted} but got {got} at item {place} of input list")
        where = f"Failed to process element: {place}"
        for name, value in (instance if named else {only: instance}).items():
            element = (
                f"{where} key: {name} of 'instances' list. Error: "
                if named
                else f"{where} of 'instances' list. Error: "
            )
            here = f"{element}INVALID_ARGUMENT: "
            if name not in types:
                raise invalid(f"{here}JSON object: does not have named input: {name}")
            try:
                array = to_array(value, types[name])
            except ServingError as error:
                # The request is invalid, whatever status the element's own error has.
                raise invalid(f"{element}{error.code.name}: {error.message}") from error
            if parts[name] and parts[name][0].shape != array.shape:
                first = parts[name][0]
                if first.ndim == array.ndim and first.size != array.size:
                    raise invalid(f"{here}Expecting tensor size: {first.size} but got: {array.size}")
                raise invalid(f"{here}Expecting shape {list(first.shape)} but got: {list(array.shape)}")
            parts[name].append(array)
        if named and set(instance) != set(types):
            raise invalid(
                f"{where} of 'instances' list. JSON object: {shown(instance)} keys must be equal to: "
                f"{','.join(sorted(types))}"
            )
    return {name: np.stack(arrays) for name, arrays in parts.items()}


def to_array(value: Any, dtype: tf.DType) -> np.ndarray:
    """Converts a JSON value to an array.

    Args:
      value: a number, a boolean, a string, {"b64": "..."}, or nested lists of these.
      dtype: the type of the input.

    Returns:
      The array of type `dtype`, with one dimension for each level of lists; strings are an object array of bytes.

    Raises:
      ServingError: the lists are ragged, a value is not of `dtype` or out of its range, or REST cannot carry `dtype`.
    """
    shape: list[int] = []
    first = value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
        if len(shape) > MAX_RANK:
            raise invalid(f"Lists are nested more than {MAX_RANK} deep")
    values: list[Any] = []
    _flatten(value, shape, 0, dtype, values)
    numpy_dtype = np.object_ if dtype == tf.string else dtype.as_numpy_dtype
    with np.errstate(over="ignore"):  # Numbers too large for float32 become infinite, as in TensorFlow Serving.
        return np.array(values, np.float64 if dtype in _FLOATS else numpy_dtype).astype(numpy_dtype).reshape(shape)


def _flatten(value: Any, shape: list[int], level: int, dtype: tf.DType, values: list[Any]) -> None:
    if level == len(shape):
        values.append(_scalar(value, dtype, level))
        return
    if not isinstance(value, list):
        raise _misplaced(value, level, len(shape))
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
        )
    for part in value:
        _flatten(part, shape, level + 1, dtype, values)


def _scalar(value: Any, dtype: tf.DType, level: int) -> Any:
    if dtype in _INTEGERS and type(value) is int and dtype.min <= value <= dtype.max:
        return value
    if dtype in _FLOATS and type(value) in (int, float):
        return _as_float(value)
    if dtype == tf.bool and isinstance(value, bool):
        return value
    if dtype == tf.string and isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise invalid("JSON Parse error: The surrogate pair in string is invalid.") from error
    if dtype == tf.string and is_bytes(value):
        try:
            return base64.b64decode(value["b64"] + "=" * (-len(value["b64"]) % 4), validate=True)
        except ValueError as error:
            raise invalid("Unable to base64 decode") from error
    name = _CPP_NAMES.get(dtype, dtype.name)
    if dtype not in (*_INTEGERS, *_FLOATS, tf.bool, tf.string):
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Conversion of JSON Value: {shown(value)} to type: {name}")
    if isinstance(value, list):
        raise _misplaced(value, level, level)
    kind = str(value) if isinstance(value, bool) else _KINDS[type(value)]
    raise invalid(f"JSON Value: {shown(value)} Type: {kind} is not of expected type: {name}")


def _misplaced(value: Any, level: int, expected: int) -> ServingError:
    where = f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {expected}"
    return invalid(f"JSON Value: {shown(value)} {where}")


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # An integer with hundreds of digits.
        return float("inf") if value > 0 else float("-inf")


def row_outputs(outputs: Mapping[str, np.ndarray]) -> list[Any]:
    """Converts outputs to row form, the value of `predictions`.

    Returns:
      A list with an object for each row, which holds a value for each output; if there is one output, its values alone.

    Raises:
      ServingError: an output is a scalar, the outputs have different numbers of rows, or REST cannot carry a type.
    """
    sizes = set()
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {name} has no shape information ")
        sizes.add(array.shape[0])
    if len(sizes) != 1:
        raise invalid(f"Outputs have different numbers of rows: {sorted(sizes)}")
    values = {name: to_json(array, _holds_bytes(name)) for name, array in outputs.items()}
    if len(values) == 1:
        return next(iter(values.values()))
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def column_outputs(outputs: Mapping[str, np.ndarray]) -> Any:
    """Converts outputs to column form, the value of `outputs`: an object, or the value of the only output.

    Raises:
      ServingError: REST cannot carry an output's type.
    """
    values = {name: to_json(array, _holds_bytes(name)) for name, array in outputs.items()}
    return next(iter(values.values())) if len(values) == 1 else values


def to_json(array: np.ndarray, as_bytes: bool = False) -> Any:
    """Converts an array to numbers, booleans or strings in nested lists; with `as_bytes`, strings to {"b64": "..."}.

    Raises:
      ServingError: REST cannot carry the type.
    """
    kind = array.dtype.kind
    if array.dtype == np.float32:
        flat: list[Any] = [number(value) for value in array.ravel().tolist()]
    elif array.dtype == np.float64 or kind in "iub":
        flat = array.ravel().tolist()
    elif kind in "OSU":
        flat = [_text(value, as_bytes) for value in array.ravel().tolist()]
    else:
        name = _CPP_NAMES.get(tf.dtypes.as_dtype(array.dtype), array.dtype.name)
        raise invalid(f"Failed to write JSON value for tensor type: {name}")
    nested = np.empty(len(flat), np.object_)
    nested[:] = flat
    return nested.reshape(array.shape).tolist()


def number(value: float) -> float:
    """Rounds a float32 to six significant digits if they restore it exactly, or else to nine, which always do."""
    short = float(f"{value:.6g}")
    try:
        same = struct.unpack("f", struct.pack("f", short))[0] == value
    except OverflowError:  # The largest floats, rounded to six digits, exceed float32.
        same = False
    return short if same else float(f"{value:.9g}")


def _text(value: bytes | str, as_bytes: bool) -> Any:
    value = value.encode() if isinstance(value, str) else value
    if not as_bytes:
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    return {"b64": base64.b64encode(value).decode()}


def _holds_bytes(output: str) -> bool:
    """Returns whether TensorFlow Serving treats an output as bytes, which depends on its name alone."""
    return output.endswith("_bytes")


def is_bytes(value: Any) -> bool:
    """Returns whether a JSON value is {"b64": "..."}."""
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_bytes(value)
