import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import attr_value_pb2, tensor_pb2, tensor_shape_pb2, types_pb2

from tfserving_ext.serving.tensors import MAX_TENSOR_BYTES, answer_tensor, make_tensor, parse_tensor

TYPES = [tf.float32, tf.float64, tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64]
TYPES += [tf.bool, tf.float16, tf.bfloat16, tf.complex64, tf.complex128]
FIELDS = ["float_val", "double_val", "int_val", "int64_val", "bool_val", "string_val", "half_val", "uint32_val"]
FIELDS += ["uint64_val", "scomplex_val", "dcomplex_val"]


def proto(dtype, shape, **values):
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape]
    shape = tensor_shape_pb2.TensorShapeProto(dim=dims)
    return tensor_pb2.TensorProto(dtype=dtype, tensor_shape=shape, **values)


@pytest.mark.medium
@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(TYPES),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 2**32),
    st.sampled_from(["sent", "values", "content"]),
)
@example(tf.bfloat16, [2, 2, 3, 3], 0, "sent")  # Holds NaN.
def test_any_array_comes_back(dtype, shape, seed, form):
    """Every type that a model can have, complex ones too, comes back from values and from bytes.

    First contact, line 21.
    """
    bits = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.size)
    array = np.frombuffer(bits, np.uint8) % 2 if dtype == tf.bool else np.frombuffer(bits, dtype.as_numpy_dtype)
    array = array.astype(dtype.as_numpy_dtype).reshape(shape)
    sent = make_tensor(array) if form == "sent" else answer_tensor(array, form == "content")
    assert bool(sent.tensor_content) <= (form != "values")
    got = parse_tensor(sent)
    assert got.dtype == array.dtype
    # NumPy treats NaN as equal to NaN only in its own types, which bfloat16 is not.
    plain = np.float32 if dtype == tf.bfloat16 else array.dtype
    np.testing.assert_array_equal(got.astype(plain), array.astype(plain))
    np.testing.assert_array_equal(got.astype(plain), tf.make_ndarray(sent).astype(plain))


def as_tensorflow_reads(sent):
    """Parses a proto by `Tensor::FromProto`, which TensorFlow Serving uses, through a constant op."""
    with tf.Graph().as_default() as graph:
        graph.create_op(
            "Const",
            [],
            [sent.dtype],
            name="c",
            attrs={
                "value": attr_value_pb2.AttrValue(tensor=sent),
                "dtype": attr_value_pb2.AttrValue(type=sent.dtype),
            },
        )
        with tf.compat.v1.Session(graph=graph) as session:
            return session.run("c:0")


@pytest.mark.parametrize("dtype", [types_pb2.DT_HALF, types_pb2.DT_BFLOAT16, types_pb2.DT_INT8, types_pb2.DT_UINT8,
                                   types_pb2.DT_INT16, types_pb2.DT_UINT16])  # fmt: skip
def test_a_field_that_is_wider_than_its_type_gives_its_low_bits(dtype):
    """Clients with signed 16-bit words send negative half_val. First contact, line 21."""
    field = "half_val" if dtype in (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16) else "int_val"
    values = [15360, -17408, 65536 + 15360, -1, -(2**31), 2**31 - 1, 300, -200]
    sent = proto(dtype, [len(values)], **{field: values})
    np.testing.assert_array_equal(parse_tensor(sent).astype(np.float64), as_tensorflow_reads(sent).astype(np.float64))


def test_strings_as_content_are_read_and_written_as_tensorflow_packs_them():
    array = np.array([b"a", b"", b"x" * 300, "é".encode()], object)
    packed = answer_tensor(array, as_content=True)
    assert packed.tensor_content and not packed.string_val
    assert parse_tensor(packed).tolist() == array.tolist() == as_tensorflow_reads(packed).tolist()


def test_half_of_a_complex_number_is_none():
    sent = proto(types_pb2.DT_COMPLEX64, [2], scomplex_val=[1.0, 2.0, 3.0])
    assert parse_tensor(sent).tolist() == as_tensorflow_reads(sent).tolist() == [1 + 2j, 1 + 2j]


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
    "content of too few strings": proto(types_pb2.DT_STRING, [3], tensor_content=b"\x00\x00"),
    "a length of strings without end": proto(types_pb2.DT_STRING, [1], tensor_content=b"\xff" * 9),
    "a quantized type": proto(types_pb2.DT_QINT8, [1], int_val=[1]),
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
