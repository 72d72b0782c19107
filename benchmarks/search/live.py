"""Searches while items change: coverage of the items as they are, speed under updates, time until an update is seen.

    python -m benchmarks.search.live --folder demo

A process of its own writes the updates; speeds are compared within the run.
"""

import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.search.filters import all_scores
from benchmarks.search.harness import BATCH, without_answers
from benchmarks.search.peers.peer import Workload
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.deltas import Deltas
from tfserving_ext.index.format import Index
from tfserving_ext.index.segments import Rows
from tfserving_ext.index.table import encode
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console, outcome

K = 100
CASES, QUICK_CASES = 100, 40
SECONDS, QUICK_SECONDS = 60, 16
UPDATES_PER_SECOND, UPDATES_AT_ONCE = 600, 60
# A tenth of the updates delete items, and bring them back with the next; the others change no row, as those of prices.
DELETED_AT_ONCE = 6
# So many items have another embedding in a further measurement: these are in no graph.
MOVED_ITEMS = (500, 4000)
FRESH_UPDATES, QUICK_FRESH_UPDATES = 200, 60


def rows_of(index: Index, items: np.ndarray, item_ids: np.ndarray, noise: float, seed: int) -> Rows:
    """Returns rows for `item_ids`, ascending: the embeddings of `items` with some noise."""
    embeddings = index.embeddings(items)
    if noise:
        embeddings = embeddings + np.random.default_rng(seed).normal(0, noise, embeddings.shape).astype(np.float32)
    values, scales = encode(embeddings, index.dtype)
    return Rows(item_ids, values, scales, np.zeros(0, np.uint8))


def _none(index: Index) -> Rows:
    return rows_of(index, np.zeros(0, np.int64), np.zeros(0, np.int64), 0, 0)


def write_updates(folder: str, deltas: str, seconds: float) -> None:
    """Writes updates for some time, `UPDATES_PER_SECOND` of them."""
    index = Index.open(folder)
    log, rng = Deltas(deltas, index), np.random.default_rng(1)
    ids, order = np.asarray(index.item_ids), np.argsort(index.item_ids)
    gone = order[:0]
    begin = time.monotonic()
    for batch in range(int(seconds * UPDATES_PER_SECOND / UPDATES_AT_ONCE)):
        time.sleep(max(0.0, begin + batch * UPDATES_AT_ONCE / UPDATES_PER_SECOND - time.monotonic()))
        drawn = rng.choice(len(ids), UPDATES_AT_ONCE, replace=False)
        deleted, kept = (
            drawn[:DELETED_AT_ONCE],
            np.setdiff1d([*drawn[DELETED_AT_ONCE:], *gone], drawn[:DELETED_AT_ONCE]),
        )
        kept = order[np.isin(order, kept)]  # Ascending by id.
        with log.writing():
            log.append(rows_of(index, kept, ids[kept], 0, batch), np.sort(ids[deleted]))
        gone = deleted


class Followed:
    """The demo's model over an index that follows a folder."""

    def __init__(self, workload: Workload, deltas: str) -> None:
        """Opens the index."""
        from tfserving_ext.retrieval import NeuralTopK

        os.environ["NANN_DELTAS"] = deltas
        self.workload = workload
        self.neural = NeuralTopK(workload.index, workload.trained.model.score)

    def answer(self, first: int, last: int) -> Any:
        """Returns what the surrogate search finds for the cases first to last - 1, by default settings."""
        import tensorflow as tf

        user = tuple(tensor[first:last] for tensor in self.workload.user)
        return self.neural.surrogate(user, K, tf.constant(self.workload.histories[first:last]))[0]

    def queries_per_second(self, seconds: float) -> float:
        """Returns how many searches a second run, on average over some time."""
        cases, done, begin = len(self.workload.histories), 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            first = done % (cases - BATCH + 1)
            self.answer(first, first + BATCH).item_ids.numpy()
            done += BATCH
        return done / (time.perf_counter() - begin)

    def sequence(self) -> int:
        """Returns the number of the last update that an answer knows."""
        return int(self.answer(0, 1).index_sequence.numpy()[0])

    def wait_for(self, sequence: int) -> float:
        """Returns the time at which an answer first knew an update."""
        while self.sequence() < sequence:
            time.sleep(0.002)
        return time.perf_counter()


def measure_coverage(workload: Workload) -> dict[str, float]:
    """Measures the coverage of brute force, with a fifth of the items deleted and as many added."""
    from tfserving_ext.retrieval.metrics import coverage

    index, rng = workload.index, np.random.default_rng(7)
    ids, n = np.asarray(index.item_ids), len(index.item_ids)
    gone = np.sort(rng.permutation(n)[: n // 5])
    like = rng.integers(0, n, n // 5)
    new_ids = ids.max() + 1 + np.arange(n // 5)
    added = rows_of(index, like, new_ids, 0.05, 7)
    scores = np.concatenate([all_scores(workload), _scores(workload, added.values)], axis=1)
    scores[:, gone] = -np.inf
    best = np.concatenate([ids, new_ids])[np.argsort(-scores, axis=1, kind="stable")[:, :K]]
    with tempfile.TemporaryDirectory(prefix="nann_live_") as deltas:
        log = Deltas(deltas, index)
        with log.writing():
            log.append(added, np.sort(ids[gone]))
        followed = Followed(workload, deltas)
        cases = len(workload.histories)
        parts = [followed.answer(first, min(first + BATCH, cases)) for first in range(0, cases, BATCH)]
    found = np.concatenate([part.item_ids.numpy() for part in parts])
    return {
        "coverage": float(coverage(found, best).mean()),
        "deleted_answers": int(np.isin(found, ids[gone]).sum()),
        "items_scored": float(np.concatenate([part.items_scored.numpy() for part in parts]).mean()),
    }


def _scores(workload: Workload, embeddings: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    users = range(len(workload.histories))
    rows = [tuple(tensor[case : case + 1] for tensor in workload.user) for case in users]
    score = tf.function(workload.trained.model.score, reduce_retracing=True)
    return np.concatenate([score(row, tf.constant(embeddings[None])).numpy() for row in rows])


def measure_freshness(workload: Workload, updates: int) -> list[float]:
    """Returns the seconds from the beginning of a call that updates an item until an answer knows it."""
    index, found = workload.index, []
    with tempfile.TemporaryDirectory(prefix="nann_live_") as deltas:
        followed, log = Followed(workload, deltas), Deltas(deltas, index)
        for update in range(updates):
            item = np.array([update])
            begin = time.perf_counter()
            with log.writing():
                sequence = log.append(rows_of(index, item, np.asarray(index.item_ids)[item], 0.05, update), item[:0])
            found.append(followed.wait_for(sequence) - begin)
    return found


def measure_speed(workload: Workload, seconds: float) -> dict[str, float]:
    """Returns queries per second with and without updates, the medians of four windows of each."""
    window = seconds / 8
    plain, without, under = Followed(workload, ""), [], []
    plain.queries_per_second(1.0)
    with tempfile.TemporaryDirectory(prefix="nann_live_") as deltas:
        followed = Followed(workload, deltas)
        followed.queries_per_second(1.0)
        context = multiprocessing.get_context("spawn")
        writer = context.Process(target=write_updates, args=(str(workload.index.folder), deltas, 4 * window))
        for _ in range(4):
            without.append(plain.queries_per_second(window))
        writer.start()
        followed.wait_for(1)
        for _ in range(4):
            under.append(followed.queries_per_second(window))
        writer.join()
        sequence = followed.sequence()
    found = {"without": float(np.median(without)), "under": float(np.median(under)), "segments": sequence}
    for moved in MOVED_ITEMS:
        with tempfile.TemporaryDirectory(prefix="nann_live_") as deltas:
            log, index = Deltas(deltas, workload.index), workload.index
            items = np.argsort(index.item_ids)[:moved]
            with log.writing():
                log.append(rows_of(index, items, np.asarray(index.item_ids)[items], 0.05, 1), items[:0])
            followed = Followed(workload, deltas)
            followed.queries_per_second(1.0)
            rates = [(plain.queries_per_second(window / 2), followed.queries_per_second(window / 2)) for _ in range(3)]
            found[f"with_{moved}_unindexed"] = float(np.median([one / other for other, one in rates]))
    return found


def summarise(figures: dict[str, Any]) -> dict[str, float]:
    """Returns the last line's object."""
    speed = figures["speed"]
    return {
        "live_coverage": round(figures["coverage"]["coverage"], 4),
        "live_deleted_answers": figures["coverage"]["deleted_answers"],
        "freshness_p50_s": round(float(np.percentile(figures["freshness"], 50)), 3),
        "freshness_p99_s": round(float(np.percentile(figures["freshness"], 99)), 3),
        "qps_under_updates": round(speed["under"] / speed["without"], 3),
        **{f"qps_with_{moved}_unindexed": round(speed[f"with_{moved}_unindexed"], 3) for moved in MOVED_ITEMS},
    }


def bench_live(folder: Path, out: Path, quick: bool = False) -> dict[str, float]:
    """Measures the demo's corpus and writes the raw figures to `out`.

    Raises:
      NannError: an artefact of the demo is missing.
    """
    from benchmarks.search.large import POSITIONS

    if not (folder / "index").exists():
        raise NannError(f"{folder / 'index'} does not exist; make it with `nann demo --folder {folder}`")
    index = Index.open(folder / "index")
    workload = without_answers(folder, index, QUICK_CASES if quick else CASES, POSITIONS, 1)
    figures: dict[str, Any] = {"quick": quick, "k": K, "items": len(index.item_ids), **provenance()}
    figures["coverage"] = measure_coverage(workload)
    outcome("live", f"coverage {figures['coverage']['coverage']:.4f}")
    figures["freshness"] = measure_freshness(workload, QUICK_FRESH_UPDATES if quick else FRESH_UPDATES)
    figures["speed"] = measure_speed(workload, QUICK_SECONDS if quick else SECONDS)
    summary = summarise(figures)
    write_json(out, {**figures, "summary": summary})
    return summary


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/live.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases and seconds.")] = False,
) -> None:
    """Measure searches while items change, on one thread; the last line is the summary as JSON.

    Example: python -m benchmarks.search.live --folder demo --quick
    """
    with measuring(out):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        summary = bench_live(folder, out, quick)
    console.print(f"live: {out}")
    print_summary(summary)


if __name__ == "__main__":
    typer.run(main)
