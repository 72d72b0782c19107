"""Starts a local server in a separate process and makes requests for it; shared by the benchmarks of the server."""

import contextlib
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import ModelSpec

START_SECONDS = 120.0
_PORTS = re.compile(r"gRPC 127\.0\.0\.1:(\d+), REST http://127\.0\.0\.1:(\d+)/")


@dataclass
class Process:
    """A running `nann serve`.

    Attributes:
      process: the process.
      grpc_port: the port on which it listens for gRPC.
      rest_port: the port on which it listens for REST.
    """

    process: subprocess.Popen
    grpc_port: int
    rest_port: int

    def memory_mb(self) -> dict[str, float]:
        """Returns the process's memory in MB.

        A page that is mapped twice, because two versions share a file, counts once.

        Returns:
          A dict with `anonymous`, the memory that is not of files; `mapped`, how much of models' `assets` is mapped;
          and `assets`, how much of these is resident.
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
    """Starts `nann serve` on free ports, and stops it at the end.

    Raises:
      NannError: the server does not start, or ends by itself.
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
    # Read them as they arrive, or a full pipe would block the server.
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or []), daemon=True)
    reader.start()
    lines: queue.Queue[str] = queue.Queue()

    def read_lines() -> None:
        for line in process.stdout or []:
            lines.put(line)
        lines.put("")  # The server has ended.

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


def histories_of(saved_model: Path, count: int) -> np.ndarray:
    """Draws histories of 20 items of an export, int64 [count, 20], the same at every call."""
    ids = np.fromfile(saved_model / "assets" / "item_ids.bin", "<i8")
    return np.random.default_rng(3).choice(ids, [count, 20])


def make_requests(histories: np.ndarray, name: str = "nann") -> list[bytes]:
    """Makes a `retrieve` request for every history of int64 [N, L]."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    requests = []
    for history in histories:
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = name, "retrieve"
        request.inputs["item_history"].CopyFrom(tf.make_tensor_proto(history[None]))
        requests.append(request.SerializeToString())
    return requests


def asking(histories: np.ndarray, folder: Path, **fields: Any) -> ModelSpec:
    """Makes the model's specification for `nann bench`, with requests for these histories in turn.

    Args:
      histories: int64 [N, L].
      folder: where the histories are written for `nann bench`.
      **fields: further fields of the specification.
    """
    requests = folder / "histories.npz"
    np.savez(requests, item_history=histories)
    return ModelSpec(name="nann", signature="retrieve", input_data=requests, **fields)
