"""Tensors in requests: checked before anything is allocated for them."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

MAX_TENSOR_BYTES = 64 << 20
MAX_RANK = 32
STRING_BYTES = 24  # What a string takes in TensorFlow, whatever it holds.

# Where a TensorProto keeps the values of a type, and the type that they have there.
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
    tf.float16: ("half_val", np.uint16),
    tf.bfloat16: ("half_val", np.uint16),
}


def parse_tensor(proto: tensor_pb2.TensorProto) -> np.ndarray:
    """The array that a TensorProto holds, read as TensorFlow Serving reads it.

    Fewer values than the shape has room for: the last one is repeated, or zero where there is none; further values are
    ignored; an unknown rank counts as rank 0. Strings are object arrays of bytes. Unlike in
    TensorFlow Serving, a tensor's size is limited.

    Raises:
      ValueError: no type, a type that requests cannot have, a negative dimension, a shape of more than 64 MiB, or
        `tensor_content` of the wrong length.
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
        if dtype == tf.string or len(proto.tensor_content) != count * item_bytes:
            raise ValueError(f"tensor_content has {len(proto.tensor_content)} bytes, which is not what {shape} takes")
        return np.frombuffer(proto.tensor_content, dtype.as_numpy_dtype).reshape(shape)
    sent = getattr(proto, field)[:count]
    if dtype == tf.string and sent:
        # The session copies a string for each element, also where one string stands for many.
        text_bytes = sum(map(len, sent)) + (count - len(sent)) * len(sent[-1])
        if text_bytes > MAX_TENSOR_BYTES:
            raise ValueError(f"shape {shape} of these strings takes more than {MAX_TENSOR_BYTES} bytes")
    values: np.ndarray = np.array(sent, stored)
    if len(values) < count:
        last = values[-1] if len(values) else (b"" if dtype == tf.string else 0)
        values = np.concatenate([values, np.full(count - len(values), last, stored)])
    if field == "half_val":
        values = values.view(dtype.as_numpy_dtype)
    return values.astype(dtype.as_numpy_dtype, copy=False).reshape(shape)


def make_tensor(array: np.ndarray) -> tensor_pb2.TensorProto:
    """The TensorProto of an array."""
    return tf.make_tensor_proto(array)
