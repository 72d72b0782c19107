"""The walk by itself, without a model: the dot product in our engine, in Faiss and in hnswlib.

Ours runs on the same graph that Faiss built and searches; hnswlib builds its own with the same M and efConstruction.
Each engine uses the cheapest setting that reaches a recall@10 of 0.95, and they take turns on one thread:

    python -m benchmarks.search.metrics --folder demo -o metrics.json
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import typer

from benchmarks.search.glove import load_glove
from tfserving_ext.artifacts import atomic_file, read_json, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.build import extract_graph
from tfserving_ext.index.format import Index, write_index
from tfserving_ext.index.graph import Graph
from tfserving_ext.progress import console, progress

K = 10
LEAST_RECALL = 0.95
QUERIES = 2000
M, EF_CONSTRUCTION = 16, 200
# Faiss draws about n / M^layer items into a layer; our search starts at all items of this one.
START_LAYER = 3
QUICK_ITEMS = 50_000
REPEATS, QUICK_REPEATS = 15, 5
FRONTIERS = (1, 2, 3, 4, 6, 8)
MAX_EF = 4096

# Answers all queries with a given breadth (ef or pool); returns item numbers [Q, K].
Engine = Callable[[int], np.ndarray]


def bench_metrics(folder: Path, quick: bool = False) -> dict[str, Any]:
    """Measures the three engines.

    Args:
      folder: a folder under which the vectors and graphs are kept, in `bench/glove`.
      quick: use only the first 50,000 vectors, and fewer repeats.

    Returns:
      A dict with `dot_qps_vs_faiss` and `dot_qps_vs_hnswlib`, the medians over the repeats; `engines`, for each its
      breadth, recall@10 and queries per second in its fastest repeat; and the parameters of the benchmark.

    Raises:
      NannError: the vectors cannot be downloaded, or an engine does not reach the recall.
    """
    items, queries = split(load_glove(folder / "bench" / "glove"), QUICK_ITEMS if quick else None)
    exact = exact_answers(items, queries)
    engines = dict(_engines(items, queries, folder / "bench" / "glove" / str(len(items))))
    runners, figures = {}, {}
    with progress(f"settings of recall@{K} {LEAST_RECALL}", len(engines)) as advance:
        for name, engine in engines.items():
            breadth, recall = narrowest(engine, exact)
            advance(note=f"{name}, {breadth}")
            runners[name] = (engine, breadth)
            figures[name] = {"breadth": breadth, "recall": recall}
    times = race(runners, QUICK_REPEATS if quick else REPEATS)
    for name, seconds in times.items():
        figures[name]["queries_per_second"] = len(queries) / min(seconds)
    ours = min((name for name in times if name.startswith("ours")), key=lambda name: min(times[name]))
    return {
        "items": len(items),
        "queries": len(queries),
        "k": K,
        "M": M,
        "efConstruction": EF_CONSTRUCTION,
        "ours": ours,
        "dot_qps_vs_faiss": ratio(times["faiss"], times[ours]),
        "dot_qps_vs_hnswlib": ratio(times["hnswlib"], times[ours]),
        "engines": figures,
    }


def split(vectors: np.ndarray, items: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Splits vectors into items and queries, which are spread evenly among the vectors."""
    vectors = np.ascontiguousarray(vectors[: None if items is None else items + QUERIES])
    held = np.zeros(len(vectors), bool)
    held[np.linspace(0, len(vectors) - 1, QUERIES).astype(int)] = True
    return vectors[~held], vectors[held]


def exact_answers(items: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Returns the K items with the largest dot products, [Q, K]."""
    flat = faiss.IndexFlatIP(items.shape[1])
    flat.add(items)
    return flat.search(queries, K)[1]


def recall_at_k(found: np.ndarray, exact: np.ndarray) -> float:
    """Returns the mean part of the exact answers that was found; a row must not hold an item twice."""
    return float((found[:, :, None] == exact[:, None, :]).any(axis=2).mean())


def narrowest(engine: Engine, exact: np.ndarray) -> tuple[int, float]:
    """Finds the smallest breadth that reaches the recall, by bisection; returns it with its recall.

    Raises:
      NannError: no breadth reaches the recall.
    """
    low, high = K - 1, 2 * K  # `low` never reaches the recall.
    while (reached := recall_at_k(engine(high), exact)) < LEAST_RECALL:
        if high >= MAX_EF:
            raise NannError(f"recall@{K} is {reached:.4f} at a breadth of {high}, short of {LEAST_RECALL}")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        recall = recall_at_k(engine(middle), exact)
        if recall >= LEAST_RECALL:
            high, reached = middle, recall
        else:
            low = middle
    return high, reached


def race(runners: dict[str, tuple[Engine, int]], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds that each engine takes for all queries, in `repeats` turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(repeats):
        for name, (engine, breadth) in runners.items():
            begin = time.perf_counter()
            engine(breadth)
            times[name].append(time.perf_counter() - begin)
    return times


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Returns how many times as many queries per second our engine answers: the median of the ratios of all turns."""
    return float(np.median(np.divide(theirs, ours)))


def _engines(items: np.ndarray, queries: np.ndarray, cache: Path) -> Iterator[tuple[str, Engine]]:
    """Yields the engines with their names, ready to answer."""
    import hnswlib
    import tensorflow as tf

    from tfserving_ext import ops
    from tfserving_ext.index.resource import MappedIndex

    built = _faiss_graph(items, cache / "faiss.index")
    mapped = MappedIndex(_our_index(built, items, cache / "ours"))
    search = tf.function(
        lambda frontier, pool: (
            ops.best_first_search(mapped.resource_handle, [queries], "dot", K, frontier, pool, max_steps=1000).item_ids
        )
    )

    def ours(frontier: int) -> Engine:
        return lambda pool: search(tf.constant(frontier), tf.constant(pool)).numpy()

    for frontier in FRONTIERS:
        yield f"ours, frontier {frontier}", ours(frontier)

    faiss.omp_set_num_threads(1)

    def by_faiss(ef: int) -> np.ndarray:
        built.hnsw.efSearch = ef
        return built.search(queries, K)[1]

    yield "faiss", by_faiss

    own = hnswlib.Index(space="ip", dim=items.shape[1])
    file = cache / "hnswlib.index"
    if file.exists():
        own.load_index(str(file))
    else:
        own.init_index(max_elements=len(items), ef_construction=EF_CONSTRUCTION, M=M, random_seed=1)
        with progress("hnswlib: adding items", len(items)) as advance:
            for start in range(0, len(items), 1 << 13):
                part = items[start : start + (1 << 13)]
                own.add_items(part, np.arange(start, start + len(part)))
                advance(len(part))
        with atomic_file(file) as path:
            own.save_index(str(path))
    own.set_num_threads(1)

    def by_hnswlib(ef: int) -> np.ndarray:
        own.set_ef(ef)
        return own.knn_query(queries, K)[0].astype(np.int64)

    yield "hnswlib", by_hnswlib


def _faiss_graph(items: np.ndarray, file: Path) -> Any:
    """Builds Faiss' graph over the items by their dot product, or reads an earlier one."""
    if file.exists():
        return faiss.read_index(str(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    built = faiss.IndexHNSWFlat(items.shape[1], M, faiss.METRIC_INNER_PRODUCT)
    built.hnsw.efConstruction = EF_CONSTRUCTION
    with progress("faiss: adding items", len(items)) as advance:
        for start in range(0, len(items), 1 << 13):
            part = items[start : start + (1 << 13)]
            built.add(part)
            advance(len(part))
    with atomic_file(file) as path:
        faiss.write_index(built, str(path))
    return built


def _our_index(built: Any, items: np.ndarray, folder: Path) -> Index:
    """Writes the same graph in our format, or opens an earlier one."""
    entry_points, layers = extract_graph(built.hnsw, START_LAYER)
    parameters = {"metric": "dot", "M": M, "efConstruction": EF_CONSTRUCTION}
    if (folder / "manifest.json").exists() and read_json(folder / "manifest.json")["num_items"] == len(items):
        return Index.open(folder)
    return write_index(folder, np.arange(len(items)), items, Graph(entry_points, layers), parameters)


def main(
    folder: Annotated[Path, typer.Option(help="A demo's folder.")] = Path("demo"),
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file.")] = Path("metrics.json"),
    quick: Annotated[bool, typer.Option("--quick", help="Use only a part of the vectors.")] = False,
) -> None:
    """Measure the walk under the dot product against Faiss and hnswlib, with one thread."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    figures = bench_metrics(folder, quick)
    write_json(out, figures)
    ratios = f"{figures['dot_qps_vs_faiss']:.2f} times Faiss, {figures['dot_qps_vs_hnswlib']:.2f} times hnswlib"
    console.print(f"the dot product on {figures['items']:,} vectors, {figures['ours']}: {ratios}")


if __name__ == "__main__":
    typer.run(main)
