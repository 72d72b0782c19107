"""The gRPC services: PredictionService and ModelService with TensorFlow Serving's protos, and health."""

import concurrent.futures
import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import any_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tfserving_ext.errors import NannError
from tfserving_ext.serving.models import ServingError, invalid
from tfserving_ext.serving.predict import Models
from tfserving_ext.serving.tensors import make_tensor, parse_tensor

MAX_MESSAGE_BYTES = 128 << 20
MAX_ERROR_BYTES = 1024  # As in TensorFlow Serving.
THREADS = 16


def _answers(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """Turns refusals into gRPC statuses."""

    @functools.wraps(method)
    def handler(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request)
        except ServingError as error:
            context.abort(error.code, error.message.encode()[:MAX_ERROR_BYTES].decode(errors="ignore"))
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"[:MAX_ERROR_BYTES])

    return handler


class _Prediction(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, models: Models) -> None:
        self._models = models

    @_answers
    def Predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:  # noqa: N802
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        signature = self._models.find(request.model_spec)[1].signature(request.model_spec.signature_name)
        # A few bytes can stand for 64 MiB, so only what the signature takes is read.
        signature.check_names(set(request.inputs))
        inputs = {}
        for name in sorted(set(signature.proto.inputs) & set(request.inputs)):
            try:
                inputs[name] = parse_tensor(request.inputs[name])
            except ValueError as error:
                raise invalid(f"tensor parsing error: {name}") from error
        answer = self._models.predict(request.model_spec, inputs, list(request.output_filter))
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = answer.version
        response.model_spec.signature_name = request.model_spec.signature_name or "serving_default"
        for name, array in answer.outputs.items():
            response.outputs[name].CopyFrom(make_tensor(array))
        return response

    @_answers
    def GetModelMetadata(  # noqa: N802
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid(f"Metadata field {field} is not supported")
        spec, signatures = self._models.signature_defs(request.model_spec)
        packed = any_pb2.Any()
        packed.Pack(signatures)
        return get_model_metadata_pb2.GetModelMetadataResponse(model_spec=spec, metadata={"signature_def": packed})


class _Model(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, models: Models) -> None:
        self._models = models

    @_answers
    def GetModelStatus(  # noqa: N802
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        if not request.HasField("model_spec"):
            raise invalid("Missing ModelSpec")
        return self._models.status(request.model_spec)


def start(models: Models, host: str, port: int) -> tuple[grpc.Server, int]:
    """Starts the gRPC server; returns it and its port.

    Args:
      models: what to serve.
      host: the address to listen on.
      port: 0 for a free one.

    Raises:
      NannError: the port is in use.
    """
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(THREADS),
        options=[
            # Two servers that share a port would answer by turns.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_Prediction(models), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Model(models), server)
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError:
        bound = 0
    if not bound:
        raise NannError(f"cannot listen for gRPC on {address}: in use, or not an address of this machine")
    server.start()
    return server, bound
