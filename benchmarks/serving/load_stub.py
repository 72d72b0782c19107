"""A server with TensorFlow Serving's APIs that computes nothing: it waits, stalls and fails as set, and keeps a log.

python -m benchmarks.serving.load_stub --service fixed:5
"""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import grpc
import grpc.aio
import typer
from aiohttp import web
from google.protobuf import any_pb2, json_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.engine import run_loop

STALL_EVERY, STALL_SECONDS = 5.0, 0.2


@dataclass
class Behaviour:
    """How requests are answered.

    Attributes:
      service: the time to answer: "none" for at once, "fixed:MS", or "bimodal:MS:MS:PART", which draws the second time
        for PART percent of requests.
      stall: answer nothing for 200 ms, every 5 seconds.
      errors: percentage of requests that fail.
      lead: how many milliseconds before its time an answer is sent, to make up for sockets and Python on both sides.
      seed: seed of the draws.
    """

    service: str = "none"
    stall: bool = False
    errors: float = 0.0
    lead: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Reads `service`."""
        self._random = random.Random(self.seed)
        kind, *numbers = self.service.split(":")
        wanted = {"none": 0, "fixed": 1, "bimodal": 3}
        if kind not in wanted or len(numbers) != wanted[kind]:
            raise NannError(f"service is {self.service!r}, it must be none, fixed:MS or bimodal:MS:MS:PART")
        self._kind, self._numbers = kind, [float(number) for number in numbers]

    def seconds(self) -> float:
        """Returns how long the next request takes."""
        if self._kind == "none":
            return 0.0
        if self._kind == "fixed":
            return self._numbers[0] / 1000
        first, second, part = self._numbers
        return (second if self._random.random() < part / 100 else first) / 1000

    def fails(self) -> bool:
        """Returns whether the next request fails."""
        return self._random.random() < self.errors / 100

    def end_of_stall(self, now: float) -> float:
        """Returns when a request due at `now` can be answered, both in seconds from the start: after any stall."""
        inside = now % STALL_EVERY
        return now - inside + STALL_SECONDS if self.stall and now >= STALL_EVERY and inside < STALL_SECONDS else now


def signatures() -> get_model_metadata_pb2.SignatureDefMap:
    """Returns the signatures of the stub's model, which takes `x`, float32 [batch, 4], and returns `y`."""
    found = get_model_metadata_pb2.SignatureDefMap()
    signature: meta_graph_pb2.SignatureDef = found.signature_def["serving_default"]
    for name, info in (("x", signature.inputs["x"]), ("y", signature.outputs["y"])):
        info.name, info.dtype = f"{name}:0", types_pb2.DT_FLOAT
        info.tensor_shape.dim.add(size=-1)
        info.tensor_shape.dim.add(size=4)
    return found


class Stub:
    """Answers requests and logs them.

    Attributes:
      log: for each request, the seconds from the start, the seconds it took, and whether it failed.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        """Starts the clock."""
        self.log: list[tuple[float, float, bool]] = []
        self._behaviour, self._zero = behaviour, time.monotonic()
        self._answer = predict_pb2.PredictResponse()
        self._answer.model_spec.name = "stub"
        self._answer.model_spec.version.value = 1
        self._raw = self._answer.SerializeToString()

    async def serve(self) -> bool:
        """Waits for the time that a request takes; returns whether it succeeds."""
        begin = time.monotonic() - self._zero
        until = self._behaviour.end_of_stall(begin + self._behaviour.seconds())
        failed = self._behaviour.fails()
        rest = until - self._behaviour.lead / 1000 - (time.monotonic() - self._zero)
        if rest > 0:
            await asyncio.sleep(rest)
        self.log.append((begin, time.monotonic() - self._zero - begin, failed))
        return not failed

    async def predict(self, raw: bytes, context: Any) -> bytes:
        """Answers gRPC's Predict."""
        del raw
        if not await self.serve():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "told to fail")
        return self._raw

    async def metadata(self, raw: bytes, context: Any) -> bytes:
        """Answers gRPC's GetModelMetadata."""
        request = get_model_metadata_pb2.GetModelMetadataRequest.FromString(raw)
        if request.model_spec.name != "stub":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for {request.model_spec.name}")
        packed = any_pb2.Any()
        packed.Pack(signatures())
        return get_model_metadata_pb2.GetModelMetadataResponse(metadata={"signature_def": packed}).SerializeToString()

    async def status(self, raw: bytes, context: Any) -> bytes:
        """Answers gRPC's GetModelStatus."""
        del raw, context
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(version=1, state=get_model_status_pb2.ModelVersionStatus.AVAILABLE)
        return response.SerializeToString()

    async def rest_predict(self, request: web.Request) -> web.Response:
        """Answers REST's :predict."""
        await request.read()
        if not await self.serve():
            return web.json_response({"error": "told to fail"}, status=503)
        return web.json_response({"outputs": [[0.0]]})

    async def rest_metadata(self, request: web.Request) -> web.Response:
        """Answers REST's metadata."""
        if request.match_info["name"] != "stub":
            return web.json_response({"error": "Servable not found"}, status=404)
        found = json_format.MessageToDict(signatures(), preserving_proto_field_name=True)
        return web.json_response({"model_spec": {"name": "stub"}, "metadata": {"signature_def": found}})

    async def rest_log(self, request: web.Request) -> web.Response:
        """Answers with the log."""
        del request
        return web.json_response(self.log)

    async def run(self) -> None:
        """Serves on free ports, which it prints as a line of JSON, until cancelled."""
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        services = {
            "tensorflow.serving.PredictionService": {"Predict": self.predict, "GetModelMetadata": self.metadata},
            "tensorflow.serving.ModelService": {"GetModelStatus": self.status},
        }
        for name, methods in services.items():
            handlers = {method: grpc.unary_unary_rpc_method_handler(run) for method, run in methods.items()}
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        app = web.Application()
        app.router.add_post("/v1/models/{name}:predict", self.rest_predict)
        app.router.add_get("/v1/models/{name}/metadata", self.rest_metadata)
        app.router.add_get("/log", self.rest_log)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(json.dumps({"grpc": port, "rest": runner.addresses[0][1]}), flush=True)
        await server.wait_for_termination()


@dataclass
class RunningStub:
    """A stub in a process of its own.

    Attributes:
      grpc: its gRPC target for `nann bench`.
      rest: its REST target.
      process: the process.
    """

    grpc: str
    rest: str
    process: subprocess.Popen


@contextlib.contextmanager
def running_stub(*flags: str) -> Iterator[RunningStub]:
    """Starts a stub with these flags, and stops it at the end.

    Raises:
      NannError: the stub does not start.
    """
    command = [sys.executable, "-m", "benchmarks.serving.load_stub", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line:
                raise NannError(f"the stub does not start with {' '.join(flags)}")
            ports = json.loads(line)
            yield RunningStub(f"grpc://127.0.0.1:{ports['grpc']}", f"http://127.0.0.1:{ports['rest']}", process)
        finally:
            process.kill()


def main(
    service: Annotated[str, typer.Option(help="none, fixed:MS, or bimodal:MS:MS:PART (percent).")] = "none",
    stall: Annotated[bool, typer.Option("--stall", help="Answer nothing for 200 ms, every 5 seconds.")] = False,
    errors: Annotated[float, typer.Option(help="Percentage of requests that fail.", min=0, max=100)] = 0.0,
    lead: Annotated[float, typer.Option(help="How many milliseconds early to answer.", min=0)] = 0.0,
    seed: int = 0,
) -> None:
    """Serve a stub until it is killed."""
    run_loop(lambda: Stub(Behaviour(service, stall, errors, lead, seed)).run())


if __name__ == "__main__":
    typer.run(main)
