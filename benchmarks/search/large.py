"""Our searches on 1.3 million items, compared with brute force, and the cost of opening such an index.

The items are those of a trained model and more drawn between them (widen.py), so that its users can ask for them:

    python -m benchmarks.search.large --folder demo -o large.json
"""

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Folder
from benchmarks.search.harness import Measured, contenders, make_workload, measure, race
from benchmarks.search.peers import Peer
from tfserving_ext.artifacts import write_json
from tfserving_ext.progress import console

ITEMS, QUICK_ITEMS = 1_300_000, 130_000
CASES, QUICK_CASES = 24, 12
REPEATS = 3
HIGH_COVERAGE = 0.99
K = 200
POSITIONS = 9


def bench_large(folder: Path, items: int = ITEMS, cases: int = CASES) -> dict[str, Any]:
    """Measures the surrogate and the best-first search against brute force, and the cost of opening the index.

    Args:
      folder: a demo's folder, with `data`, `model`, `embeddings` and `index` in it.
      items: size of the corpus.
      cases: number of test cases.

    Returns:
      A dict with `items` and `k`; `settings`, the result of each setting of our searches by name; `surrogate` and
      `best_first`, the fastest setting of each that covers at least 0.98, `surrogate_high` and `best_first_high`, the
      same at 0.99, and `brute_force_...` for each of its settings, with milliseconds per query in the race; and `map`,
      the result of `map_costs`.

    Raises:
      NannError: an artefact is missing.
    """
    from benchmarks.search.peers.brute_force import BruteForce
    from benchmarks.search.peers.ours import BestFirst, Surrogate

    index = build_large(folder, items)
    workload = make_workload(folder, index, cases, POSITIONS, K, 1)
    searches, brute_force = {peer.name: peer(workload) for peer in (Surrogate, BestFirst)}, BruteForce(workload)
    found = {
        name: [measure(search, workload, setting, cases) for setting in search.settings]
        for name, search in searches.items()
    }
    runners: dict[str, tuple[Peer, list[Measured]]] = {
        f"brute_force_{setting}": (brute_force, [measure(brute_force, workload, setting, max(2, cases // 6))])
        for setting in brute_force.settings
    }
    for name, search in searches.items():
        runners[name] = search, contenders(found[name])
        runners[f"{name}_high"] = search, contenders(found[name], HIGH_COVERAGE)
    fastest = race(runners, {name: measured[0].cases for name, (_, measured) in runners.items()}, REPEATS)
    figures: dict[str, Any] = {
        name: {**dataclasses.asdict(measured), "ms_per_query": ms} for name, (measured, ms) in fastest.items()
    }
    for name, figure in figures.items():
        if name.removesuffix("_high") in searches:
            answer = searches[name.removesuffix("_high")].search(0, cases, figure["setting"])
            figure["items_scored"] = float(answer.items_scored.numpy().mean())
    settings = {name: [dataclasses.asdict(one) for one in ones] for name, ones in found.items()}
    return {"items": len(index.item_ids), "k": K, "settings": settings, **figures, "map": map_costs(index.folder)}


def build_large(folder: Path, items: int) -> Any:
    """Builds the index of the large corpus, or opens an earlier one; ids of made items follow the largest real one."""
    from benchmarks.search.widen import widen
    from tfserving_ext.index import Index, build_index

    small = Index.open(folder / "index")
    real = small.embeddings()
    target = folder / "bench" / f"large_{items}"
    if (target / "manifest.json").exists():
        index = Index.open(target)
        if np.array_equal(index.embeddings(slice(len(real))), real):
            return index
    embeddings = widen(real, small.layers[0].row_splits, small.layers[0].neighbors, items)
    first = int(small.item_ids.max()) + 1
    item_ids = np.concatenate([small.item_ids, np.arange(first, first + items - len(real))])
    return build_index(item_ids, embeddings, target)


def map_costs(index: Path) -> dict[str, float]:
    """Measures what it costs a fresh process to open an index by the op, with every edge checked.

    Returns:
      A dict with `seconds`, those of the op; `seconds_with_python_checks`, including `Index.open`; `anonymous_mb`, how
      much the process's own memory grew; `file_mb`, the size of the files; and `dim`.
    """
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.search.large", "--map", str(index)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout.splitlines()[-1])


def _map(folder: Path) -> dict[str, float]:
    from tfserving_ext.index import Index
    from tfserving_ext.index.resource import MappedIndex

    before, begin = _anonymous_mb(), time.perf_counter()
    index = Index.open(folder)
    opened = time.perf_counter()
    mapped = MappedIndex(index)
    seconds = time.perf_counter() - opened
    return {
        "seconds": seconds,
        "seconds_with_python_checks": seconds + opened - begin,
        "anonymous_mb": _anonymous_mb() - before,
        "file_mb": sum(path.stat().st_size for path in index.files) / 2**20,
        "dim": mapped.dim,
    }


def _anonymous_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def main(
    folder: Folder = Path("demo"),
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file.")] = Path("large.json"),
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the corpus.")] = False,
    map_index: Annotated[Path | None, typer.Option("--map", help="Only open this index, and print its cost.")] = None,
) -> None:
    """Measure our searches on 1.3 million items, with one thread."""
    if map_index is not None:
        print(json.dumps(_map(map_index)))
        return
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    write_json(out, bench_large(folder, QUICK_ITEMS if quick else ITEMS, QUICK_CASES if quick else CASES))
    console.print(f"a large corpus: {out}")


if __name__ == "__main__":
    typer.run(main)
