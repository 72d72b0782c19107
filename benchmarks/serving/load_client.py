"""The limits of the client of `nann bench`, measured with a stub that answers at once or after a known time.

python -m benchmarks.serving.load_client
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import Out, print_summary
from benchmarks.serving.load_stub import running_stub
from tfserving_ext.artifacts import write_json
from tfserving_ext.loadtest import ModelSpec, Scenario, bench
from tfserving_ext.machine import provenance
from tfserving_ext.progress import progress

CLIENTS = 16
SECONDS, QUICK_SECONDS = 10.0, 4.0
SERVICE_MS = 5.0
RATES = (100, 1000)


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """Keeps this process, its threads and the processes that it starts on one processor; does nothing outside Linux."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    _pin({min(before)})
    try:
        yield
    finally:
        _pin(before)


def _pin(cores: set[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # The thread has ended in the meantime.
            os.sched_setaffinity(int(thread.name), cores)


def bench_client(out: Path, quick: bool = False) -> dict[str, float]:
    """Measures the client.

    Args:
      out: file for the raw results, JSON.
      quick: measure for a shorter time.

    Returns:
      A dict with `grpc_per_second` and `rest_per_second`, the rates of one client process with a stub that answers at
      once, both on one core; `grpc_saturated` and `rest_saturated`, whether the client said that it was the bottleneck;
      and `overhead_ms_at_...`, for two rates by gRPC on all cores, the median latency minus the service time of 5 ms,
      which is the time that sockets and the Python code of both sides take.
    """
    seconds = QUICK_SECONDS if quick else SECONDS
    summary: dict[str, float] = {}
    levels: dict[str, Any] = {}

    def measure(name: str, target: str, **load: Any) -> dict[str, Any]:
        scenario = Scenario(target=target, models=[ModelSpec(name="stub")], warm_up=2, seconds=seconds, **load)
        (levels[name],) = bench(scenario)["levels"]
        return levels[name]

    with progress("client", 2 + len(RATES)) as advance:
        with running_stub() as stub, on_one_core():
            for kind, target in (("grpc", stub.grpc), ("rest", stub.rest)):
                level = measure(f"{kind}_at_once", target, concurrency=str(CLIENTS))
                summary[f"{kind}_per_second"] = level["per_second"]
                summary[f"{kind}_saturated"] = float(level["client"]["saturated"])
                advance(note=f"{kind}: {level['per_second']:,.0f} a second")
        with running_stub("--service", f"fixed:{SERVICE_MS:g}") as stub:
            for rate in RATES:
                level = measure(f"grpc_fixed_{rate}", stub.grpc, rate=str(rate))
                summary[f"overhead_ms_at_{rate}"] = level["latency_ms"]["p50"] - SERVICE_MS
                advance(note=f"{rate} a second: {summary[f'overhead_ms_at_{rate}']:.2f} ms")
    summary = {name: round(float(value), 3) for name, value in summary.items()}
    write_json(out, {**provenance(), "quick": quick, "levels": levels, "summary": summary})
    return summary


def main(
    out: Out = Path("benchmarks/out/load_client.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Measure for a shorter time.")] = False,
) -> None:
    """Measure the client of `nann bench`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    summary = bench_client(out, quick)
    print_summary(summary, out)


if __name__ == "__main__":
    typer.run(main)
