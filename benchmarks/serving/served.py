"""A local server in a process of its own, and clients that load it; what the benchmarks of the server share."""

import contextlib
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np

from tfserving_ext.errors import NannError

START_SECONDS = 120.0
_PORTS = re.compile(r"gRPC 127\.0\.0\.1:(\d+), REST http://127\.0\.0\.1:(\d+)/")


@dataclass
class Process:
    """A running `nann serve`.

    Attributes:
      process: it.
      grpc_port: where it listens.
      rest_port: where it listens.
    """

    process: subprocess.Popen
    grpc_port: int
    rest_port: int

    def memory_mb(self) -> dict[str, float]:
        """`anonymous` memory, and of the files in a model's `assets` what is `mapped` and what of it is resident.

        A page that is mapped twice, as where two versions share a file, counts once.
        """
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = {"anonymous": int(status.split("RssAnon:")[1].split()[0]) / 1024, "mapped": 0.0, "assets": 0.0}
        inside = False
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                inside = "/assets/" in line
                if inside:
                    first, last = line.split()[0].split("-")
                    found["mapped"] += (int(last, 16) - int(first, 16)) / 2**20
            elif inside and line.startswith("Pss:"):
                found["assets"] += int(line.split()[1]) / 1024
        return found


@contextlib.contextmanager
def running(base_path: Path, *flags: str) -> Iterator[Process]:
    """Starts `nann serve` on free ports; it is told to stop at the end.

    Raises:
      NannError: it does not start, or does not end well.
    """
    command = [sys.executable, "-c", "from tfserving_ext.cli import main; main()", "serve", str(base_path)]
    process = subprocess.Popen(
        [*command, "--port", "0", "--rest-api-port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "250", "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    errors: list[str] = []
    # Read as they come, or a full pipe would stop the server.
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or []), daemon=True)
    reader.start()
    lines: queue.Queue[str] = queue.Queue()

    def read_lines() -> None:
        for line in process.stdout or []:
            lines.put(line)
        lines.put("")  # It ended.

    threading.Thread(target=read_lines, daemon=True).start()
    try:
        try:
            ports = _PORTS.search(lines.get(timeout=START_SECONDS))
        except queue.Empty:
            ports = None
        if ports is None:
            raise NannError(f"`nann serve {base_path}` does not start: {''.join(errors)[-500:]}")
        yield Process(process, int(ports[1]), int(ports[2]))
        if process.poll() is not None:
            raise NannError(f"the server ended by itself with {process.returncode}: {''.join(errors)[-500:]}")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


class Answer(NamedTuple):
    """What came of one request.

    Attributes:
      sent: when, on the monotonic clock.
      seconds: until the answer.
      version: that answered; -1 where none did.
      wrong: what is wrong with it, "" where nothing is.
    """

    sent: float
    seconds: float
    version: int
    wrong: str


class Load:
    """Clients that send one request after another until `stop`; each thread is a client with a channel of its own."""

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        clients: int,
        expected: Mapping[int, Sequence[np.ndarray]] | None = None,
    ) -> None:
        """Starts to send.

        Args:
          port: of the gRPC server.
          requests: serialized PredictRequests, asked by turns.
          clients: how many at once.
          expected: by version, the `item_ids` that each request must be answered with.
        """
        self._port, self._requests, self._expected = port, requests, expected
        self._stop = threading.Event()
        self.answers: list[Answer] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Answer]:
        """Waits for what is on its way; returns all answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return self.answers

    def _run(self, number: int) -> None:
        from tensorflow_serving.apis import predict_pb2

        # Clients in one process would share one connection, and with it one thread of the server's.
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call = channel.unary_unary(
                "/tensorflow.serving.PredictionService/Predict", None, predict_pb2.PredictResponse.FromString
            )
            place = number
            while not self._stop.is_set():
                place = (place + 1) % len(self._requests)
                begin = time.monotonic()
                try:
                    response = call(self._requests[place], timeout=60)
                except grpc.RpcError as error:
                    self.answers.append(
                        Answer(begin, time.monotonic() - begin, -1, f"{error.code()}: {error.details()}")
                    )
                    continue
                seconds = time.monotonic() - begin
                version = response.model_spec.version.value
                self.answers.append(Answer(begin, seconds, version, self._fault(response, version, place)))

    def _fault(self, response: Any, version: int, place: int) -> str:
        import tensorflow as tf

        if self._expected is None:
            return ""
        if version not in self._expected:
            return f"version {version} answered, which was never there"
        found = tf.make_ndarray(response.outputs["item_ids"])
        return "" if np.array_equal(found, self._expected[version][place]) else f"not what version {version} answers"


def histories_of(saved_model: Path, count: int) -> np.ndarray:
    """Histories of 20 items of an export, int64 [count, 20], the same every time."""
    ids = np.fromfile(saved_model / "assets" / "item_ids.bin", "<i8")
    return np.random.default_rng(3).choice(ids, [count, 20])


def make_requests(histories: np.ndarray, name: str = "nann") -> list[bytes]:
    """A `retrieve` request for every history, int64 [N, L]."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    requests = []
    for history in histories:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, "retrieve"
        request.inputs["item_history"].CopyFrom(tf.make_tensor_proto(history[None]))
        requests.append(request.SerializeToString())
    return requests


def percentile_ms(answers: Sequence[Answer], percent: float) -> float:
    """A percentile of the latencies, in milliseconds."""
    return 1000 * float(np.percentile([one.seconds for one in answers], percent)) if answers else float("nan")
