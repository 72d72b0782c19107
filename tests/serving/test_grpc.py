"""PredictionService and ModelService over the wire; the error texts are TensorFlow Serving 2.20's."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.serving.test_tensors import BAD


@pytest.fixture
def channel(toy_server):
    with grpc.insecure_channel(toy_server.target) as channel:
        yield channel


@pytest.fixture
def predict(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def call(inputs, signature="", outputs=(), name="half_plus", version=None, label=None):
        request = predict_pb2.PredictRequest(output_filter=outputs)
        request.model_spec.name, request.model_spec.signature_name = name, signature
        if version is not None:
            request.model_spec.version.value = version
        if label is not None:
            request.model_spec.version_label = label
        for key, value in inputs.items():
            proto = value if isinstance(value, tensor_pb2.TensorProto) else tf.make_tensor_proto(value)
            request.inputs[key].CopyFrom(proto)
        return stub.Predict(request, 10)

    return call


def refused(call, code, message):
    with pytest.raises(grpc.RpcError) as error:
        call()
    assert error.value.code() == code
    assert error.value.details() == message
    return error.value


X = np.array([1, 2], np.float32)
TYPES = {"i": np.array([1]), "h": np.ones([1, 2], np.float16), "s": np.array([b"q"])}
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def test_predict(predict):
    response = predict({"x": X})
    assert tf.make_ndarray(response.outputs["y"]).tolist() == [2.5, 3.0]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("half_plus", 10, "serving_default")


def test_every_type(predict):
    outputs = predict(TYPES, "types").outputs
    got = {name: tf.make_ndarray(value).tolist() for name, value in outputs.items()}
    assert got == {"i_out": [2], "h_out": [[2.0, 2.0]], "s_out": [b"q!"], "flag": [True]}
    assert outputs["h_out"].dtype == tf.float16.as_datatype_enum


def test_the_output_filter(predict):
    assert set(predict(TYPES, "types", ["flag", "i_out"]).outputs) == {"flag", "i_out"}


def test_shapes_are_left_to_the_graph(predict):
    assert tf.make_ndarray(predict({"x": X.reshape(1, 2)}).outputs["y"]).tolist() == [[2.5, 3.0]]
    assert tf.make_ndarray(predict({"x": np.zeros(0, np.float32)}).outputs["y"]).tolist() == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ({"name": "nope"}, NOT_FOUND, "Servable not found for request: Latest(nope)"),
        ({"version": 77}, NOT_FOUND, "Servable not found for request: Specific(half_plus, 77)"),
        ({"version": 0}, NOT_FOUND, "Servable not found for request: Specific(half_plus, 0)"),
        ({"name": ""}, INVALID, "ModelSpec has no name specified."),
        ({"label": "nope"}, INVALID, "Unrecognized servable version label: nope"),
        # In a oneof, an empty label counts as sent; no version has it.
        ({"label": ""}, INVALID, "Unrecognized servable version label: "),
        ({"signature": "nope"}, grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "nope" not found.'),
        (
            {"outputs": ["nope"]},
            INVALID,
            "output tensor alias not found in signature: nope Outputs expected to be in the set {y}.",
        ),
        ({"outputs": ["y", "y"]}, INVALID, "duplicate output tensor alias: y"),
        ({"inputs": {"x": np.array([1])}}, INVALID, "Expects arg[0] to be float but int64 is provided"),
        ({"inputs": {"x": np.array([1.0])}}, INVALID, "Expects arg[0] to be float but double is provided"),
        ({"inputs": {"x": np.array([b"a"])}}, INVALID, "Expects arg[0] to be float but string is provided"),
        ({"inputs": {"x": np.array([True])}}, INVALID, "Expects arg[0] to be float but bool is provided"),
        (
            {"signature": "types", "inputs": {**TYPES, "i": np.array([1], np.int32)}},
            INVALID,
            "Expects arg[1] to be int64 but int32 is provided",
        ),
        (
            {"signature": "types", "inputs": {"i": np.array([1])}},
            INVALID,
            "input size does not match signature: 1!=3 len({i}) != len({h,i,s}). Sent extra: {}. "
            "Missing but required: {h,s}.",
        ),
        (
            {"inputs": {"x": X, "z": X}},
            INVALID,
            "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. "
            "Missing but required: {}.",
        ),
        (
            {"inputs": {"X": X}},
            INVALID,
            "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value "
            "provided. Inputs expected to be in the request {X}, or default input alias set: ",
        ),
    ],
)
def test_refusals(predict, arguments, code, message):
    refused(lambda: predict(**{"inputs": {"x": X}, **arguments}), code, message)
    test_predict(predict)


@pytest.mark.parametrize("name", BAD)
def test_bad_tensors(predict, name):
    refused(lambda: predict({"x": BAD[name]}), INVALID, "tensor parsing error: x")
    test_predict(predict)


def test_nothing_is_read_before_the_names_are_checked(predict):
    """A tensor of a few bytes can expand to 64 MiB; these cannot be parsed, so another error shows that none was."""
    many = {f"e{number}": BAD["negative dimension"] for number in range(100)}
    with pytest.raises(grpc.RpcError, match="input size does not match signature: 100!=1"):
        predict(many)
    refused(
        lambda: predict({"x": BAD["negative dimension"]}, "nope"),
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nope" not found.',
    )
    test_predict(predict)


def test_an_error_of_the_graph(predict):
    with pytest.raises(grpc.RpcError) as error:
        predict({"i": np.array([0, 7], np.int32)}, "third")
    assert error.value.code() == INVALID
    assert error.value.details().startswith("indices[1] = 7 is not in [0, 3)\n\t [[{{function_node ")


def test_long_errors_are_cut(predict):
    with pytest.raises(grpc.RpcError) as error:
        predict({"x": np.array([-1], np.float32)}, "long_error")
    assert error.value.code() == INVALID
    assert len(error.value.details().encode()) == 1024 + len("...TRUNCATED")


def test_no_model_spec(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    refused(lambda: stub.Predict(predict_pb2.PredictRequest(), 10), INVALID, "Missing ModelSpec")
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    refused(lambda: stub.GetModelMetadata(request, 10), INVALID, "Missing ModelSpec")


def test_metadata(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half_plus"
    response = stub.GetModelMetadata(request, 10)
    assert response.model_spec.version.value == 10
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    found = signatures.signature_def
    assert {"serving_default", "third", "types", "rest", "total", "long_error"} <= set(found)
    assert found["types"].inputs["h"].dtype == tf.float16.as_datatype_enum
    assert [dim.size for dim in found["types"].inputs["h"].tensor_shape.dim] == [-1, 2]
    request.metadata_field[:] = ["foo"]
    refused(lambda: stub.GetModelMetadata(request, 10), INVALID, "Metadata field foo is not supported")
    del request.metadata_field[:]
    message = "GetModelMetadataRequest must specify at least one metadata_field"
    refused(lambda: stub.GetModelMetadata(request, 10), INVALID, message)
    request.metadata_field.append("signature_def")
    request.model_spec.name = "nope"
    message = "Servable not found for request: Latest(nope)"
    refused(lambda: stub.GetModelMetadata(request, 10), NOT_FOUND, message)


def test_status(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half_plus"
    for version in (None, 10):
        if version:
            request.model_spec.version.value = version
        (status,) = stub.GetModelStatus(request, 10).model_version_status
        assert (status.version, status.state, status.status.error_code) == (10, status.AVAILABLE, 0)
        assert status.HasField("status")
    request.model_spec.version.value = 2
    refused(lambda: stub.GetModelStatus(request, 10), NOT_FOUND, "Could not find version 2 of model half_plus")
    request.model_spec.Clear()
    message = "Could not find any versions of model "
    refused(
        lambda: stub.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(model_spec={}), 10), NOT_FOUND, message
    )
    request.model_spec.name = "nope"
    refused(lambda: stub.GetModelStatus(request, 10), NOT_FOUND, "Could not find any versions of model nope")


def test_health(channel):
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), 10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
