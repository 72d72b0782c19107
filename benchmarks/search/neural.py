"""The searches under a trained neural model, ours and the peers, for its held-out users.

One process measures one number of threads, because TensorFlow fixes this number at its start:

    python -m benchmarks.search.neural --folder demo --threads 1 -o neural.json
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Folder
from benchmarks.search.evaluations import count_evaluations
from benchmarks.search.harness import Measured, contenders, make_workload, measure, race
from benchmarks.search.peers import Peer, Workload
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.progress import console, progress

K = 200
POSITIONS = 9
# The searches that are compared at a high coverage too, for which a search needs many cases.
HIGH, HIGH_COVERAGE = ("surrogate", "best_first", "guitar"), 0.995
# Cases per peer. Slow peers get fewer; those whose recalls are compared get many, as their difference is small.
CASES = {
    "surrogate": 600,
    "best_first": 600,
    "rounds": 200,
    "tensorflow_ops": 200,
    "brute_force": 16,
    "usearch": 16,
    "usearch_tuned": 100,
    "rerank": 600,
    "guitar": 200,
    "no_residuals": 200,
}
QUICK_CASES = {
    "surrogate": 200,
    "best_first": 200,
    "rounds": 64,
    "tensorflow_ops": 64,
    "brute_force": 8,
    "usearch": 4,
    "usearch_tuned": 32,
    "rerank": 200,
    "guitar": 64,
    "no_residuals": 64,
}
# The searches whose evaluations are counted, and on which cases.
COUNTED = ("surrogate", "no_residuals", "guitar", "best_first")
COUNTED_CASES, QUICK_COUNTED_CASES = CASES["guitar"], QUICK_CASES["guitar"]
BUILD_CASES, QUICK_BUILD_CASES = 300, 100
RACE_CASES = 64
REPEATS, QUICK_REPEATS = 6, 2


def _peers() -> dict[str, type[Peer]]:
    """Returns the peers by name, our own first. They are imported here because some need the `bench` extra."""
    try:
        from benchmarks.search.peers.usearch_numba import UsearchNumba
        from benchmarks.search.peers.usearch_tuned import UsearchTuned
    except ImportError as error:
        raise NannError(f"a peer cannot be imported ({error}); install them all: pip install '.[bench]'") from error
    from benchmarks.search.peers.brute_force import BruteForce
    from benchmarks.search.peers.guitar import Guitar
    from benchmarks.search.peers.no_residuals import NoResiduals
    from benchmarks.search.peers.ours import BestFirst, Rounds, Surrogate
    from benchmarks.search.peers.tensorflow_ops import TensorFlowOps
    from benchmarks.search.peers.two_sided_rerank import TwoSidedRerank

    ours: tuple[type[Peer], ...] = (Surrogate, BestFirst, Rounds)
    others: tuple[type[Peer], ...] = (
        *(TensorFlowOps, BruteForce, UsearchNumba, UsearchTuned, TwoSidedRerank),
        *(Guitar, NoResiduals),
    )
    return {peer.name: peer for peer in (*ours, *others)}


def bench_neural(folder: Path, threads: int = 1, builds: int = 3, quick: bool = False) -> dict[str, Any]:
    """Measures all searches with `threads` threads, which the caller has given TensorFlow.

    Args:
      folder: a demo's folder, with `data`, `model` and `embeddings` in it.
      threads: threads of every peer.
      builds: how many graphs to build; our searches are measured on each, the peers on the first.
      quick: fewer cases and repeats.

    Returns:
      A dict with `settings`, the result of each setting of each search; `race`, the milliseconds per query of the
      fastest setting that covers at least 0.98, measured in turns; `race_high`, the same of those in `HIGH` at 0.995;
      `evaluations`, for each search of `COUNTED` and each of its settings the coverage and the evaluations, all on the
      same cases; `builds`, the results of our searches on each graph; `overhead_share`, the part of the surrogate
      search's time outside the model; `model`, the recall of the models by themselves; and the parameters of the
      benchmark.

    Raises:
      NannError: an artefact or a library is missing.
    """
    peers, cases = _peers(), QUICK_CASES if quick else CASES
    build_cases = QUICK_BUILD_CASES if quick else BUILD_CASES
    indexes = [build_graph(folder, seed) for seed in range(1, builds + 1)]
    workload = make_workload(folder, indexes[0], max(cases.values()), POSITIONS, K, threads)
    found: dict[str, list[Measured]] = {}
    made: dict[str, Peer] = {}
    for name, make in peers.items():
        made[name] = make(workload.first(cases[name]))
        with progress(name, len(made[name].settings)) as advance:
            found[name] = []
            for setting in made[name].settings:
                found[name].append(measure(made[name], workload, setting, cases[name]))
                advance(note=f"coverage {found[name][-1].coverage:.3f}")
    runners = {name: (made[name], contenders(found[name])) for name in peers}
    high = {name: (made[name], contenders(found[name], HIGH_COVERAGE)) for name in HIGH}
    race_cases = {name: min(RACE_CASES, cases[name]) for name in peers}
    repeats = QUICK_REPEATS if quick else REPEATS
    fastest, fastest_high = race(runners, race_cases, repeats), race(high, race_cases, repeats)
    counted_cases = QUICK_COUNTED_CASES if quick else COUNTED_CASES
    hits = (workload.exact == workload.targets[:, None]).any(axis=1)
    return {
        "threads": threads,
        "k": K,
        "items": len(workload.index.item_ids),
        "cases": len(workload.targets),
        "settings": {name: [dataclasses.asdict(one) for one in ones] for name, ones in found.items()},
        "race": _raced(fastest, race_cases),
        "race_high": _raced(fastest_high, race_cases),
        "evaluations": {
            name: count_evaluations(made[name], workload, counted_cases)  # type: ignore[arg-type]
            for name in COUNTED
        },
        "builds": [_our_figures(dataclasses.replace(workload, index=index), build_cases) for index in indexes],
        "overhead_share": _overhead_share(made["surrogate"]),
        "model": {
            "recall_all": float(hits.mean()),
            "two_sided_recall_all": made["rerank"].recall_all(),  # type: ignore[attr-defined]
        },
    }


def _raced(fastest: dict[str, tuple[Measured, float]], cases: dict[str, int]) -> dict[str, Any]:
    return {
        name: {**dataclasses.asdict(measured), "ms_per_query": ms, "cases": cases[name]}
        for name, (measured, ms) in fastest.items()
    }


def build_graph(folder: Path, seed: int) -> Any:
    """Builds the graph of a seed, or opens an earlier one."""
    from tfserving_ext.index import Hnsw, Index, build_index
    from tfserving_ext.index.original import load_array

    target = folder / "bench" / f"index_{seed}"
    item_ids, embeddings = (load_array(folder / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
    if (target / "manifest.json").exists():
        index = Index.open(target)
        if np.array_equal(index.embeddings(), embeddings):
            return index
    return build_index(item_ids, embeddings, target, Hnsw(seed=seed))


def _our_figures(workload: Workload, cases: int) -> dict[str, Any]:
    """Measures coverage and cost of the default search and of the paper's rounds on one graph."""
    from benchmarks.search.peers.ours import BestFirst, Rounds, Surrogate
    from tfserving_ext.retrieval import Rounds as PaperRounds
    from tfserving_ext.retrieval.metrics import coverage

    figures: dict[str, Any] = {"seed": workload.index.manifest["seed"]}
    paper = PaperRounds()
    peers: tuple[tuple[Any, Any], ...] = (
        (Surrogate(workload), Surrogate.settings[0]),
        (BestFirst(workload), BestFirst.settings[0]),
        (Rounds(workload), (paper.ef, paper.rounds)),
    )
    for peer, setting in peers:
        count = min(cases, len(workload.targets))
        measured = measure(peer, workload, setting, count)
        answer = peer.search(0, count, setting)
        covered = coverage(answer.item_ids.numpy(), workload.exact[:count])
        figures[peer.name] = {
            **dataclasses.asdict(measured),
            "items_scored": float(answer.items_scored.numpy().mean()),
            "coverage_5th_percentile": float(np.quantile(covered, 0.05)),
        }
    return figures


def _overhead_share(search: Any) -> float:
    """Returns the part of a search's time, at its default setting, that is not spent in the scorer."""
    search.search(0, RACE_CASES, search.settings[0])
    result = search.search(0, RACE_CASES, search.settings[0])
    return float(1 - result.scorer_us.numpy().sum() / result.search_us.numpy().sum())


def main(
    folder: Folder = Path("demo"),
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file.")] = Path("neural.json"),
    threads: Annotated[int, typer.Option(help="Threads of every search.", min=1)] = 1,
    builds: Annotated[int, typer.Option(help="Graph builds.", min=1)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases.")] = False,
) -> None:
    """Measure all searches under the neural model with a number of threads."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    write_json(out, bench_neural(folder, threads, builds, quick))
    console.print(f"searches, {threads} threads: {out}")


if __name__ == "__main__":
    typer.run(main)
