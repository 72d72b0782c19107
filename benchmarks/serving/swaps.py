"""Versions swapped under load: whether requests fail, whether every answer comes from one version, and what swaps cost.

Two indexes of one model take turns, one with all items and one with two thirds of them, so that an answer shows which
version gave it. `nann bench` sends requests and swaps versions; its target is replaced by one that also checks answers.
"""

import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from benchmarks.serving.served import Process, asking, running
from tfserving_ext.artifacts import link_or_copy
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import ModelSpec, Scenario, SwapSpec, bench
from tfserving_ext.loadtest.targets import TargetError
from tfserving_ext.loadtest.targets.grpc_server import GrpcTarget
from tfserving_ext.progress import progress
from tfserving_ext.serving.tensors import parse_tensor

KEPT = 3  # Versions kept on disk; older ones are removed, as operators do.
SETTLE_SECONDS = 30.0  # Most time to wait until the server has released the memory of earlier versions.
WRONG = "WRONG_ANSWER"


class CheckedTarget(GrpcTarget):
    """A gRPC target that turns wrong answers into errors with the code `WRONG`.

    Attributes:
      answered: the versions that have answered.
    """

    def __init__(self, address: str, expected: Callable[[int], Mapping[bytes, np.ndarray] | None]) -> None:
        """Sets up the target.

        Args:
          address: HOST:PORT of the server.
          expected: returns, for a version, the item ids that answer every history, by the history's bytes; None for a
            version that must not answer.
        """
        super().__init__(address)
        self.answered: set[int] = set()
        self._expected = expected
        self._histories: dict[bytes, bytes] = {}

    def prepare(self, model: ModelSpec, inputs: Mapping[str, np.ndarray]) -> bytes:
        """See `Target`."""
        request = super().prepare(model, inputs)
        self._histories[request] = inputs["item_history"].tobytes()
        return request

    async def send(self, request: bytes, timeout: float) -> bytes:
        """See `Target`."""
        raw = await super().send(request, timeout)
        answer = predict_pb2.PredictResponse.FromString(raw)
        version = answer.model_spec.version.value
        self.answered.add(version)
        expected = self._expected(version)
        if expected is None:
            raise TargetError(WRONG, f"version {version} answered, which must never serve")
        if not np.array_equal(parse_tensor(answer.outputs["item_ids"]), expected[self._histories[request]]):
            raise TargetError(WRONG, f"the answer is not that of version {version}")
        return raw


def bench_swaps(
    saved_model: Path,
    index: Path,
    scratch: Path,
    histories: np.ndarray,
    clients: int = 32,
    seconds: float = 120,
    swaps: int = 20,
) -> dict[str, Any]:
    """Swaps versions while clients send requests; one in the middle is broken, and the one before it must keep serving.

    Args:
      saved_model: an export.
      index: the index with which it was exported.
      scratch: a folder for the versions.
      histories: the histories of the requests, int64 [N, L].
      clients: number of clients that send at the same time.
      seconds: length of the whole test.
      swaps: number of versions to put in place, including the broken one.

    Returns:
      A dict with `requests`, `failed` and `wrong`; `p99_quiet_ms`, `p99_swap_ms` (the median over swaps) and their
      ratio; counts of versions; and the server's memory in quiet time, at its largest and at the end.

    Raises:
      NannError: a version does not begin to serve in its time.
    """
    exports = _two_exports(saved_model, index, scratch)
    answers = [_answers(export, histories) for export in exports]
    base = scratch / "versions"
    shutil.rmtree(base, ignore_errors=True)
    _copy(saved_model, base / "1")
    broken = swaps // 2 + 2  # New versions count from 2.
    turns = [exports[_side(version, swaps)] for version in range(2, swaps + 2)]
    turns[broken - 2] = _broken(saved_model, scratch)
    spec = SwapSpec(base_path=base, every=seconds / (swaps + 1), exports=turns, keep=KEPT)
    with running(base, "--file_system_poll_wait_seconds", "0.2") as server:
        target = CheckedTarget(
            f"127.0.0.1:{server.grpc_port}",
            lambda version: None if version == broken else answers[_side(version, swaps)],
        )
        scenario = Scenario(
            models=[asking(histories, scratch)],
            concurrency=str(clients),
            warm_up=0,
            seconds=seconds,
            timeout=60,
            swap=spec,
            trace=0,
        )
        level, memory = _measured(server, scenario, target, seconds)
        quiet = memory[max(1, int(spec.every) - 1)]
        memory.append(_settled(server, quiet))
    return _figures(level, target.answered, broken) | {
        "memory_quiet_mb": quiet,
        "memory_most_mb": {key: max(one[key] for one in memory) for key in quiet},
        "memory_end_mb": memory[-1],
    }


def _side(version: int, swaps: int) -> int:
    """Returns which of the two exports a version is; after the last one, `nann bench` begins with the first."""
    return 0 if version == 1 else ((version - 2) % swaps + 1) % 2


def _measured(
    server: Process, scenario: Scenario, target: CheckedTarget, seconds: float
) -> tuple[Mapping[str, Any], list[dict[str, float]]]:
    """Sends the requests; returns the level that was measured, and the server's memory before it and meanwhile."""
    memory = [server.memory_mb()]
    with progress("seconds of swaps", int(seconds)) as advance:

        def look(*_: object) -> None:
            memory.append(server.memory_mb())
            advance()

        (level,) = bench(scenario, look, target)["levels"]
    return level, memory


def _two_exports(saved_model: Path, index: Path, scratch: Path) -> tuple[Path, Path]:
    """Returns the export, and one of the same model with two thirds of the items."""
    from export_tools import reuse
    from tfserving_ext.index import Index, build_index

    opened = Index.open(index)
    kept = np.random.default_rng(0).permutation(len(opened.item_ids))[: 2 * len(opened.item_ids) // 3]
    made = build_index(np.asarray(opened.item_ids)[kept], opened.embeddings(kept), scratch / "two_thirds")
    return saved_model, reuse(saved_model, made.folder, scratch / "export_two_thirds")


def _answers(export: Path, histories: np.ndarray) -> dict[bytes, np.ndarray]:
    """Returns the item ids with which an export answers each history, by the history's bytes."""
    from tfserving_ext.serving.models import load_servable

    retrieve = load_servable(export).signature("retrieve")
    return {history.tobytes(): retrieve.run({"item_history": history[None]})["item_ids"] for history in histories}


def _broken(saved_model: Path, scratch: Path) -> Path:
    made = scratch / "broken"
    shutil.rmtree(made, ignore_errors=True)
    _copy(saved_model, made)
    (made / "saved_model.pb").unlink()  # Unlinked first, as it may be a link to the export's file.
    (made / "saved_model.pb").write_bytes(b"\xff\xff broken")
    return made


def _copy(export: Path, target: Path) -> None:
    """Copies an export by sharing its files, as exports of the same model do."""
    shutil.copytree(export, target, copy_function=lambda source, goal: link_or_copy(Path(source), Path(goal)))


def _settled(server: Process, quiet: Mapping[str, float]) -> dict[str, float]:
    """Returns the server's memory as soon as it maps no more than in quiet time, or after `SETTLE_SECONDS`."""
    end = time.monotonic() + SETTLE_SECONDS
    while (memory := server.memory_mb())["mapped"] > quiet["mapped"] * 1.01 and time.monotonic() < end:
        time.sleep(0.2)
    return memory


def _figures(level: Mapping[str, Any], answered: set[int], broken: int) -> dict[str, Any]:
    """Returns the result of `bench_swaps`, without the memory, from the level that `nann bench` measured."""
    # The last version does not count, as it may have been put in place when the time ended.
    late = [one["version"] for one in level["swaps"][:-1] if one["served"] is None and one["version"] != broken]
    if late:
        raise NannError(f"version {late[0]} did not begin to serve in its time")
    around = [one["latency_ms"]["p99"] for one in level["swaps"] if one["latency_ms"]["p99"] is not None]
    quiet = level["quiet_latency_ms"]["p99"]
    swapping = statistics.median(around) if around else None
    return {
        "requests": level["requests"],
        "failed": sum(count for code, count in level["errors"].items() if code != WRONG),
        "wrong": level["errors"].get(WRONG, 0),
        "faults": sorted({message for messages in level["error_examples"].values() for message in messages}),
        "versions_that_answered": len(answered),
        "versions": len(level["swaps"]),
        "versions_served": sum(one["served"] is not None for one in level["swaps"]),
        "broken_version_answered": broken in answered,
        "p99_quiet_ms": quiet,
        "p99_swap_ms": swapping,
        "p99_swap_to_quiet": None if swapping is None or not quiet else swapping / quiet,
    }
