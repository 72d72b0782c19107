"""A server of TensorFlow Serving's REST API."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import numpy as np
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.scenario import ModelSpec
from tfserving_ext.loadtest.targets.target import TIMED_OUT, UNREACHABLE, TargetError, with_defaults
from tfserving_ext.serving.client import no_answer
from tfserving_ext.serving.json_tensors import to_json
from tfserving_ext.serving.models import ServingError
from tfserving_ext.serving.tls import ClientTls

ADMIN_SECONDS = 10.0
CONNECTIONS = 512  # The event loop uses select, which supports only file descriptors below 1024.
MAX_ADMIN_BYTES = 16 << 20


class RestRequest(NamedTuple):
    """A prepared request.

    Attributes:
      url: the URL of the model's `:predict`.
      body: the JSON body.
    """

    url: str
    body: bytes


class RestTarget:
    """A REST server; see `Target`."""

    kind = "rest"
    shared_process = False

    def __init__(self, url: str, tls: ClientTls | None = None) -> None:
        """Creates a target for an address such as http://127.0.0.1:8501, with certificates if the server uses TLS."""
        self.address, self._tls = url, tls
        self._signatures: dict[str, dict[str, Any]] = {}

    async def open(self) -> None:
        """Creates the pool of connections; only `signatures` notices if no server answers."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ssl=True if self._tls is None else self._tls.context()),
            headers={"Content-Type": "application/json"},
            # Do not measure a proxy that the environment configures.
            trust_env=False,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    async def signatures(self, model: ModelSpec) -> dict[str, Any]:
        """See `Target`."""
        try:
            answer = await self._get(f"{self._model(model)}/metadata")
        except TargetError as error:
            if error.code == UNREACHABLE:
                raise NannError(no_answer(self.address, error.message)) from error
            raise NannError(f"{self.address} on model {model.name!r}: {error}") from error
        found = get_model_metadata_pb2.SignatureDefMap()
        try:
            json_format.ParseDict(answer["metadata"]["signature_def"], found, ignore_unknown_fields=True)
        except (KeyError, TypeError, json_format.ParseError) as error:
            raise NannError(f"{self.address} did not answer with the signatures of model {model.name!r}") from error
        self._signatures[model.name] = dict(found.signature_def)
        return self._signatures[model.name]

    def prepare(self, model: ModelSpec, inputs: Mapping[str, np.ndarray]) -> RestRequest:
        """Encodes a `:predict` request in column form."""
        full = with_defaults(self._signatures[model.name][model.signature], inputs)
        try:
            columns = {name: to_json(_json_shaped(array)) for name, array in full.items()}
        except ServingError as error:
            raise NannError(f"REST cannot call signature {model.signature!r}: {error.message}; use gRPC") from error
        body = {"signature_name": model.signature, "inputs": columns}
        return RestRequest(f"{self._model(model)}:predict", json.dumps(body).encode())

    async def send(self, request: RestRequest, timeout: float) -> bytes:
        """See `Target`."""
        return await self._call("POST", request.url, request.body, timeout)

    async def ask(self, model: ModelSpec, inputs: Mapping[str, np.ndarray], timeout: float) -> dict[str, np.ndarray]:
        """See `Target`."""
        request = self.prepare(model, inputs)
        answer = _object(await self._call("POST", request.url, request.body, timeout))
        outputs = answer.get("outputs")
        if isinstance(outputs, dict):
            return {name: np.asarray(value) for name, value in outputs.items()}
        return {"output": np.asarray(outputs)}  # A signature's only output comes without its name.

    async def versions(self, model: str) -> dict[int, bool]:
        """See `Target`."""
        answer = await self._get(f"{self.address}/v1/models/{model}")
        found = answer.get("model_version_status", [])
        return {
            int(one["version"]): one.get("state") == "AVAILABLE"
            for one in found
            if one.get("state") == "AVAILABLE" or one.get("status", {}).get("error_code", "OK") != "OK"
        }

    def _model(self, model: ModelSpec) -> str:
        version = "" if model.version is None else f"/versions/{model.version}"
        return f"{self.address}/v1/models/{model.name}{version}"

    async def _get(self, url: str) -> dict[str, Any]:
        return _object(await self._call("GET", url, None, ADMIN_SECONDS, MAX_ADMIN_BYTES))

    async def _call(self, method: str, url: str, body: bytes | None, timeout: float, most: int | None = None) -> bytes:
        try:
            limit = aiohttp.ClientTimeout(total=timeout)
            async with self._session.request(method, url, data=body, timeout=limit) as answer:
                raw = await (answer.read() if most is None else _read(answer, most))
                if answer.status == 200:
                    return raw
                raise TargetError(f"HTTP {answer.status}", _error_of(raw))
        except asyncio.TimeoutError:
            raise TargetError(TIMED_OUT, f"no answer in {timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise TargetError(UNREACHABLE, str(error) or type(error).__name__) from None


def _json_shaped(array: np.ndarray) -> np.ndarray:
    """Reshapes an empty array to (1, ..., 1, 0): nested JSON lists cannot express a shape such as (0, 0)."""
    return array if array.size or array.ndim < 2 else array.reshape((1,) * (array.ndim - 1) + (0,))


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    found = bytearray()
    async for part in answer.content.iter_any():
        found += part
        if len(found) > most:
            raise TargetError(f"HTTP {answer.status}", f"the answer has more than {most:,} bytes")
    return bytes(found)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise TargetError("HTTP 200", f"the answer is not a JSON object: {raw[:80]!r}")
    return answer


def _error_of(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["error"])
    except (ValueError, KeyError, TypeError):
        return raw[:200].decode(errors="replace")
