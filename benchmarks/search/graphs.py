"""HNSW's ground layer against one of nearest neighbours: `make bench-graphs`.

    python -m benchmarks.search.graphs --folder demo

Three corpora: the demo's, under its model and from its users' histories; the same widened (widen.py); and word vectors
(glove.py) under the dot product, entered from the upper layers. Each graph is built with several seeds. A search
becomes more expensive by `max_steps` and then by `pool`, and what it scores for a coverage is interpolated between the
two settings around it.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.search.evaluations import scored_at
from tfserving_ext.artifacts import write_json
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.index.original import load_array
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console, progress

K = 200
POSITIONS = 9
FRONTIER = 16
# (pool, max_steps), from cheap to expensive.
SETTINGS = (
    *((200, steps) for steps in (4, 5, 6, 7, 8, 10, 12)),
    *((pool, 1000) for pool in (200, 250, 300, 400, 600, 1000)),
)
COVERAGES = (0.98, 0.99, 0.995)
GRAPHS = {
    "hnsw": Hnsw(),
    "knn, 24 neighbours": Hnsw(graph="knn", neighbors=24),
    "knn, 32 neighbours": Hnsw(graph="knn"),
}
WIDENED, QUICK_WIDENED = 60_000, 40_000
VECTORS, QUICK_VECTORS = 30_000, 10_000
CASES, QUICK_CASES = 120, 40

# Searches an index with a pool and a limit of steps; returns the ids found [cases, K] and the items scored [cases].
Search = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass
class Corpus:
    """Items to build graphs over, and the cases to search them for.

    Attributes:
      item_ids: int64 [n].
      embeddings: float32 [n, dim].
      prepare: makes of an index the search of it and the exact answers, int64 [cases, K].
    """

    item_ids: np.ndarray
    embeddings: np.ndarray
    prepare: Callable[[Index], tuple[Search, np.ndarray]]


def bench_graphs(corpus: Corpus, scratch: Path, seeds: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Builds every graph of `GRAPHS` with every seed, and searches it with every setting.

    Args:
      corpus: the items and cases.
      scratch: a folder for the indexes, each of which is replaced by the next.
      seeds: of the graphs.

    Returns:
      By graph, for each seed: `seconds` of the build, `edges` of the ground layer, `megabytes` of all files,
      `manifest`, the facts of the graph, and `points`, for each setting `pool`, `max_steps`, `coverage`, its 5th
      percentile `p5`, and `items_scored`.
    """
    from tfserving_ext.retrieval.metrics import coverage

    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in GRAPHS}
    with progress("graphs", len(GRAPHS) * len(seeds)) as advance:
        for seed in seeds:
            for name, parameters in GRAPHS.items():
                begin = time.perf_counter()
                hnsw = dataclasses.replace(parameters, seed=seed)
                index = build_index(corpus.item_ids, corpus.embeddings, scratch / "index", hnsw)
                seconds = time.perf_counter() - begin
                search, exact = corpus.prepare(index)
                points = []
                for pool, steps in SETTINGS:
                    found, scored = search(pool, steps)
                    covered = coverage(found, exact)
                    point = {"pool": pool, "max_steps": steps, "coverage": float(covered.mean())}
                    points.append(
                        {**point, "p5": float(np.quantile(covered, 0.05)), "items_scored": float(scored.mean())}
                    )
                figures[name].append({**_facts(index), "seed": seed, "seconds": seconds, "points": points})
                advance(note=name)
    return figures


def _facts(index: Index) -> dict[str, Any]:
    return {
        "edges": len(index.layers[0].neighbors),
        "most_links": int(np.diff(index.layers[0].row_splits).max()),
        "megabytes": sum(path.stat().st_size for path in index.files) / 2**20,
        "manifest": {name: index.manifest.get(name) for name in ("graph", "knn", "unreachable")},
    }


def summarise(figures: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Summarises the figures of the corpora by the means over seeds.

    Returns:
      By corpus and graph: `scored_0.98` and so on, the items scored for each of `COVERAGES`, None if a graph of some
      seed does not reach it; `vs_hnsw_0.98` and so on, these over HNSW's; and `seconds`, `edges` and `megabytes`.
    """
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for corpus, graphs in figures.items():
        summary[corpus] = {}
        for name, builds in graphs.items():
            row: dict[str, Any] = {}
            for wanted in COVERAGES:
                scored = [scored_at(build["points"], wanted) for build in builds]
                reached = [one for one in scored if one is not None]
                row[f"scored_{wanted}"] = round(float(np.mean(reached))) if len(reached) == len(scored) else None
            for what, digits in (("seconds", 1), ("edges", 0), ("megabytes", 1)):
                row[what] = round(float(np.mean([build[what] for build in builds])), digits)
            summary[corpus][name] = row
        for row in summary[corpus].values():
            for wanted in COVERAGES:
                ours, theirs = row[f"scored_{wanted}"], summary[corpus]["hnsw"][f"scored_{wanted}"]
                row[f"vs_hnsw_{wanted}"] = round(ours / theirs, 3) if ours and theirs else None
    return summary


def _neural(folder: Path, items: int | None, cases: int) -> Corpus:
    """Returns the demo's items, or these widened to `items`, under its model."""
    from benchmarks.search.harness import make_workload
    from benchmarks.search.peers.ours import BestFirst
    from benchmarks.search.widen import widen

    ids, embeddings = (load_array(folder / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
    if items is not None:
        ground, first = Index.open(folder / "index").layers[0], int(ids.max()) + 1
        ids = np.concatenate([ids, np.arange(first, first + items - len(ids))])
        embeddings = widen(embeddings, ground.row_splits, ground.neighbors, items)
    made: list[Any] = []

    def prepare(index: Index) -> tuple[Search, np.ndarray]:
        if not made:  # Brute force needs the items alone, so that one workload is enough.
            made.append(make_workload(folder, index, cases, POSITIONS, K, 1))
        workload = dataclasses.replace(made[0], index=index)
        peer = BestFirst(workload)

        def search(pool: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
            found = peer.search(0, len(workload.targets), (FRONTIER, pool, steps))
            return found.item_ids.numpy(), found.items_scored.numpy()

        return search, workload.exact

    return Corpus(ids, embeddings, prepare)


def _vectors(folder: Path, items: int, cases: int) -> Corpus:
    """Returns the most frequent words' vectors, under the dot product, with other words as queries."""
    import faiss

    from benchmarks.search.glove import load_glove
    from benchmarks.search.metrics import split
    from tfserving_ext import ops
    from tfserving_ext.index.resource import MappedIndex

    vectors, queries = split(load_glove(folder / "bench" / "glove"), items)
    queries = np.ascontiguousarray(queries[np.unique(np.linspace(0, len(queries) - 1, cases).astype(int))])
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    exact = flat.search(queries, K)[1]

    def prepare(index: Index) -> tuple[Search, np.ndarray]:
        mapped = MappedIndex(index)

        def search(pool: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
            found = ops.best_first_search(mapped.resource_handle, [queries], "dot", K, FRONTIER, pool, max_steps=steps)
            return found.item_ids.numpy(), found.items_scored.numpy()

        return search, exact

    return Corpus(np.arange(len(vectors)), vectors, prepare)


def _corpora(folder: Path, only: str | None, quick: bool) -> Iterator[tuple[str, Corpus]]:
    cases = QUICK_CASES if quick else CASES
    if only in (None, "demo"):
        yield "demo", _neural(folder, None, cases)
    if only in (None, "widened"):
        yield "widened", _neural(folder, QUICK_WIDENED if quick else WIDENED, cases)
    if only in (None, "vectors"):
        yield "vectors", _vectors(folder, QUICK_VECTORS if quick else VECTORS, cases)


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/graphs.json"),
    corpus: Annotated[
        Literal["demo", "widened", "vectors"] | None, typer.Option(help="Only this corpus; the file keeps the others.")
    ] = None,
    builds: Annotated[int, typer.Option(help="Seeds of each graph.", min=1)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer cases, smaller corpora.")] = False,
) -> None:
    """Measure the graphs against each other; the last line is the summary as JSON.

    Example: python -m benchmarks.search.graphs --folder demo --corpus demo --quick
    """
    for name in ("data", "model", "embeddings", "index"):
        if not (folder / name).exists():
            print(f"error: {folder / name} does not exist; make it with `nann demo --folder {folder}`", file=sys.stderr)
            raise SystemExit(1)
    scratch = folder / "bench" / "graphs"
    scratch.mkdir(parents=True, exist_ok=True)
    figures = json.loads(out.read_text())["corpora"] if corpus is not None and out.exists() else {}
    with measuring(out):
        for name, one in _corpora(folder, corpus, quick):
            found = bench_graphs(one, scratch, range(1, builds + 1))
            shape = {"items": len(one.item_ids), "dim": one.embeddings.shape[1], "k": K, "quick": quick}
            figures[name] = {**shape, **provenance(), "graphs": found}
    summary = summarise({name: one["graphs"] for name, one in figures.items()})
    write_json(out, {"corpora": figures, "summary": summary})
    for name, graphs in summary.items():
        for graph, row in graphs.items():
            console.print(
                f"{name}, {figures[name]['items']:,} items, {graph}: scores "
                + ", ".join(f"{row[f'scored_{wanted}']} for {wanted}" for wanted in COVERAGES)
                + f"; {row['edges']:,.0f} edges, {row['megabytes']:.1f} MB, built in {row['seconds']:.1f} s"
            )
    print_summary(summary, out)


if __name__ == "__main__":
    typer.run(main)
