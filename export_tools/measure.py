"""Measures the variants of a scorer on the machine that exports, in turns, as a search runs them."""

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from export_tools.variants import Variant
from tfserving_ext import ops
from tfserving_ext.index import Graph, ItemStorage, Layer, write_index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.machine import machine
from tfserving_ext.models import UserTensors
from tfserving_ext.progress import Advance, progress

# Sizes of a batch, and the share of a search's items that each stands for: most rounds of a best-first walk score 100
# to 300 items (docs/searches.md), and some searches score fewer at a time.
SIZES: Mapping[int, float] = {64: 0.25, 128: 0.25, 256: 0.5}
BATCHES = 8  # Of one user, so that what runs once per user has about the share that it has in a request.
# The rounds end when their two halves agree, or after so many seconds.
LEAST_ROUNDS, SECONDS, STEADY = 6, 4.0, 0.02
HOPELESS = 3.0  # A variant that takes so many times as long as the fastest is not measured again at this size.
# Rows in a table, so that they do not fit into the caches, as those of a corpus do not; fewer if rows are wide.
TABLE_ROWS, TABLE_BYTES = 100_000, 128 << 20
LEAST_US = 0.1  # What is counted where the scorer takes no more time than the metric.
WALK = ""  # The name of the search around a scorer, which is measured with a built-in metric in its place.
STEPS = 50  # Of the progress bar, for the first round and for the others.

Times = dict[str, dict[int, float]]


class Measured(NamedTuple):
    """The times of all variants.

    Attributes:
      us: microseconds of the processor per batch, by the variant's name and the size: the least of all rounds.
      noise: by how much the costs would differ if only every second round had been measured, as a part of them.
    """

    us: Times
    noise: float


def measure(variants: Sequence[Variant], user: UserTensors, items: np.ndarray, dtype: str = "float32") -> Measured:
    """Measures the time that a search spends on a batch: for gathering rows, and in the scorer.

    What is measured is the time of the processor, in all threads of this process, since other programs disturb it far
    less than the time on the clock; the walk, measured with a built-in metric, is taken off. All variants take turns on
    the same items. As many users as this process has cores search side by side, as on a server under load.

    Args:
      variants: what to measure.
      user: user tensors of one user, each [1, ...].
      items: float32 [m, dim], the embeddings to score; they are repeated if there are few.
      dtype: type of the index's table.
    """
    with contextlib.ExitStack() as work:
        folder = Path(work.enter_context(tempfile.TemporaryDirectory(prefix="nann_measured_")))
        tables = _tables(variants, items, dtype, folder)
        users = machine()["cores"]
        many = [tf.repeat(tensor, users, axis=0) for tensor in user]
        timers = {
            (variant.name, size): _timer(variant.scorer, many, tables[_table_of(variant)], size)
            for variant in variants
            for size in SIZES
        }
        first = tables[_table_of(variants[0])]
        queries = [tf.zeros([users, first.dim])]
        timers |= {(WALK, size): _timer("dot", queries, first, size) for size in SIZES}
        count = first.item_ids().shape[0]
        rng = np.random.default_rng(0)

        def run(name: str, size: int, order: np.ndarray) -> float:
            return timers[name, size](tf.constant(np.resize(order, [users, BATCHES * size])))

        advance = work.enter_context(progress("variants of the scorer", 2 * STEPS))
        order = rng.permutation(count)
        for name, size in timers:  # Functions are made and compiled.
            run(name, size, order)
            advance(STEPS / len(timers), note=name)
        return _rounds(list(timers), lambda name, size: run(name, size, order), lambda: rng.shuffle(order), advance)


def costs(us: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Returns the nanoseconds per item of each variant, over the sizes of batches as a search has them."""
    return {name: sum(SIZES[size] * 1000 * one / size for size, one in sizes.items()) for name, sizes in us.items()}


def _rounds(
    keys: Sequence[tuple[str, int]],
    run: Callable[[str, int], float],
    shuffle: Callable[[], None],
    advance: Advance,
) -> Measured:
    """Measures the times of all `keys`, in turns, until they are steady."""
    halves: tuple[Times, Times] = ({name: {} for name, _ in keys}, {name: {} for name, _ in keys})
    start = shown = time.monotonic()
    number = 0
    while True:
        now = time.monotonic()
        advance(max(min(now, start + SECONDS) - shown, 0) / SECONDS * STEPS)
        shown = now
        noise = _noise(halves) if number >= LEAST_ROUNDS else math.inf
        if noise < STEADY or (number >= LEAST_ROUNDS and now - start > SECONDS):
            return Measured(_without_walk(_best(halves)), noise)
        best = _best(halves)
        shuffle()  # Each round has other items, since a search meets an item only once.
        for name, size in keys:
            if number >= LEAST_ROUNDS and best[name][size] > HOPELESS * min(
                times[size] for other, times in best.items() if other != WALK
            ):
                continue
            half = halves[number % 2][name]
            half[size] = min(run(name, size), half.get(size, math.inf))
        number += 1


def _best(halves: tuple[Times, Times]) -> Times:
    one, other = halves
    return {
        name: {size: min(us, other[name].get(size, math.inf)) for size, us in sizes.items()}
        for name, sizes in one.items()
    }


def _without_walk(times: Times) -> Times:
    """Returns the times of the scorers, without that of the search around them."""
    return {
        name: {size: max(us - times[WALK][size], LEAST_US) for size, us in sizes.items()}
        for name, sizes in times.items()
        if name != WALK
    }


def _noise(halves: tuple[Times, Times]) -> float:
    """Returns the largest difference between the halves, of the variants that are among the fastest."""
    one, other, best = (costs(_without_walk(times)) for times in (*halves, _best(halves)))
    least = min(best.values())
    return max(abs(one[name] - other[name]) / cost for name, cost in best.items() if cost <= HOPELESS * least)


def _table_of(variant: Variant) -> str:
    return "rows" if variant.fold is not None else "embeddings"


def _tables(variants: Sequence[Variant], items: np.ndarray, dtype: str, folder: Path) -> dict[str, MappedIndex]:
    """Writes the rows that each variant takes of the same items, and maps them."""
    folds = {_table_of(variant): variant.fold for variant in variants}
    widest = max(variant.rewritten.row_dim if variant.rewritten else items.shape[1] for variant in variants)
    count = max(min(TABLE_ROWS, TABLE_BYTES // (4 * widest)), BATCHES * max(SIZES))
    tables = {}
    for name, fold in folds.items():
        values = items if fold is None else fold(tf.constant(items[None])).numpy()[0]
        values = values[np.arange(count) % len(items)]
        layer = Layer(np.zeros(count + 1, np.int64), np.zeros(0, np.int32))
        graph = Graph(np.zeros(1, np.int32), [layer])
        written = write_index(folder / name, np.arange(count), values, graph, {}, ItemStorage(dtype))
        tables[name] = MappedIndex(written)
    return tables


def _timer(
    scorer: ops.Scorer | str, user: Sequence[tf.Tensor], table: MappedIndex, size: int
) -> Callable[[tf.Tensor], float]:
    """Returns a function of ids, int64 [B, BATCHES * size], that scores them for the users [B, ...].

    It returns the microseconds per batch that the processor spends in this process, in all threads.
    """

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int64)])
    def search(seeds: tf.Tensor) -> tf.Tensor:
        # The search's first round scores the seeds, and the budget ends it then.
        found = ops.best_first_search(
            table.resource_handle,
            user,
            scorer,
            k=1,
            frontier=1,
            pool=1,
            seeds=seeds,
            budget=tf.shape(seeds)[1],
            batch_sizes=[size],
            rewrite=False,
        )
        return found.scores

    run = search.get_concrete_function()  # Called by itself, it would warn of one function after the other.

    def timer(seeds: tf.Tensor) -> float:
        start = time.process_time()
        run(seeds).numpy()
        return 1e6 * (time.process_time() - start) / (BATCHES * len(seeds))

    return timer
