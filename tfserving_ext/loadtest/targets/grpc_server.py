"""A server of TensorFlow Serving's gRPC API."""

import itertools
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import ModelSpec
from tfserving_ext.loadtest.targets.target import UNREACHABLE, TargetError
from tfserving_ext.serving.client import MAX_MESSAGE_BYTES, no_answer
from tfserving_ext.serving.tensors import make_tensor, parse_tensor
from tfserving_ext.serving.tls import ClientTls

_PREDICTION, _MODEL = "/tensorflow.serving.PredictionService/", "/tensorflow.serving.ModelService/"
CONNECTIONS = 8  # Several, because many servers handle each connection on one thread.
ADMIN_SECONDS = 10.0


class GrpcTarget:
    """A gRPC server; see `Target`. Messages are sent and received as bytes, so that protobuf's time is not measured."""

    kind = "grpc"
    shared_process = False

    def __init__(self, address: str, tls: ClientTls | None = None) -> None:
        """Creates a target for HOST:PORT, with certificates if the server uses TLS."""
        self.address, self._tls = address, tls
        self._channels: list[grpc.aio.Channel] = []

    async def open(self) -> None:
        """Creates the connections; only `signatures` notices if no server answers."""
        credentials = None if self._tls is None else self._tls.credentials()
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            # Reconnect soon after a server restarts.
            ("grpc.max_reconnect_backoff_ms", 1000),
        ]
        try:
            self._channels = [
                grpc.aio.insecure_channel(self.address, options)
                if credentials is None
                else grpc.aio.secure_channel(self.address, credentials, options)
                for _ in range(CONNECTIONS)
            ]
        except (ValueError, RuntimeError) as error:
            raise NannError(f"{self.address!r} is not an address such as 127.0.0.1:8500") from error
        calls = [channel.unary_unary(_PREDICTION + "Predict") for channel in self._channels]
        self._calls = itertools.cycle(calls)

    async def close(self) -> None:
        """Closes the connections."""
        for channel in self._channels:
            await channel.close()

    async def signatures(self, model: ModelSpec) -> dict[str, Any]:
        """See `Target`."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        _set_model(request.model_spec, model)
        try:
            raw = await self._admin(_PREDICTION + "GetModelMetadata", request)
        except TargetError as error:
            if error.code == UNREACHABLE:
                raise NannError(no_answer(self.address, error.message)) from error
            raise NannError(f"{self.address} on model {model.name!r}: {error}") from error
        found = get_model_metadata_pb2.SignatureDefMap()
        get_model_metadata_pb2.GetModelMetadataResponse.FromString(raw).metadata["signature_def"].Unpack(found)
        return dict(found.signature_def)

    def prepare(self, model: ModelSpec, inputs: Mapping[str, np.ndarray]) -> bytes:
        """Serializes a PredictRequest."""
        request = predict_pb2.PredictRequest()
        _set_model(request.model_spec, model)
        request.model_spec.signature_name = model.signature
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(make_tensor(array))
        return request.SerializeToString()

    async def send(self, request: bytes, timeout: float) -> bytes:
        """See `Target`."""
        return await self._call(next(self._calls), request, timeout)

    async def ask(self, model: ModelSpec, inputs: Mapping[str, np.ndarray], timeout: float) -> dict[str, np.ndarray]:
        """See `Target`."""
        raw = await self._call(next(self._calls), self.prepare(model, inputs), timeout)
        return {
            name: parse_tensor(value) for name, value in predict_pb2.PredictResponse.FromString(raw).outputs.items()
        }

    async def versions(self, model: str) -> dict[int, bool]:
        """See `Target`."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        raw = await self._admin(_MODEL + "GetModelStatus", request)
        status = get_model_status_pb2.GetModelStatusResponse.FromString(raw)
        available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        return {
            one.version: one.state == available
            for one in status.model_version_status
            if one.state == available or one.status.error_code
        }

    async def _admin(self, method: str, request: Any) -> bytes:
        return await self._call(self._channels[0].unary_unary(method), request.SerializeToString(), ADMIN_SECONDS)

    async def _call(self, call: Any, request: bytes, timeout: float) -> bytes:
        try:
            return await call(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise TargetError(error.code().name, error.details() or "") from None


def _set_model(spec: Any, model: ModelSpec) -> None:
    spec.name = model.name
    if model.version is not None:
        spec.version.value = model.version
