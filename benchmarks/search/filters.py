"""Searches under a filter against brute force over the items that pass, and against filtering a longer answer.

    python -m benchmarks.search.filters --folder demo

Every case has filters of its own: on a column of random numbers, and on a column that is correlated with the scores
that the model gives the items for this user, from its upper end and from its lower one. Times are those of filters
whose text the index has seen before.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.search.harness import BATCH, without_answers
from benchmarks.search.peers.peer import Workload
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console, progress

K = 100
SHARES = {"50": 0.5, "10": 0.1, "1": 0.01, "01": 0.001}
KINDS = ("", "_taste", "_anti")
# Standard deviation of what is added to an item's place among all items, from 0 to 1: a correlation of 0.5.
NOISE = 0.5
CASES, QUICK_CASES, LARGE_CASES = 100, 40, 24
REPEATS, QUICK_REPEATS = 6, 3
POSTFILTER_CASES, LARGE_POSTFILTER_CASES = 8, 2
POSTFILTER_PASSES = 2
LARGE_ITEMS = 1_300_000
SCORED_AT_ONCE = 1 << 13


@dataclasses.dataclass(frozen=True)
class Filters:
    """The filters of all cases.

    Attributes:
      texts: one filter per case.
      passing: bool [cases, n], which items pass.
    """

    texts: list[str]
    passing: np.ndarray


def make_columns(scores: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the columns to filter by, float64 [n] each: `luck`, and `taste_i` for every case i.

    Args:
      scores: float32 [cases, n], the model's scores of all items.
      seed: seed of the draws.
    """
    rng = np.random.default_rng(seed)
    cases, n = scores.shape
    columns: dict[str, np.ndarray] = {"luck": rng.random([n])}
    for case in range(cases):
        place = np.empty(n)
        place[np.argsort(scores[case])] = np.arange(n) / n
        columns[f"taste_{case}"] = place + rng.normal(scale=NOISE, size=n)
    return columns


def make_filters(columns: dict[str, np.ndarray], kind: str, share: float) -> Filters:
    """Returns one filter for each case which `share` of the items pass, at least one."""
    texts, passing = [], []
    for name in [name for name in columns if name.startswith("taste_")]:
        column = columns[name if kind else "luck"]
        count = max(1, round(share * len(column)))
        lowest = kind != "_taste"
        place = count - 1 if lowest else len(column) - count
        bound = float(np.partition(column, place)[place])
        texts.append(f"{name if kind else 'luck'} {'<=' if lowest else '>='} {bound!r}")
        passing.append(column <= bound if lowest else column >= bound)
    return Filters(texts, np.stack(passing))


def best_passing(scores: np.ndarray, filters: Filters, item_ids: np.ndarray, k: int) -> np.ndarray:
    """Returns the answers of brute force over the items that pass, item ids int64 [cases, k], padded by -1."""
    answers = np.full([len(scores), k], -1, np.int64)
    for case, (row, passing) in enumerate(zip(scores, filters.passing, strict=True)):
        items = np.flatnonzero(passing)
        order = items[np.argsort(-row[items], kind="stable")[:k]]
        answers[case, : len(order)] = item_ids[order]
    return answers


class Corpus:
    """A corpus with the columns, and what is measured on it."""

    def __init__(self, workload: Workload, target: Path) -> None:
        """Scores all items for every case, writes the index with the columns to `target`, and maps it."""
        from tfserving_ext.retrieval import NeuralTopK

        self.workload = workload
        self.scores = all_scores(workload)
        self.columns = make_columns(self.scores)
        self.index = with_columns(workload.index, self.columns, target)
        self.neural = NeuralTopK(self.index, workload.trained.model.score)

    def search(self, name: str, first: int, last: int, filters: Filters | None, k: int = K) -> Any:
        """Returns what a search finds for the cases first to last - 1, by default settings."""
        import tensorflow as tf

        user = tuple(tensor[first:last] for tensor in self.workload.user)
        seeds = tf.constant(self.workload.histories[first:last])
        text = {} if filters is None else {"filter": tf.constant(filters.texts[first:last])}
        found = getattr(self.neural, name)(user, k, seeds, **text)
        return found[0] if name == "surrogate" else found

    def batches(self) -> Iterator[tuple[int, int]]:
        """Yields the first case of every batch, and the one behind its last."""
        count = len(self.scores)
        return ((first, min(first + BATCH, count)) for first in range(0, count, BATCH))

    def seconds(self, name: str, filters: Filters | None) -> float:
        """Returns the seconds of one query, the mean over all cases."""
        begin = time.perf_counter()
        for first, last in self.batches():
            self.search(name, first, last, filters).item_ids.numpy()
        return (time.perf_counter() - begin) / len(self.scores)


def all_scores(workload: Workload) -> np.ndarray:
    """Returns the model's scores of all items for all cases, float32 [cases, n]."""
    import tensorflow as tf

    score = tf.function(workload.trained.model.score, reduce_retracing=True)
    n, cases = len(workload.index.item_ids), len(workload.targets)
    scores = np.empty([cases, n], np.float32)
    with progress("brute force, for the coverage", n) as advance:
        for first in range(0, n, SCORED_AT_ONCE):
            items = tf.constant(workload.index.embeddings(slice(first, first + SCORED_AT_ONCE)))[None]
            for case in range(cases):
                user = tuple(tensor[case : case + 1] for tensor in workload.user)
                scores[case, first : first + SCORED_AT_ONCE] = score(user, items)[0]
            advance(items.shape[1])
    return scores


def with_columns(index: Any, columns: dict[str, np.ndarray], target: Path) -> Any:
    """Writes the index with other attributes, without building its graph again."""
    import polars as pl

    from tfserving_ext.index.attributes import store_attributes
    from tfserving_ext.index.format import ItemStorage, write_index
    from tfserving_ext.index.graph import Graph

    item_ids = np.asarray(index.item_ids)
    stored = store_attributes(pl.DataFrame({"item_id": item_ids, **columns}), item_ids)
    graph = Graph(index.entry_points, index.layers)
    return write_index(target, item_ids, index.embeddings(), graph, {}, ItemStorage("float32", stored), force=True)


def measure(corpus: Corpus, filters: Filters) -> dict[str, Any]:
    """Returns coverage, items scored and broken promises of each search under the filters."""
    from tfserving_ext.retrieval.metrics import coverage

    exact = best_passing(corpus.scores, filters, corpus.workload.index.item_ids, K)
    order = np.argsort(corpus.workload.index.item_ids)
    figures: dict[str, Any] = {"passing": float(filters.passing.sum(axis=1).mean())}
    for name in ("surrogate", "best_first"):
        parts = [corpus.search(name, first, last, filters) for first, last in corpus.batches()]
        found = np.concatenate([part.item_ids.numpy() for part in parts])
        items = order[np.searchsorted(corpus.workload.index.item_ids, np.maximum(found, 0), sorter=order) % len(order)]
        passes = np.take_along_axis(filters.passing, items, axis=1)
        figures[name] = {
            "coverage": float(coverage(found, exact).mean()),
            "coverage_5th_percentile": float(np.percentile(coverage(found, exact), 5)),
            "items_scored": float(np.concatenate([part.items_scored.numpy() for part in parts]).mean()),
            "exact": float(np.concatenate([part.exact.numpy() for part in parts]).mean()),
            "failing_answers": int(((found >= 0) & ~passes).sum()),
            "short_answers": int(((found >= 0).sum(axis=1) < (exact >= 0).sum(axis=1)).sum()),
        }
    return figures


def post_filter(corpus: Corpus, filters: Filters, wanted: float, cases: int) -> dict[str, float]:
    """Measures the peer: the surrogate search without the filter, with the least k of which enough passes.

    k is doubled from k over the passing share until the coverage of the items that pass is `wanted`. Where not even a
    quarter of all items is enough, all are scored by brute force and filtered.
    """
    import tensorflow as tf

    from tfserving_ext.retrieval import BruteForce
    from tfserving_ext.retrieval.metrics import coverage

    item_ids, n = np.asarray(corpus.workload.index.item_ids), corpus.scores.shape[1]
    chosen = Filters(filters.texts[:cases], filters.passing[:cases])
    exact = best_passing(corpus.scores[:cases], chosen, item_ids, K)

    def timed(answer: Callable[[int], Any]) -> tuple[float, float]:
        passes = []
        for _ in range(POSTFILTER_PASSES):
            covered, seconds = [], 0.0
            for case in range(len(chosen.texts)):
                begin = time.perf_counter()
                found = answer(case).item_ids.numpy()[0]
                kept = found[np.isin(found, item_ids[chosen.passing[case]])][:K]
                seconds += time.perf_counter() - begin
                covered.append(coverage(kept[None], exact[case : case + 1])[0])
            passes.append(seconds / len(chosen.texts))
        return float(np.mean(covered)), min(passes)

    k = int(K * n / filters.passing[0].sum())
    while k <= n // 4:
        covered, seconds = timed(lambda case: corpus.search("surrogate", case, case + 1, None, k))  # noqa: B023
        if covered >= wanted:
            return {"k": k, "coverage": covered, "ms_per_query": 1000 * seconds}
        k *= 2
    brute_force = BruteForce(corpus.index, corpus.workload.trained.model.score)
    users = corpus.workload.user
    covered, seconds = timed(
        lambda case: brute_force.search(tuple(tensor[case : case + 1] for tensor in users), tf.constant(n))
    )
    return {"k": n, "coverage": covered, "ms_per_query": 1000 * seconds}


def bench_corpus(corpus: Corpus, repeats: int, postfilter_cases: int) -> dict[str, Any]:
    """Measures all filters on a corpus, in turns with the search without any; see `summarise`."""
    filters = {
        f"{share}{kind}": make_filters(corpus.columns, kind, SHARES[share]) for share in SHARES for kind in KINDS
    }
    figures = {name: measure(corpus, one) for name, one in filters.items()}
    best: dict[str | None, float] = dict.fromkeys([None, *filters], float("inf"))
    corpus.seconds("surrogate", None)  # The first call traces the search.
    for _ in range(repeats):
        for name in best:
            seconds = corpus.seconds("surrogate", None if name is None else filters[name])
            best[name] = min(best[name], seconds)
    for name, one in filters.items():
        figures[name]["ms_per_query"] = 1000 * best[name]
        wanted = figures[name]["surrogate"]["coverage"] - 0.005
        figures[name]["post_filter"] = post_filter(corpus, one, wanted, postfilter_cases)
    return {"items": corpus.scores.shape[1], "ms_unfiltered": 1000 * best[None], "filters": figures}


def summarise(figures: dict[str, Any], suffix: str) -> dict[str, float]:
    """Summarises the figures of a corpus.

    Returns:
      For 50, 10, 1 and 0.1 % passing, and filters independent of the user's taste, correlated (`_taste`) and
      anti-correlated with it (`_anti`), of the surrogate search by default at k 100: `coverage_...`, `scored_...`, the
      items that it scores, `time_vs_unfiltered_...`, its time over that without a filter, and `vs_postfilter_...`,
      the peer's time over its own at about its coverage; and `failing_answers` and `short_answers`, which are 0.
    """
    summary: dict[str, float] = {"failing_answers": 0, "short_answers": 0}
    for name, one in figures["filters"].items():
        ours = one["surrogate"]
        summary[f"coverage_{name}"] = round(ours["coverage"], 4)
        summary[f"scored_{name}"] = round(ours["items_scored"], 1)
        summary[f"time_vs_unfiltered_{name}"] = round(one["ms_per_query"] / figures["ms_unfiltered"], 3)
        summary[f"vs_postfilter_{name}"] = round(one["post_filter"]["ms_per_query"] / one["ms_per_query"], 2)
        for broken in ("failing_answers", "short_answers"):
            summary[broken] += sum(one[search][broken] for search in ("surrogate", "best_first"))
    return {f"{name}{suffix}": value for name, value in summary.items()}


def bench_filters(folder: Path, out: Path, quick: bool = False) -> dict[str, float]:
    """Measures the demo's corpus, and unless `quick` its widened one, and writes the raw figures to `out`.

    Raises:
      NannError: an artefact of the demo is missing.
    """
    from benchmarks.search.large import POSITIONS, build_large
    from tfserving_ext.index import Index

    if not (folder / "index").exists():
        raise NannError(f"{folder / 'index'} does not exist; make it with `nann demo --folder {folder}`")
    figures: dict[str, Any] = {"quick": quick, "k": K, **provenance()}
    summary: dict[str, float] = {}
    sizes = {"": QUICK_CASES if quick else CASES} | ({} if quick else {"_1m": LARGE_CASES})
    for suffix, cases in sizes.items():
        index = build_large(folder, LARGE_ITEMS) if suffix else Index.open(folder / "index")
        workload = without_answers(folder, index, cases, POSITIONS, 1)
        corpus = Corpus(workload, folder / "bench" / f"filters{suffix}")
        repeats = QUICK_REPEATS if quick else REPEATS
        figures[f"corpus{suffix}"] = bench_corpus(
            corpus, repeats, LARGE_POSTFILTER_CASES if suffix else POSTFILTER_CASES
        )
        summary |= summarise(figures[f"corpus{suffix}"], suffix)
    write_json(out, {**figures, "summary": summary})
    return summary


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/filters.json"),
    quick: Annotated[bool, typer.Option("--quick", help="The demo's corpus only, with fewer cases.")] = False,
) -> None:
    """Measure filters on one thread; the last line is the summary as JSON.

    Example: python -m benchmarks.search.filters --folder demo --quick
    """
    with measuring(out):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        summary = bench_filters(folder, out, quick)
    console.print(f"filters: {out}")
    print_summary(summary)


if __name__ == "__main__":
    typer.run(main)
