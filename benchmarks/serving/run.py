"""What the local server costs: its throughput against the same model in process, and versions swapped under load.

python -m benchmarks.serving.run --folder demo
"""

import json
import logging
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.serving.served import Load, histories_of, make_requests, percentile_ms, running
from benchmarks.serving.swaps import bench_swaps
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console, progress

CLIENTS = 8
ROUNDS, QUICK_ROUNDS = 5, 2
SECONDS = 6.0
HISTORIES = 64
SWAP_CLIENTS, SWAP_SECONDS, SWAPS = 32, 120.0, 20


def bench_serve(folder: Path, out: Path, quick: bool = False) -> dict[str, float]:
    """Measures the server on a demo's model.

    Args:
      folder: a demo's folder, with `index` and `models/nann/1`.
      out: raw JSON.
      quick: fewer rounds, and a short time of swaps.

    Returns:
      server_efficiency: requests per second of the server and 8 concurrent clients by gRPC, all on this machine, over
      those of 8 threads that call the same SavedModel in one process; both at TensorFlow's default threads. And what
      `bench_swaps` says.

    Raises:
      NannError: the folder lacks the export, or the server does not serve.
    """
    saved_model = folder / "models" / "nann" / "1"
    if not (saved_model / "saved_model.pb").exists():
        raise NannError(f"{saved_model} does not exist; make it with `nann demo --folder {folder}`")
    histories = histories_of(saved_model, HISTORIES)
    figures: dict[str, Any] = {**provenance(), "quick": quick, "clients": CLIENTS}
    figures["rounds"] = _race(saved_model, histories, QUICK_ROUNDS if quick else ROUNDS)
    scratch = folder / "bench" / "swaps"
    scratch.mkdir(parents=True, exist_ok=True)
    figures["swaps"] = bench_swaps(
        saved_model,
        folder / "index",
        scratch,
        histories,
        SWAP_CLIENTS,
        SWAP_SECONDS / (4 if quick else 1),
        SWAPS // (4 if quick else 1),
    )
    by_server, in_process = (
        max(one[key]["per_second"] for one in figures["rounds"]) for key in ("server", "in_process")
    )
    summary = {
        "server_efficiency": by_server / in_process,
        "server_per_second": by_server,
        "in_process_per_second": in_process,
        "server_p99_ms": min(one["server"]["p99_ms"] for one in figures["rounds"]),
        "in_process_p99_ms": min(one["in_process"]["p99_ms"] for one in figures["rounds"]),
        **{
            f"swap_{key}": figures["swaps"][key]
            for key in ("requests", "failed", "wrong", "p99_quiet_ms", "p99_swap_ms", "p99_swap_to_quiet")
        },
        "swap_assets_most_to_quiet": figures["swaps"]["memory_most_mb"]["assets"]
        / max(figures["swaps"]["memory_quiet_mb"]["assets"], 1e-9),
    }
    figures["summary"] = {key: round(float(value), 4) for key, value in summary.items()}
    write_json(out, figures)
    return figures["summary"]


def _race(saved_model: Path, histories: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """Server and process by turns; each idles while the other is measured."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=_in_process, args=(saved_model, histories, child), daemon=True)
    process.start()
    parent.recv()
    found = []
    try:
        with running(saved_model.parent) as server, progress("server and process by turns", rounds) as advance:
            requests = make_requests(histories)
            Load(server.grpc_port, requests, CLIENTS).stop()
            for _ in range(rounds):
                parent.send(SECONDS)
                in_process = parent.recv()
                load = Load(server.grpc_port, requests, CLIENTS)
                begin = time.monotonic()
                time.sleep(SECONDS)
                answers, seconds = load.stop(), time.monotonic() - begin
                if any(one.version < 0 for one in answers):
                    raise NannError(f"the server refuses: {next(one.wrong for one in answers if one.version < 0)}")
                by_server = {"per_second": len(answers) / seconds, "p99_ms": percentile_ms(answers, 99)}
                found.append({"server": by_server, "in_process": in_process})
                advance(note=f"{by_server['per_second']:.0f} and {in_process['per_second']:.0f} per second")
    finally:
        parent.send(0.0)
        process.join(30)
        process.terminate()
    return found


def _in_process(saved_model: Path, histories: np.ndarray, pipe: Connection) -> None:
    """Calls the model from as many threads as the server has clients, for as long as the pipe says."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from tfserving_ext.serving.models import load_servable

    retrieve = load_servable(saved_model).signature("retrieve")
    pipe.send("ready")
    while seconds := pipe.recv():
        latencies: list[float] = []
        end = time.monotonic() + seconds

        def call(number: int, end: float = end, latencies: list[float] = latencies) -> None:
            place = number
            while (begin := time.monotonic()) < end:
                place = (place + 1) % len(histories)
                retrieve.run({"item_history": histories[place][None]})
                latencies.append(time.monotonic() - begin)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(CLIENTS)]
        begin = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = time.monotonic() - begin
        pipe.send({"per_second": len(latencies) / taken, "p99_ms": 1000 * float(np.percentile(latencies, 99))})


def main(
    folder: Annotated[Path, typer.Option(help="A demo's folder.")] = Path("demo"),
    out: Annotated[Path, typer.Option("--out", "-o", help="Raw JSON.")] = Path("benchmarks/out/serve.json"),
    quick: Annotated[bool, typer.Option("--quick", help="In a minute or two.")] = False,
) -> None:
    """Measure the local server; the last line is the summary as JSON.

    Example: python -m benchmarks.serving.run --folder demo --quick
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        summary = bench_serve(folder, out, quick)
    except NannError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error
    console.print(f"raw figures: {out}")
    print(json.dumps(summary))


if __name__ == "__main__":
    typer.run(main)
