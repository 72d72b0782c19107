"""Versions swapped under load: does any request fail, does every answer come from one whole version, what does it cost?

Two indexes of one model take turns: all items, and two thirds of them, so that an answer tells which version gave it.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.served import Answer, Load, make_requests, percentile_ms, running
from tfserving_ext.errors import NannError
from tfserving_ext.progress import progress

KEPT = 3  # Versions on disk; the older are removed, as operators do.
SETTLE_SECONDS = 1.0  # After a version serves; what comes later is quiet time.


def bench_swaps(
    saved_model: Path,
    index: Path,
    scratch: Path,
    histories: np.ndarray,
    clients: int = 32,
    seconds: float = 120,
    swaps: int = 20,
) -> dict[str, Any]:
    """Swaps versions while clients ask; one of them, in the middle, is broken and must leave the one before serving.

    Args:
      saved_model: an export.
      index: what it was exported with.
      scratch: a folder for the versions.
      histories: int64 [N, L], of the requests.
      clients: that ask at once.
      seconds: in all.
      swaps: versions put in place, the broken one among them.

    Returns:
      requests, failed, wrong; `p99_quiet_ms`, `p99_swap_ms` and their ratio; memory of the server when quiet, at most,
      and at the end.

    Raises:
      NannError: a version does not begin to serve in its time.
    """
    exports = _two_exports(saved_model, index, scratch)
    expected = [_answers(export, histories) for export in exports]
    base = scratch / "versions"
    shutil.rmtree(base, ignore_errors=True)
    _put(exports[0], base, 1)
    broken, by_version = swaps // 2 + 2, {1: expected[0]}
    windows: list[tuple[float, float]] = []
    with running(base, "--file_system_poll_wait_seconds", "0.2") as server:
        memory = [server.memory_mb()]
        load = Load(server.grpc_port, make_requests(histories), clients, by_version)
        step = seconds / (swaps + 1)
        with progress("swaps", swaps) as advance:
            time.sleep(step / 2)
            memory.append(server.memory_mb())
            begin = time.monotonic()
            for number in range(2, swaps + 2):
                side = number % 2
                by_version[number] = expected[side]
                started = time.monotonic()
                _put(exports[side], base, number, number == broken)
                if number != broken:
                    _wait_for(load, number, step)
                windows.append((started, time.monotonic() + SETTLE_SECONDS))
                memory.append(server.memory_mb())
                if number - KEPT >= 1 and number - KEPT != broken - 1:
                    shutil.rmtree(base / str(number - KEPT))
                advance()
                time.sleep(max(0.0, begin + (number - 1) * step - time.monotonic()))
        answers = load.stop()
        memory.append(server.memory_mb())
    return _figures(answers, windows, memory, by_version, broken)


def _two_exports(saved_model: Path, index: Path, scratch: Path) -> tuple[Path, Path]:
    """The export, and one of the same model with two thirds of the items."""
    from export_tools import reuse
    from tfserving_ext.index import Index, build_index

    opened = Index.open(index)
    kept = np.random.default_rng(0).permutation(len(opened.item_ids))[: 2 * len(opened.item_ids) // 3]
    made = build_index(np.asarray(opened.item_ids)[kept], opened.embeddings(kept), scratch / "two_thirds")
    return saved_model, reuse(saved_model, made.folder, scratch / "export_two_thirds")


def _answers(export: Path, histories: np.ndarray) -> list[np.ndarray]:
    from tfserving_ext.serving.models import load_servable

    retrieve = load_servable(export).signature("retrieve")
    return [retrieve.run({"item_history": history[None]})["item_ids"] for history in histories]


def _put(export: Path, base: Path, version: int, broken: bool = False) -> None:
    """Puts a version in place, in one step; its files are links, as between exports that share a model."""
    made = base.parent / "putting"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(export, made, copy_function=os.link)
    if broken:
        (made / "saved_model.pb").unlink()
        (made / "saved_model.pb").write_bytes(b"\xff\xff broken")
    base.mkdir(exist_ok=True)
    made.rename(base / str(version))


def _wait_for(load: Load, version: int, seconds: float) -> None:
    end = time.monotonic() + max(seconds, 30)
    while not any(one.version == version for one in load.answers[-200:]):
        if time.monotonic() > end:
            raise NannError(f"version {version} did not begin to serve in {max(seconds, 30):.0f} s")
        time.sleep(0.02)


def _figures(
    answers: list[Answer],
    windows: list[tuple[float, float]],
    memory: list[dict[str, float]],
    by_version: dict[int, Any],
    broken: int,
) -> dict[str, Any]:
    failed = [one for one in answers if one.version < 0]
    wrong = [one for one in answers if one.version >= 0 and one.wrong]
    good = [one for one in answers if one.version >= 0]
    swapping = [
        one for one in good if any(one.sent < last and one.sent + one.seconds > first for first, last in windows)
    ]
    inside = set(map(id, swapping))
    quiet = [one for one in good if id(one) not in inside]
    p99_quiet, p99_swap = percentile_ms(quiet, 99), percentile_ms(swapping, 99)
    return {
        "requests": len(answers),
        "failed": len(failed),
        "wrong": len(wrong),
        "faults": sorted({one.wrong for one in (*failed, *wrong)})[:5],
        "versions_that_answered": len({one.version for one in good}),
        "versions": len(by_version) - 1,
        "broken_version_answered": any(one.version == broken for one in good),
        "p99_quiet_ms": p99_quiet,
        "p99_swap_ms": p99_swap,
        "p99_swap_to_quiet": p99_swap / p99_quiet,
        "memory_quiet_mb": memory[1],
        "memory_most_mb": {key: max(one[key] for one in memory) for key in memory[0]},
        "memory_end_mb": memory[-1],
    }
