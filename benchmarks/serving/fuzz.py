"""Damaged requests for the local server, which must refuse them with a message, keep serving, and not grow.

python -m benchmarks.serving.fuzz --folder demo --requests 100000
"""

import collections
import http.client
import random
import threading
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer

from benchmarks.command import Folder, measuring, print_summary
from benchmarks.serving.served import Process, running
from benchmarks.serving.soak import ALLOWED_GROWTH, ALLOWED_GROWTH_MB, growth
from tfserving_ext.errors import NannError
from tfserving_ext.progress import progress

CLIENTS = 8
SHOWN = 5
# The codes that may answer a request. 501 stands for values that REST cannot carry, as in TensorFlow Serving.
_CODES = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"}
_CODES |= {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
_STATUSES = {501, 503, 504}


def fuzz_server(base_path: Path, requests: int, seed: int = 0) -> dict[str, Any]:
    """Starts a server and sends it damaged requests, half by gRPC and half by REST.

    Args:
      base_path: a folder with versions of a model that `nann export` wrote; served as `nann`.
      requests: how many to send.
      seed: seed of the draw.

    Returns:
      A dict with `requests`, `answers` by code, and `memory_mb` in the second and in the last quarter of the time.

    Raises:
      NannError: the server gave an answer that it must not give, answered a good request wrongly afterwards, grew in
        memory, or ended.
    """
    newest = max((path for path in base_path.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    ids = np.fromfile(newest / "assets" / "item_ids.bin", "<i8").tolist()
    answers: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    memory: list[float] = []
    with running(base_path) as server:
        good = _ask_good_request(server, ids)
        with progress("damaged requests", requests) as advance:
            threads = [
                threading.Thread(
                    target=_client,
                    args=(
                        server,
                        ids,
                        random.Random(seed * CLIENTS + number),
                        requests // CLIENTS,
                        answers,
                        faults,
                        advance,
                    ),
                )
                for number in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.5)
                if server.process.poll() is not None:
                    break
                memory.append(server.memory_mb()["anonymous"])
            for thread in threads:
                thread.join()
        if server.process.poll() is None and _ask_good_request(server, ids) != good:
            faults.append("a good request gets another answer than before")
    if faults:
        raise NannError(f"{len(faults)} answers are wrong, such as: " + "; ".join(sorted(set(faults))[:SHOWN]))
    early, late = growth(memory)
    if late > early * (1 + ALLOWED_GROWTH) + ALLOWED_GROWTH_MB:
        raise NannError(f"memory grew from {early:.0f} MB to {late:.0f} MB")
    found = {"requests": sum(answers.values()), "answers": dict(sorted(answers.items()))}
    return {**found, "memory_mb": [round(early, 1), round(late, 1)]}


def _client(
    server: Process,
    ids: list[int],
    rng: random.Random,
    requests: int,
    answers: collections.Counter[str],
    faults: list[str],
    advance: Any,
) -> None:
    from benchmarks.serving.fuzz_requests import grpc_request, rest_request

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        for number in range(requests):
            if server.process.poll() is not None:
                faults.append("the server ended")
                return
            if number % 2:
                found = _ask_grpc(channel, grpc_request(rng, "nann", ids), faults)
            else:
                found = _ask_rest(server.rest_port, rest_request(rng, "nann", ids), faults)
            answers[found] += 1
            advance()


def _ask_grpc(channel: grpc.Channel, request: Any, faults: list[str]) -> str:
    try:
        channel.unary_unary(request.method)(request.body, timeout=30)
        return "grpc OK"
    except grpc.RpcError as error:
        code = error.code().name
        # The gRPC library itself answers so if the bytes cannot be decoded as a message.
        undecodable = code == "INTERNAL" and "deserializing request" in (error.details() or "")
        if code not in _CODES and not undecodable:
            faults.append(f"gRPC {code}: {error.details()} for {request.method} {request.body[:200].hex()}")
        return f"grpc {code}"


def _ask_rest(port: int, request: Any, faults: list[str]) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(request.verb, request.path, request.body, request.headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        faults.append(f"REST {type(error).__name__}: {error} for {request.verb} {request.path} {request.body[:200]!r}")
        return "rest none"
    finally:
        connection.close()
    if response.status >= 500 and response.status not in _STATUSES:
        faults.append(
            f"REST {response.status}: {body[:300]!r} for {request.verb} {request.path} {request.body[:300]!r}"
        )
    return f"rest {response.status}"


def _ask_good_request(server: Process, ids: list[int]) -> list[int]:
    from tfserving_ext.serving.client import Client

    with Client(f"127.0.0.1:{server.grpc_port}", "nann") as client:
        return client.predict("retrieve", {"item_history": np.array([ids[:20]])})["item_ids"][0].tolist()


def main(
    folder: Folder = Path("demo"),
    requests: Annotated[int, typer.Option(help="How many to send.", min=CLIENTS)] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
) -> None:
    """Send damaged requests to a local server of the demo's model; the last line is the result as JSON.

    Example: python -m benchmarks.serving.fuzz --folder demo --requests 10000
    """
    with measuring():
        found = fuzz_server(folder / "models" / "nann", requests, seed)
    print_summary(found)


if __name__ == "__main__":
    typer.run(main)
