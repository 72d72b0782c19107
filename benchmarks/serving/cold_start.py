"""How long a server takes to start, and how slow its first answers are: `make bench-cold`.

    python -m benchmarks.serving.cold_start --folder demo

The demo's export is started with and without its warm-up records, in turns, each time in a new process. Its files are
in the page cache, so that the process is cold, but not the disk.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.serving.cold_process import first_and_later
from benchmarks.serving.served import histories_of, make_requests, running
from tfserving_ext.artifacts import link_or_copy, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console, progress

REPEATS, QUICK_REPEATS = 7, 3
LATER = 50  # Answers after the first one, which is compared with their median.
CONNECT_SECONDS, ANSWER_SECONDS = 30.0, 60.0
WITH, WITHOUT = "with_warm_up", "without_warm_up"


def bench_cold_start(folder: Path, scratch: Path, repeats: int = REPEATS) -> dict[str, Any]:
    """Starts servers and processes, in turns, on the demo's export with and without its warm-up records.

    Args:
      folder: a demo's folder, with `models/nann/1`.
      scratch: an existing folder, for the export without the records.
      repeats: how often to start each.

    Returns:
      A dict with `repeats`; `sizes_mb`, those of the SavedModel's parts; `turns`, the raw results; and `summary`, for
      each export the medians of `serving_seconds` (from the start of the process until it says that it serves),
      `answered_seconds` (until the first answer), `first_ms` (the time of that answer), `later_ms` (the median of the
      next 50), `first_to_later`, and the times in a process without a server, such as `import_seconds` and
      `load_seconds`.

    Raises:
      NannError: the folder lacks the export or its records, a server does not start, or answers differ.
    """
    saved_model = folder / "models" / "nann" / "1"
    if not (saved_model / "saved_model.pb").exists():
        raise NannError(f"{saved_model} does not exist; make it with `nann demo --folder {folder}`")
    exports = {WITH: saved_model, WITHOUT: _without_warm_up(saved_model, scratch / "nann" / "1")}
    histories = histories_of(saved_model, 1 + LATER)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in exports}
    answers: list[list[np.ndarray]] = []
    with progress("cold starts in turns", repeats * len(exports)) as advance:
        for _ in range(repeats):
            for name, export in exports.items():
                served, found = _start_server(export.parent, histories)
                answers.append(found)
                turns[name].append({**served, **_start_process(export, histories)})
                advance(note=f"{name}: {served['answered_seconds']:.1f} s, first answer {served['first_ms']:.0f} ms")
    for found in answers:
        if not all(np.array_equal(one, other) for one, other in zip(found, answers[0], strict=True)):
            raise NannError("two starts of the same model answer the same requests differently")
    summary = {
        name: {key: round(statistics.median(one[key] for one in ones), 4) for key in ones[0]}
        for name, ones in turns.items()
    }
    return {"repeats": repeats, "sizes_mb": sizes_mb(saved_model), "turns": turns, "summary": summary}


def sizes_mb(saved_model: Path) -> dict[str, float]:
    """Returns the megabytes (10^6) of a SavedModel: `graph`, `variables`, `assets` (the index), `other` and `total`."""
    found = {"graph": 0, "variables": 0, "assets": 0, "other": 0}
    for path in saved_model.rglob("*"):
        if path.is_file():
            top = path.relative_to(saved_model).parts[0]
            part = "graph" if top == "saved_model.pb" else top if top in found else "other"
            found[part] += path.stat().st_size
    return {name: round(size / 1e6, 3) for name, size in (found | {"total": sum(found.values())}).items()}


def _without_warm_up(saved_model: Path, target: Path) -> Path:
    from tfserving_ext.serving.warm_up import FILE

    if not (saved_model / FILE).exists():
        raise NannError(f"{saved_model} has no warm-up records; export it with `nann export`")
    shutil.copytree(saved_model, target, copy_function=lambda old, new: link_or_copy(Path(old), Path(new)))
    (target / FILE).unlink()
    return target


def _start_server(base_path: Path, histories: np.ndarray) -> tuple[dict[str, float], list[np.ndarray]]:
    """Starts one server; returns the times of its start and answers, and the `item_ids` of the answers."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    requests = make_requests(histories)  # Made before the clock starts, as a client would exist already.
    latencies, found = [], []
    begin = time.perf_counter()
    with running(base_path) as server, grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        serving = time.perf_counter()
        call = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict", None, predict_pb2.PredictResponse.FromString
        )
        try:
            grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
            connected = time.perf_counter()
            for request in requests:
                sent = time.perf_counter()
                response = call(request, timeout=ANSWER_SECONDS)
                latencies.append(time.perf_counter() - sent)
                found.append(tf.make_ndarray(response.outputs["item_ids"]))
        except (grpc.FutureTimeoutError, grpc.RpcError) as error:
            raise NannError(f"`nann serve {base_path}` does not answer: {error}") from error
    answered = connected - begin + latencies[0]
    return {"serving_seconds": serving - begin, "answered_seconds": answered, **first_and_later(latencies, "")}, found


def _start_process(export: Path, histories: np.ndarray) -> dict[str, float]:
    """Measures the same in a new process without a server, which imports everything itself."""
    with tempfile.TemporaryDirectory(prefix="nann_histories_") as folder:
        np.save(file := Path(folder) / "histories.npy", histories)
        command = [sys.executable, "-m", "benchmarks.serving.cold_process", str(export), str(file)]
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if ended.returncode:
        raise NannError(f"a process that loads {export} ended without an answer:\n{ended.stderr}")
    return json.loads(ended.stdout.splitlines()[-1])


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/cold_start.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer starts, in two minutes.")] = False,
) -> None:
    """Measure starts of the server, with and without warm-up records; the last line is the summary as JSON.

    Example: python -m benchmarks.serving.cold_start --folder demo --quick
    """
    with measuring(out), tempfile.TemporaryDirectory(prefix="bench-cold-", dir=out.parent) as scratch:
        found = bench_cold_start(folder, Path(scratch), QUICK_REPEATS if quick else REPEATS)
    write_json(out, {**provenance(), "quick": quick, **found})
    for name, one in found["summary"].items():
        console.print(
            f"{name.replace('_', ' ')}: serves after {one['serving_seconds']:.1f} s, answered after "
            f"{one['answered_seconds']:.1f} s; first answer {one['first_ms']:.0f} ms, later ones "
            f"{one['later_ms']:.1f}, {one['first_to_later']:.1f} times"
        )
    print_summary(found["summary"], out)


if __name__ == "__main__":
    typer.run(main)
