import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

from tfserving_ext.serving.tensors import MAX_TENSOR_BYTES, make_tensor, parse_tensor

TYPES = [tf.float32, tf.float64, tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64]
TYPES += [tf.bool, tf.float16, tf.bfloat16]
FIELDS = ["float_val", "double_val", "int_val", "int64_val", "bool_val", "string_val", "half_val", "uint32_val"]


def proto(dtype, shape, **values):
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape]
    shape = tensor_shape_pb2.TensorShapeProto(dim=dims)
    return tensor_pb2.TensorProto(dtype=dtype, tensor_shape=shape, **values)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(TYPES), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**32), st.booleans())
def test_any_array_comes_back(dtype, shape, seed, as_values):
    rng = np.random.default_rng(seed)
    array = (rng.normal(size=shape) * 50).astype(dtype.as_numpy_dtype)
    sent = make_tensor(array)
    if as_values:  # make_tensor_proto uses tensor_content; other clients send the values one by one.
        field = {
            tf.float32: "float_val",
            tf.float64: "double_val",
            tf.int64: "int64_val",
            tf.bool: "bool_val",
            tf.uint32: "uint32_val",
            tf.uint64: "uint64_val",
            tf.float16: "half_val",
            tf.bfloat16: "half_val",
        }.get(dtype, "int_val")
        values = array.ravel().view(np.uint16) if field == "half_val" else array.ravel()
        sent = proto(sent.dtype, shape, **{field: values.tolist()})
    got = parse_tensor(sent)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(got, tf.make_ndarray(sent))


def test_strings_come_back():
    array = np.array([[b"a", b"\xff\x00"], [b"", "é".encode()]], object)
    assert parse_tensor(make_tensor(array)).tolist() == array.tolist()


@pytest.mark.parametrize(
    ("shape", "values", "expected"),
    [
        ([3], [1.0, 2.0], [1, 2, 2]),
        ([2], [1.0, 2.0, 3.0], [1, 2]),
        ([2], [], [0, 0]),
        ([], [], 0),
        ([0], [5.0], []),
    ],
)
def test_too_few_and_too_many_values(shape, values, expected):
    assert parse_tensor(proto(types_pb2.DT_FLOAT, shape, float_val=values)).tolist() == expected


def test_an_unknown_rank_is_rank_0():
    shape = tensor_shape_pb2.TensorShapeProto(unknown_rank=True)
    sent = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=shape, float_val=[1.0])
    assert parse_tensor(sent).shape == ()


BAD = {
    "no type": tensor_pb2.TensorProto(),
    "type out of range": proto(999, [1], float_val=[1]),
    "reference type": proto(types_pb2.DT_FLOAT_REF, [1], float_val=[1]),
    "resource": proto(types_pb2.DT_RESOURCE, [1]),
    "variant": proto(types_pb2.DT_VARIANT, [1]),
    "negative dimension": proto(types_pb2.DT_FLOAT, [-1], float_val=[1]),
    "two negative dimensions": proto(types_pb2.DT_FLOAT, [-2, -3], float_val=[1]),
    "short content": proto(types_pb2.DT_FLOAT, [2], tensor_content=b"1234"),
    "long content": proto(types_pb2.DT_FLOAT, [2], tensor_content=b"123456789012"),
    "content of strings": proto(types_pb2.DT_STRING, [1], tensor_content=b"12345678"),
    "one value for a huge shape": proto(types_pb2.DT_FLOAT, [1 << 40, 1 << 40], float_val=[1]),
    "a product beyond 64 bits": proto(types_pb2.DT_FLOAT, [1 << 62, 4], float_val=[1]),
    "just too large": proto(types_pb2.DT_DOUBLE, [MAX_TENSOR_BYTES // 8 + 1], double_val=[1]),
    "many strings": proto(types_pb2.DT_STRING, [MAX_TENSOR_BYTES], string_val=[b"a"]),
    "a long string for many": proto(types_pb2.DT_STRING, [100_000], string_val=[b"a" * 1024]),
    "rank 33": proto(types_pb2.DT_FLOAT, [1] * 33, float_val=[1]),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name):
    with pytest.raises(ValueError, match=r"type|shape|rank|tensor_content"):
        parse_tensor(BAD[name])


@settings(deadline=None, max_examples=300)
@given(
    st.integers(-3, 130),
    st.lists(st.integers(-2, 5), max_size=3),
    st.binary(max_size=24),
    st.sampled_from(FIELDS),
    st.integers(0, 3),
)
def test_no_proto_raises_anything_else(dtype, shape, content, field, count):
    value = b"x" if field == "string_val" else True if field == "bool_val" else 1
    try:
        got = parse_tensor(proto(dtype, shape, tensor_content=content, **{field: [value] * count}))
    except ValueError:
        return
    assert list(got.shape) == shape
