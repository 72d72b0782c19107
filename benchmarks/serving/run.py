"""The local server: its throughput compared with the same model in process, and versions swapped under load.

python -m benchmarks.serving.run --folder demo
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.serving.served import asking, histories_of, running
from benchmarks.serving.swaps import bench_swaps
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import ModelSpec, Scenario, bench
from tfserving_ext.machine import provenance
from tfserving_ext.progress import progress

CLIENTS = 8
ROUNDS, QUICK_ROUNDS = 5, 2
SECONDS, WARM_UP_SECONDS = 6.0, 2.0
HISTORIES = 64
SWAP_CLIENTS, SWAP_SECONDS, SWAPS = 32, 120.0, 20


def bench_serve(folder: Path, out: Path, quick: bool = False) -> dict[str, float]:
    """Measures the server on a demo's model.

    Args:
      folder: a demo's folder, with `index` and `models/nann/1`.
      out: file for the raw results, JSON.
      quick: fewer rounds, and a shorter time of swaps.

    Returns:
      The summary: `server_efficiency`, the requests per second of the server with 8 concurrent gRPC clients, all on
      this machine, over those of the same clients calling the same SavedModel in one process, both with TensorFlow's
      default threads; the numbers from which it is computed; and those of `bench_swaps`, as `swap_...`.

    Raises:
      NannError: the folder lacks the export, or the server does not serve.
    """
    saved_model = folder / "models" / "nann" / "1"
    if not (saved_model / "saved_model.pb").exists():
        raise NannError(f"{saved_model} does not exist; make it with `nann demo --folder {folder}`")
    histories = histories_of(saved_model, HISTORIES)
    figures: dict[str, Any] = {**provenance(), "quick": quick, "clients": CLIENTS}
    scratch = folder / "bench" / "swaps"
    scratch.mkdir(parents=True, exist_ok=True)
    figures["rounds"] = _race(saved_model, histories, scratch, QUICK_ROUNDS if quick else ROUNDS)
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
    figures["summary"] = {key: round(float(value), 4) for key, value in summary.items() if value is not None}
    write_json(out, figures)
    return figures["summary"]


def _race(saved_model: Path, histories: np.ndarray, scratch: Path, rounds: int) -> list[dict[str, Any]]:
    """Measures the server and the model in this process, in turns; each is idle while the other is measured."""
    model = asking(histories, scratch, path=saved_model)
    found = []
    with running(saved_model.parent) as server, progress("server and process in turns", rounds) as advance:
        targets = {"in_process": "session", "server": f"grpc://127.0.0.1:{server.grpc_port}"}
        for _ in range(rounds):
            one = {name: _measure(target, model) for name, target in targets.items()}
            found.append(one)
            advance(note=" and ".join(f"{one[name]['per_second']:.0f}" for name in targets) + " per second")
    return found


def _measure(target: str, model: ModelSpec) -> dict[str, float]:
    scenario = Scenario(
        target=target,
        models=[model],
        concurrency=str(CLIENTS),
        warm_up=WARM_UP_SECONDS,
        seconds=SECONDS,
        trace=0,
    )
    (level,) = bench(scenario)["levels"]
    if level["errors"]:
        raise NannError(f"{target} refuses: {level['error_examples']}")
    return {"per_second": level["per_second"], "p99_ms": level["latency_ms"]["p99"]}


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/serve.json"),
    quick: Annotated[bool, typer.Option("--quick", help="In a minute or two.")] = False,
) -> None:
    """Measure the local server; the last line is the summary as JSON.

    Example: python -m benchmarks.serving.run --folder demo --quick
    """
    with measuring(out):
        summary = bench_serve(folder, out, quick)
    print_summary(summary, out)


if __name__ == "__main__":
    typer.run(main)
