"""A soak test: many clients use one model for a while, to find errors, wrong answers, deadlocks and growing memory.

    python -m benchmarks.serving.soak --folder demo --seconds 60

Every setting of TensorFlow's thread pools gets a fresh process that loads the SavedModel as the local server does. Its
clients send requests of varying sizes to all signatures, with exclusions, budgets and deadlines, and some wrong ones.
Each answer must be, bit for bit, the one that the same request got earlier when it was alone.
"""

import collections
import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from benchmarks.command import Folder, measuring, print_summary
from benchmarks.serving.soak_requests import Request, ask, fault, make_requests
from tfserving_ext.errors import NannError
from tfserving_ext.progress import console

CLIENTS = 64
SETTINGS = ((1, 1), (1, 2), (2, 1), (2, 2), (4, 4))  # Inter-op and intra-op threads.
REQUESTS = 160  # Number of different requests.
DEADLOCK_SECONDS = 30.0
SHOWN_FAULTS = 5
SAMPLES = 400  # How often to measure memory.
# All searches that run at the same time keep their buffers, and so do the arenas of malloc, so that memory rises to a
# plateau. From the second quarter of the time to the last, its median may not rise by more than this.
ALLOWED_GROWTH = 0.05
ALLOWED_GROWTH_MB = 8.0
LOADING_SECONDS = 600.0  # Time for the process to start, load the model and answer each request once.


def resident_mb() -> float:
    """Returns this process's anonymous resident memory in MB: what it allocated, without the files that it maps."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def growth(memory: Sequence[float]) -> tuple[float, float]:
    """Returns the medians of the second and of the last quarter of evenly spaced samples."""
    quarter = max(len(memory) // 4, 1)
    return float(np.median(memory[quarter : 2 * quarter])), float(np.median(memory[-quarter:]))


class Clients:
    """Threads that send requests until `stop` is called."""

    def __init__(self, servable: Any, requests: list[Request], expected: list[Any], clients: int) -> None:
        self._servable, self._requests, self._expected = servable, requests, expected
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.counts: collections.Counter[str] = collections.Counter()
        self.faults = 0
        self.first_faults: list[str] = []
        self.last_answer = time.monotonic()
        self._threads = [threading.Thread(target=self._send, args=(seed,), daemon=True) for seed in range(clients)]
        for thread in self._threads:
            thread.start()

    def _send(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self._stop.is_set():
            place = rng.integers(len(self._requests))
            request = self._requests[place]
            try:
                found = fault(request, ask(self._servable, request), self._expected[place])
            except Exception as error:  # A defect of ours, which must not end the thread silently.
                found = f"{request.kind}: {type(error).__name__}: {error}"
            with self._lock:
                self.last_answer = time.monotonic()
                self.counts[request.kind] += 1
                if found:
                    self.faults += 1
                    self.first_faults = [*self.first_faults, found][:SHOWN_FAULTS]

    def stop(self) -> None:
        """Makes the clients stop after the requests that they have sent."""
        self._stop.set()

    def done(self) -> bool:
        """Returns whether all clients have ended."""
        return not any(thread.is_alive() for thread in self._threads)

    def stuck(self) -> bool:
        """Returns whether no request has been answered for so long that none will be."""
        return time.monotonic() - self.last_answer > DEADLOCK_SECONDS


def _soak_here(saved_model: Path, inter: int, intra: int, seconds: float, clients: int) -> dict[str, Any]:
    """Tests one setting in this process, in which TensorFlow must not have run anything yet."""
    import tensorflow as tf

    from tfserving_ext.serving.models import load_servable

    tf.get_logger().setLevel("ERROR")
    # A session without a configuration of its own uses these.
    tf.config.threading.set_inter_op_parallelism_threads(inter)
    tf.config.threading.set_intra_op_parallelism_threads(intra)
    servable = load_servable(saved_model)
    requests = make_requests(servable, saved_model, REQUESTS)
    expected = [ask(servable, request, alone=True) for request in requests]
    running = Clients(servable, requests, expected, clients)
    begin, memory = time.monotonic(), []
    while not running.done() and not running.stuck():
        if time.monotonic() - begin < seconds:
            memory.append(resident_mb())
        else:
            running.stop()
        time.sleep(seconds / SAMPLES)
    deadlock = not running.done()
    if deadlock:
        faulthandler.dump_traceback(all_threads=True)
    early, late = growth(memory)
    return {
        "inter": inter,
        "intra": intra,
        "requests": running.counts.total(),
        "by_kind": dict(sorted(running.counts.items())),
        "faults": running.faults,
        "first_faults": running.first_faults,
        "deadlock": deadlock,
        "memory_mb": [round(early, 1), round(late, 1)],
        "flat": late - early <= max(ALLOWED_GROWTH * early, ALLOWED_GROWTH_MB),
    }


def _child(sender: Connection, *arguments: Any) -> None:
    try:
        sender.send(_soak_here(*arguments))
    except NannError as error:
        sender.send(error)
    sender.close()
    sys.stdout.flush()
    os._exit(0)  # End even if a thread hangs.


def _soak_in_a_fresh_process(*arguments: Any, seconds: float) -> dict[str, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Wrong requests would fill the log.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, *arguments), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds + 2 * DEADLOCK_SECONDS + LOADING_SECONDS):
            raise NannError(f"the process with {arguments[1:3]} threads is silent; it may be stuck while it loads")
        found = receiver.recv()
    except EOFError:
        process.join()
        raise NannError(f"the process with {arguments[1:3]} threads died, exit code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if isinstance(found, NannError):
        raise found
    return found


def soak(
    saved_model: Path,
    seconds: float = 60.0,
    settings: Sequence[tuple[int, int]] = SETTINGS,
    clients: int = CLIENTS,
) -> list[dict[str, Any]]:
    """Sends requests from many threads to a SavedModel that `nann export` wrote.

    Args:
      saved_model: the SavedModel's folder.
      seconds: how long to test each setting.
      settings: inter-op and intra-op threads of each process.
      clients: number of threads that send.

    Returns:
      For each setting, a dict with `inter` and `intra`; `requests`, how many were answered, and `by_kind`; `faults`,
      how many answers were wrong or errors, and `first_faults`, the text of the first few; `deadlock`, whether no
      request ended for 30 s; `memory_mb`, the medians of the second and the last quarter of the time; and `flat`,
      whether the latter is not above the former by more than is allowed.

    Raises:
      NannError: `saved_model` does not load, or a process died.
    """
    if not (saved_model / "saved_model.pb").exists():
        raise NannError(f"{saved_model} is not a SavedModel; make one with `nann demo` or `nann export`")
    found = []
    for inter, intra in settings:
        console.print(f"{clients} clients, {seconds:g} s, inter-op threads {inter}, intra-op threads {intra} ...")
        found.append(_soak_in_a_fresh_process(saved_model, inter, intra, seconds, clients, seconds=seconds))
    return found


def failures(found: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the faults in the results of `soak`, one line each."""
    lines = []
    for figures in found:
        where = f"inter-op {figures['inter']}, intra-op {figures['intra']}"
        if figures["deadlock"]:
            lines.append(f"{where}: deadlock, no request ended for {DEADLOCK_SECONDS:g} s")
        if figures["faults"]:
            lines.append(f"{where}: {figures['faults']} wrong answers or errors, such as {figures['first_faults'][0]}")
        if not figures["flat"]:
            lines.append(f"{where}: memory rose from {figures['memory_mb'][0]} to {figures['memory_mb'][1]} MB")
    return lines


def _print(found: Sequence[dict[str, Any]]) -> None:
    table = Table(title="Soak", title_justify="left")
    for column in ("inter-op", "intra-op", "requests", "wrong or failed", "deadlock", "MB early", "MB late", "flat"):
        table.add_column(column, justify="right")
    for figures in found:
        table.add_row(
            str(figures["inter"]),
            str(figures["intra"]),
            f"{figures['requests']:,}",
            str(figures["faults"]),
            "yes" if figures["deadlock"] else "no",
            *(f"{memory:.1f}" for memory in figures["memory_mb"]),
            "yes" if figures["flat"] else "no",
        )
    console.print(table)


def main(
    folder: Folder = Path("demo"),
    seconds: Annotated[float, typer.Option(help="How long, per setting.", min=1)] = 60.0,
    setting: Annotated[
        list[str] | None, typer.Option(help="Threads as INTER,INTRA; may be repeated. Default: several from 1,1 up.")
    ] = None,
    clients: Annotated[int, typer.Option(help="Threads that send requests.", min=1)] = CLIENTS,
) -> None:
    """Soak the demo's SavedModel with requests of many clients at several thread settings.

    Example: python -m benchmarks.serving.soak --folder demo --seconds 60 --setting 1,1 --setting 2,2
    """
    try:
        settings = [(int(inter), int(intra)) for inter, intra in (text.split(",") for text in setting or [])]
    except ValueError:
        raise typer.BadParameter(f"setting is {setting}, each must be two whole numbers such as 1,1") from None
    with measuring():
        found = soak(folder / "models" / "nann" / "1", seconds, settings or SETTINGS, clients)
    _print(found)
    wrong = failures(found)
    for line in wrong:
        print(line, file=sys.stderr)
    print_summary({"failures": wrong, "settings": found})
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    typer.run(main)
