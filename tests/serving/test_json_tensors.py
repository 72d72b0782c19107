import json
import math

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving_ext.serving import json_tensors
from tfserving_ext.serving.models import ServingError

TYPES = [tf.float32, tf.float64, tf.int8, tf.int32, tf.int64, tf.uint8, tf.uint64, tf.bool]
X = {"x": tf.float32}
IFS = {"i": tf.int64, "f": tf.float32, "s": tf.string}


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(TYPES), st.lists(st.integers(1, 4), max_size=3), st.integers(0, 2**32))
def test_any_array_comes_back_bit_for_bit(dtype, shape, seed):
    bits = np.random.default_rng(seed).bytes(math.prod(shape) * dtype.size)
    array = (
        np.frombuffer(bits, np.uint8).astype(bool) if dtype == tf.bool else np.frombuffer(bits, dtype.as_numpy_dtype)
    )
    array = array.reshape(shape)
    got = json_tensors.to_array(json.loads(json.dumps(json_tensors.to_json(array))), dtype)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


# x, and the text that TensorFlow Serving 2.20 writes for x/2 + 3 in float32.
@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.1, "3.05"), (-4.6, "0.700000048"), (1e20, "5e+19"), (246913578, "123456792.0"), (6.8e38, "Infinity"),
        (33.333333, "19.666666"), (0.00003, "3.00001502"), (19999990, "9999998.0"),
    ],
)  # fmt: skip
def test_writes_floats_as_serving_does(x, text):
    with np.errstate(over="ignore"):
        y = np.float32(x) / np.float32(2) + np.float32(3)
    assert json.dumps(json_tensors.to_json(np.array([y], np.float32))[0]) == text


def test_the_greatest_floats_come_back():
    array = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max, np.finfo(np.float32).tiny], np.float32)
    np.testing.assert_array_equal(json_tensors.to_array(json_tensors.to_json(array), tf.float32), array)


def test_outputs_named_bytes_are_base64():
    outputs = {"echo_bytes": np.array([b"hello"], object), "text": np.array([b"hello"], object)}
    assert json_tensors.column_outputs(outputs) == {"echo_bytes": [{"b64": "aGVsbG8="}], "text": ["hello"]}
    assert json_tensors.row_outputs(outputs) == [{"echo_bytes": {"b64": "aGVsbG8="}, "text": "hello"}]


def test_the_first_of_two_equal_keys_counts():
    assert json_tensors.read_request(b'{"inputs": [1], "inputs": [2]}') == {"inputs": [1]}


def test_base64_may_lack_its_padding():
    assert json_tensors.to_array({"b64": "aGVsbG8"}, tf.string).tolist() == b"hello"


def test_strings_and_bytes():
    array = np.array([["é日", "a"]], object)
    assert json_tensors.to_json(array) == [["é日", "a"]]
    assert json_tensors.to_json(np.array([b"\xff", "é".encode()], object)) == [{"b64": "/w=="}, "é"]
    got = json_tensors.to_array(["a", {"b64": "/w=="}], tf.string)
    assert got.tolist() == [b"a", b"\xff"]


def test_floats_have_the_digits_that_they_need():
    text = json.dumps(json_tensors.to_json(np.array([0.7, 1 / 3, 2**24, np.nan, np.inf], np.float32)))
    assert text == "[0.7, 0.333333343, 16777216.0, NaN, Infinity]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.0, ()), ([], (0,)), ([[]], (1, 0)), ([[1], [2]], (2, 1)), ([[[1, 2]]], (1, 1, 2))],
)
def test_shapes(value, expected):
    assert json_tensors.to_array(value, tf.float32).shape == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"  \n", "JSON Parse error: The document is empty. at offset: 3"),
        (b'{"inputs": 1e400}', "JSON Parse error: Number too big to be stored in double."),
        (b'{"inputs": 1} xyz', "JSON Parse error"),
        (b'{"instances": [1.0, 2.0}', "JSON Parse error: Missing a comma or ']' after an array element. at offset: 23"),
        (b'"x"', 'JSON Value: "x" Is not object'),
        (b"\xff\xfe{}", "JSON Parse error"),
        (b"[" * 200_000, "JSON Parse error"),
        (b'{"inputs": ' + b"[" * 200_000, "JSON Parse error"),
        (b'{"inputs": ' + b"9" * 10_000 + b"}", "JSON Parse error"),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"instances": [1.0], "inputs": [2.0]}', "expecting only one of 'inputs' or 'instances' keys to exist"),
        (b'{"signature_name": null, "inputs": 1}', "'signature_name' key must be a string value."),
        (
            b'{"signature_name": {"a": {"b": [1, 2]}}}',
            'JSON Value: {\n    "signature_name": {\n        "a": {\n            "b": [1, 2]\n        }\n    }\n} not formatted',
        ),
    ],
)
def test_refuses_other_requests(body, message):
    with pytest.raises(ServingError) as refused:
        json_tensors.read_request(body)
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert message in refused.value.message


ROWS = "Failed to process element: {} of 'instances' list. "


# TensorFlow Serving wraps any error of a row in an INVALID_ARGUMENT that names the row.
@pytest.mark.parametrize("named", [False, True])
def test_a_row_of_a_type_that_rest_does_not_carry_is_told_by_its_place(named):
    """The status is 400 in row form, where the row is named, and 501 in column form, as in TensorFlow Serving.

    First contact, line 21.
    """
    rows = [{"h": 1.5}] if named else [1.5]
    with pytest.raises(ServingError) as refused:
        json_tensors.rows(rows, {"h": tf.float16})
    place = ROWS.format("0 key: h") if named else ROWS.format(0)
    assert refused.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.message == f"{place}Error: UNIMPLEMENTED: Conversion of JSON Value: 1.5 to type: half"
    with pytest.raises(ServingError) as refused:
        json_tensors.columns({"h": [1.5]}, {"h": tf.float16})
    assert refused.value.code == grpc.StatusCode.UNIMPLEMENTED


# The error texts are TensorFlow Serving 2.20's, word for word.
@pytest.mark.parametrize(
    ("instances", "types", "message"),
    [
        ([1.0, "a"], X, ROWS.format(1) + 'Error: INVALID_ARGUMENT: JSON Value: "a" Type: String is not of expected type: float'),
        ([True], X, ROWS.format(0) + "Error: INVALID_ARGUMENT: JSON Value: true Type: True is not of expected type: float"),
        ([{"x": "a"}], X, ROWS.format("0 key: x") + 'Error: INVALID_ARGUMENT: JSON Value: "a" Type: String is not of expected type: float'),
        ([{"x": 1.0}, 2.0], X, "Expecting object but got list at item 1 of input list"),
        ([1.0, {"x": 2.0}], X, "Expecting value/list but got object at item 1 of input list"),
        ([], X, 'JSON Value: {\n    "instances": []\n} No values in \'instances\' array'),
        (1.0, X, 'JSON Value: {\n    "instances": 1.0\n} Expecting \'instances\' to be an list/array'),
        ([{}], X, ROWS.format(0) + "JSON object: {} keys must be equal to: x"),
        ([{"z": 2.0}], X, ROWS.format("0 key: z") + "Error: INVALID_ARGUMENT: JSON object: does not have named input: z"),
        ([{"x": [1.0, 2.0]}, {"x": [3.0]}], X, ROWS.format("1 key: x") + "Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1"),
        ([{"b64": "__4A"}], {"s": tf.string}, ROWS.format(0) + "Error: INVALID_ARGUMENT: Unable to base64 decode"),
        ([1.0, [3.0]], X, ROWS.format(1) + "Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]"),
        ([1, 2], IFS, "instances is a plain list, but expecting list of objects as multiple input tensors required as per tensorinfo_map"),
        ([{"i": 1, "f": 1.5}], IFS, ROWS.format(0) + 'JSON object: {\n    "i": 1,\n    "f": 1.5\n} keys must be equal to: f,i,s'),
        ([9223372036854775808], {"i": tf.int64}, ROWS.format(0) + "Error: INVALID_ARGUMENT: JSON Value: 9223372036854775808 Type: Number is not of expected type: int64"),
        ([1.0], {"i": tf.int64}, ROWS.format(0) + "Error: INVALID_ARGUMENT: JSON Value: 1.0 Type: Number is not of expected type: int64"),
        ([5], {"s": tf.string}, ROWS.format(0) + "Error: INVALID_ARGUMENT: JSON Value: 5 Type: Number is not of expected type: string"),
    ],
)  # fmt: skip
def test_refuses_bad_rows(instances, types, message):
    with pytest.raises(ServingError) as refused:
        json_tensors.rows(instances, types)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("value", "types", "message"),
    [
        ({}, X, "Missing named input: x in 'inputs' object."),
        ({"z": [1.0]}, X, "Missing named input: x in 'inputs' object."),
        (None, X, "JSON Value: null Type: Null is not of expected type: float"),
        ([1, 2], IFS, "inputs is a plain value/list, but expecting an object as multiple input tensors required as per tensorinfo_map"),
        ({"x": [[1.0, 2.0], [3.0]]}, X, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ([[1.0], 2.0], X, "JSON Value: 2.0 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        (["\ud83d"], {"s": tf.string}, "JSON Parse error: The surrogate pair in string is invalid."),
        ([-1], {"u": tf.uint64}, "JSON Value: -1 Type: Number is not of expected type: uint64"),
    ],
)  # fmt: skip
def test_refuses_bad_columns(value, types, message):
    with pytest.raises(ServingError) as refused:
        json_tensors.columns(value, types)
    assert refused.value.message == message


def test_half_precision_does_not_travel_by_json():
    with pytest.raises(ServingError) as refused:
        json_tensors.to_array([1.5], tf.float16)
    assert refused.value.code == grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.message == "Conversion of JSON Value: 1.5 to type: half"
    with pytest.raises(ServingError, match="Failed to write JSON value for tensor type: half"):
        json_tensors.to_json(np.zeros(2, np.float16))


def test_lists_beyond_any_rank_are_refused():
    value = 1.0
    for _ in range(200):
        value = [value]
    with pytest.raises(ServingError, match="nested more than 32 deep"):
        json_tensors.to_array(value, tf.float32)


def test_rows_out():
    both = {"a": np.array([1, 2]), "b": np.array([[1.0], [2.0]])}
    assert json_tensors.row_outputs(both) == [{"a": 1, "b": [1.0]}, {"a": 2, "b": [2.0]}]
    assert json_tensors.row_outputs({"a": np.array([1, 2])}) == [1, 2]
    with pytest.raises(ServingError, match="Tensor name: total has no shape information"):
        json_tensors.row_outputs({"total": np.float32(1)})
    with pytest.raises(ServingError, match="different numbers of rows"):
        json_tensors.row_outputs({"a": np.zeros(2), "b": np.zeros(3)})
