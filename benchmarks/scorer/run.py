"""Speed of scorers before and after the passes (docs/scorer.md), on one thread, including the gather of their rows.

    python -m benchmarks.scorer.run --folder demo

For every reference model in `models`, the original, with and without XLA, is compared with the results of
`ops.rewrite_scorer`. All take turns on the same random items, a batch at a time, and the fastest time of each counts.
Which of them ships is what `nann export` chooses, by its own measurement. A large matrix product takes part in the
turns: its multiply-adds per second are the peak, of which each scorer reaches a share.
Then the whole search of the demo's model is measured, if there is a demo.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Read when TensorFlow is imported.

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorflow as tf
import typer
from rich.table import Table

from benchmarks.command import Folder, Out, measuring, print_summary
from benchmarks.scorer.loops import PRODUCT, Contender, Rows, large_product, loop_of, nanoseconds, prepare_us
from benchmarks.scorer.models import SCORERS, ReferenceScorer
from benchmarks.scorer.report import print_table, summarise
from benchmarks.scorer.whole_search import AS_IT_IS, bench_whole_search
from export_tools.scorer import Choice, choose_fastest
from export_tools.variants import SAMPLE_ITEMS, Variants
from tfserving_ext import ops
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.machine import provenance
from tfserving_ext.progress import console, outcome, progress

BATCHES, QUICK_BATCHES = (64, 128, 256, 512, 1024, 2048, 4096), (64, 128, 512, 2048)
REPEATS, QUICK_REPEATS = 9, 4
ITEMS = 300_000  # So many that their rows of 256 bytes do not fit into the caches.
ITERATIONS = (3, 50)  # Fewest and most iterations of one call.
CALL_SECONDS = 0.3  # Most seconds that a call should take, so that turns follow each other at the same machine speed.
# The names that this benchmark gives to the variants of an export.
CONTENDERS = {
    "plain": "tensorflow",
    "plain+xla": "xla",
    "passes+xla": "passes, xla",
    "passes+fold+xla": "passes+fold, xla",
}
PEAK = "product"  # The name of the large matrix product among the contenders.
LARGEST_ERROR = 1e-4  # Largest difference between contenders, relative to the largest score.


def bench_scorer(folder: Path, out: Path, quick: bool = False) -> dict[str, Any]:
    """Measures all reference models; TensorFlow must not have run anything yet in this process.

    Args:
      folder: a demo's folder; without a model in it, no search is measured.
      out: file for the raw results, JSON.
      quick: fewer batch sizes and repetitions.

    Returns:
      The summary, see `summarise`.

    Raises:
      NannError: two contenders give different scores.
    """
    tf.get_logger().setLevel("ERROR")  # It would warn of retracing, taking all contenders' loops for one function.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    figures: dict[str, Any] = {**provenance(), "quick": quick, "items": ITEMS, "models": {}}
    with tempfile.TemporaryDirectory(prefix="nann_bench_scorer_") as scratch:
        rows = Rows(Path(scratch), ITEMS)
        figures["costs"] = nanoseconds(rows, QUICK_REPEATS if quick else REPEATS)
        with progress("scorers in turns", len(SCORERS)) as advance:
            for name, make in SCORERS.items():
                figures["models"][name] = measured = _bench_model(make(0), rows, quick)
                print_table(name, measured)
                advance(note=name)
    figures["search"] = _bench_search(folder, quick)
    figures["summary"] = summarise(figures)
    write_json(out, figures)
    return figures["summary"]


def _bench_model(model: ReferenceScorer, rows: Rows, quick: bool) -> dict[str, Any]:
    """Measures the microseconds per batch of every contender, and the speed-ups of the one that an export ships."""
    scorer = ops.trace_scorer(model, model.user, model.dim, xla=True)
    embeddings = rows.embeddings(model.dim)
    contenders = [
        Contender("xla", scorer, True, embeddings, model.dim),
        Contender("tensorflow", scorer, False, embeddings, model.dim),
    ]
    made = {"passes": ops.rewrite_scorer(scorer, model.user, model.dim)}
    folded = ops.rewrite_scorer(scorer, model.user, model.dim, fold_items=True)
    if folded.fold is not None:
        made["passes+fold"] = folded
    for name, one in made.items():
        index = embeddings if one.fold is None else rows.folded(model.name, model.dim, one.fold)
        contenders += [
            Contender(name, one.scorer, False, index, one.row_dim),
            Contender(f"{name}, xla", one.scorer, True, index, one.row_dim),
        ]
    choice = _export_s_choice(model)
    shipped = CONTENDERS.get(choice.variant.name, choice.variant.name)
    us, refused = _race(contenders, model.user, quick)
    baseline = "tensorflow" if "xla" in refused else "xla"
    batches = QUICK_BATCHES if quick else BATCHES
    before = made["passes"].report[0].multiply_adds_before
    form = shipped.removesuffix(", xla")
    after = made[form].report[-1].multiply_adds_after if form in made else before
    peak = us.pop(PEAK)
    return {
        "batches": list(batches),
        "us": us,
        "xla_refuses": refused,
        "baseline": baseline,
        "shipped": shipped,
        "export": choice.facts(),
        "speedups": _ratios(us[baseline], us[shipped]),
        "speedups_over_tensorflow": _ratios(us["tensorflow"], us[shipped]),
        "speedups_over_better": _ratios(np.minimum(us[baseline], us["tensorflow"]).tolist(), us[shipped]),
        "prepare_us": {name: prepare_us(one.scorer, model.user) for name, one in made.items()},
        "row_bytes": {name: 4 * one.row_dim for name, one in made.items()},
        "multiply_adds_before": before,
        "multiply_adds_after": after,
        "peak_gflops": [2e-3 * PRODUCT**3 / one for one in peak],
        "shares_of_peak": [
            after * batch / time / (PRODUCT**3 / of_product)
            for batch, time, of_product in zip(batches, us[shipped], peak, strict=True)
        ],
        "passes": [dict(zip(one._fields, one, strict=True)) for one in folded.report],
    }


def _export_s_choice(model: ReferenceScorer) -> Choice:
    """Returns the variant that `nann export` would ship on this machine, by its own measurement."""
    items = np.random.default_rng(6).normal(size=[SAMPLE_ITEMS, model.dim]).astype(np.float32)
    specs = [tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in model.user]
    return choose_fastest(Variants(model, specs, [model.user], items))


def _ratios(before: Sequence[float], after: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(before, after, strict=True)]


def _bench_search(folder: Path, quick: bool) -> dict[str, dict[str, float]] | None:
    """Runs `bench_whole_search` and prints its table; returns None if there is no demo."""
    if not (folder / "evaluation.json").exists():
        outcome("search", f"not measured: there is no demo's model in {folder}; make one with `make demo`")
        return None
    measured = bench_whole_search(folder, quick)
    table = Table("scorer", *(key.replace("_", " ") for key in measured[AS_IT_IS]), title="The demo's search")
    for name, one in measured.items():
        table.add_row(name, *(f"{value:.4g}" for value in one.values()))
    console.print(table)
    return measured


def _race(
    contenders: list[Contender], user: tuple[tf.Tensor, ...], quick: bool
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Returns microseconds per batch, by contender and batch size, and why XLA refused those that do not run.

    Those of `PEAK` are for the whole product; it takes its turns at every batch size.
    """
    rng = np.random.default_rng(5)
    loops = {one.name: loop_of(one, user) for one in contenders}
    us: dict[str, list[float]] = {name: [] for name in (*loops, PEAK)}
    product = large_product()
    refused: dict[str, str] = {}
    for batch in QUICK_BATCHES if quick else BATCHES:
        scores: dict[str, np.ndarray] = {}
        for one in contenders:
            if one.name in refused:
                continue
            try:  # The first call, in which XLA compiles.
                scores[one.name] = loops[one.name](_items(np.random.default_rng(batch), 1, batch)).numpy()
            except tf.errors.OpError as error:
                if not one.xla:
                    raise
                refused[one.name] = error.message.split("\n")[0]
                del loops[one.name], us[one.name]
        for name, found in scores.items():
            wrong = np.abs(found - scores["tensorflow"]).max() / np.abs(scores["tensorflow"]).max()
            if not wrong < LARGEST_ERROR:
                raise NannError(f"scores of {name} in batches of {batch} differ from the original by {wrong:.1e}")
        iterations = _iterations(loops["tensorflow"], _items(rng, ITERATIONS[0], batch))
        best = dict.fromkeys(us, float("inf"))
        for _ in range(QUICK_REPEATS if quick else REPEATS):
            # The same rows for all, none of which was read a moment ago: a search meets an item only once.
            items = _items(rng, iterations, batch)
            for name, loop in loops.items():
                best[name] = min(best[name], _seconds(loop, items) / iterations)
            best[PEAK] = min(best[PEAK], _seconds(product))
        for name, seconds in best.items():
            us[name].append(1e6 * seconds)
    return us, refused


def _seconds(function: Any, *arguments: tf.Tensor) -> float:
    begin = time.perf_counter()
    function(*arguments).numpy()
    return time.perf_counter() - begin


def _items(rng: np.random.Generator, iterations: int, batch: int) -> tf.Tensor:
    return tf.constant(rng.integers(0, ITEMS, [iterations, batch]), tf.int32)


def _iterations(loop: Any, items: tf.Tensor) -> int:
    """How many batches a call takes, where `items` has some of that size."""
    least, most = ITERATIONS
    return int(np.clip(CALL_SECONDS * len(items) / _seconds(loop, items), least, most))


def main(
    folder: Folder = Path("demo"),
    out: Out = Path("benchmarks/out/scorer.json"),
    quick: Annotated[bool, typer.Option("--quick", help="In a minute or two.")] = False,
) -> None:
    """Measure scorers before and after the passes; the last line is the summary as JSON.

    Example: python -m benchmarks.scorer.run --quick
    """
    with measuring(out):
        summary = bench_scorer(folder, out, quick)
    print_summary(summary, out)


if __name__ == "__main__":
    typer.run(main)
