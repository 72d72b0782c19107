"""Tensors in requests and answers; a request's tensor is checked before memory is allocated for it."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

MAX_TENSOR_BYTES = 64 << 20
MAX_RANK = 32
STRING_BYTES = 24  # The size of a string object in TensorFlow, without its characters.

# For each type, the field of a TensorProto that holds the values, and the type of that field. A field may be wider than
# the type: TensorFlow takes the low bits of its values, so that -15361 and 50175 are the same half_val.
_VALUES = {
    tf.float32: ("float_val", np.float32),
    tf.float64: ("double_val", np.float64),
    tf.int8: ("int_val", np.int32),
    tf.int16: ("int_val", np.int32),
    tf.int32: ("int_val", np.int32),
    tf.uint8: ("int_val", np.int32),
    tf.uint16: ("int_val", np.int32),
    tf.int64: ("int64_val", np.int64),
    tf.uint32: ("uint32_val", np.uint32),
    tf.uint64: ("uint64_val", np.uint64),
    tf.bool: ("bool_val", np.bool_),
    tf.string: ("string_val", np.object_),
    tf.float16: ("half_val", np.int32),
    tf.bfloat16: ("half_val", np.int32),
    tf.complex64: ("scomplex_val", np.float32),
    tf.complex128: ("dcomplex_val", np.float64),
}


def parse_tensor(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """Parses a TensorProto as TensorFlow Serving does.

    If there are fewer values than the shape has elements, the last value is repeated, or zero if there is none. Surplus
    values are ignored, and an unknown rank counts as rank 0. Unlike in TensorFlow Serving, a tensor's size is limited.

    Returns:
      The array; strings are an object array of bytes.

    Raises:
      ValueError: the type is missing or not allowed in requests (resources, variants, quantized numbers, and numbers of
        4 bits and floats of 8), a dimension is negative, the rank is above 32, the tensor would take more than 64 MiB,
        or `tensor_content` has the wrong length.
    """
    try:
        dtype = tf.dtypes.as_dtype(proto.dtype)
        field, stored = _VALUES[dtype]
    except (TypeError, KeyError) as error:
        raise ValueError(f"type {proto.dtype} cannot be in a request") from error
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if len(shape) > MAX_RANK:
        raise ValueError(f"rank is {len(shape)}, at most {MAX_RANK} is allowed")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape is {shape}, dimensions must not be negative")
    count = math.prod(shape)
    item_bytes = STRING_BYTES if dtype == tf.string else dtype.size
    if count * item_bytes > MAX_TENSOR_BYTES:
        raise ValueError(f"shape {shape} takes more than {MAX_TENSOR_BYTES} bytes")
    if proto.tensor_content:
        return _parse_content(proto.tensor_content, dtype, count).reshape(shape)
    parts = 2 if dtype.is_complex else 1  # A complex number is stored as two values.
    sent = getattr(proto, field)[: count * parts]
    if dtype == tf.string and sent:
        # The session copies the string for each element, even where one string is repeated.
        text_bytes = sum(map(len, sent)) + (count - len(sent)) * len(sent[-1])
        if text_bytes > MAX_TENSOR_BYTES:
            raise ValueError(f"shape {shape} of these strings takes more than {MAX_TENSOR_BYTES} bytes")
    values: np.ndarray = np.array(sent, stored)
    if dtype.is_complex:
        values = values[: len(values) // 2 * 2].view(dtype.as_numpy_dtype)
    elif field == "half_val":
        values = values.astype(np.uint16).view(dtype.as_numpy_dtype)
    values = values.astype(np.object_ if dtype == tf.string else dtype.as_numpy_dtype, copy=False)
    if len(values) < count:
        last = values[-1] if len(values) else (b"" if dtype == tf.string else 0)
        values = np.concatenate([values, np.full(count - len(values), last, values.dtype)])
    return values.reshape(shape)


def _parse_content(content: bytes, dtype: tf.DType, count: int) -> np.ndarray:
    """Parses a `tensor_content` of `count` values; raises ValueError if its length is wrong."""
    if dtype == tf.string:
        return _parse_strings(content, count)
    if len(content) != count * dtype.size:
        raise ValueError(
            f"tensor_content has {len(content)} bytes, but {count} values of {dtype.name} take {count * dtype.size}"
        )
    return np.frombuffer(content, dtype.as_numpy_dtype)


def _parse_strings(content: bytes, count: int) -> np.ndarray:
    """Parses strings as TensorFlow packs them: all lengths as varints, then all bytes."""
    place = 0
    lengths: list[int] = []
    while len(lengths) < count:
        length, shift = 0, 0
        while True:
            if place == len(content) or shift > 28:  # A length has 32 bits.
                raise ValueError(f"tensor_content of {len(content)} bytes does not hold {count} strings")
            byte = content[place]
            length |= (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128:
                break
        lengths.append(length)
    if place + sum(lengths) != len(content):
        raise ValueError(
            f"tensor_content has {len(content)} bytes, but its {count} strings take {place + sum(lengths)}"
        )
    found = np.empty(count, np.object_)
    for number, length in enumerate(lengths):
        found[number] = content[place : place + length]
        place += length
    return found


def make_tensor(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Converts an array to a TensorProto, as clients send it."""
    return tf.make_tensor_proto(array)


def answer_tensor(array: np.ndarray, as_content: bool = False) -> tensor_pb2.TensorProto:
    """Converts an array to a TensorProto, as TensorFlow Serving answers it.

    Args:
      array: an output of a signature.
      as_content: if True, stores all values in `tensor_content`, as TensorFlow Serving does with
        `--enable_serialization_as_tensor_content`; this is faster for many values. If False, stores them in the field
        of their type, as TensorFlow Serving does by default, where some clients expect them.
    """
    is_text = array.dtype.kind in "OSU"
    dtype = tf.string if is_text else tf.dtypes.as_dtype(array.dtype)
    if dtype not in _VALUES:
        return tf.make_tensor_proto(array)
    proto = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum)
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = np.ravel(array)
    if is_text:
        strings = [one.encode() if isinstance(one, str) else bytes(one) for one in flat.tolist()]
        if as_content:
            proto.tensor_content = b"".join([*(_varint(len(one)) for one in strings), *strings])
        else:
            proto.string_val.extend(strings)
    elif as_content:
        proto.tensor_content = flat.tobytes()
    else:
        field, stored = _VALUES[dtype]
        if field == "half_val":
            flat = flat.view(np.uint16)
        elif dtype.is_complex:
            flat = flat.view(stored)
        getattr(proto, field).extend(flat.tolist())
    return proto


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
