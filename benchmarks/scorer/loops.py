"""The loops that `benchmarks.scorer.run` times: inside TensorFlow, without Python, over rows of mapped indexes."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext import ops
from tfserving_ext.index import Graph, Layer, write_index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.models.retrieval_model import UserTensors
from tfserving_ext.ops import Scorer

CHUNK = 20_000  # Rows to make, or read, at a time.
CALLS = 20  # Calls of `prepare`, or of a gather, in one loop.
PRODUCT = 1024  # Rows and columns of the matrices of a large product.
BATCH, WIDTHS = 4096, (64, 256)  # Rows, and widths of rows, of the gathers that are timed.


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to score.

    Attributes:
      name: its name in the results.
      scorer: scores the rows of the index.
      xla: run the scorer as compiled by XLA.
      index: holds the rows.
      row_dim: width of a row.
    """

    name: str
    scorer: Scorer
    xla: bool
    index: MappedIndex
    row_dim: int


class Rows:
    """Indexes without edges, whose rows are random embeddings or are folded from them.

    Attributes:
      count: number of items.
    """

    def __init__(self, folder: Path, items: int) -> None:
        """Sets up indexes of `items` items, to be written to `folder`."""
        self._folder, self.count = folder, items
        self._made: dict[int, tuple[np.ndarray, MappedIndex]] = {}

    def embeddings(self, dim: int) -> MappedIndex:
        """Returns an index of random embeddings [items, dim], the same at every call."""
        if dim not in self._made:
            values = np.random.default_rng(dim).normal(size=[self.count, dim]).astype(np.float32)
            self._made[dim] = values, self._mapped(f"embeddings_{dim}", values)
        return self._made[dim][1]

    def folded(self, name: str, dim: int, fold: Callable[[tf.Tensor], tf.Tensor]) -> MappedIndex:
        """Returns an index of the rows that `fold` computes from the embeddings of width `dim`."""
        self.embeddings(dim)
        values = self._made[dim][0]
        parts = [fold(tf.constant(values[None, first : first + CHUNK]))[0] for first in range(0, len(values), CHUNK)]
        return self._mapped(f"folded_{name}", tf.concat(parts, axis=0).numpy())

    def _mapped(self, name: str, values: np.ndarray) -> MappedIndex:
        layer = Layer(np.zeros(len(values) + 1, np.int64), np.zeros(0, np.int32))
        ids = np.arange(len(values))
        index = MappedIndex(write_index(self._folder / name, ids, values, Graph(np.zeros(1, np.int32), [layer]), {}))
        # Read everything once, so that every page is mapped before anything is timed.
        for first in range(0, len(values), CHUNK):
            index.embeddings(tf.range(first, min(first + CHUNK, len(values))))
        return index


def loop_of(one: Contender, user: UserTensors) -> Any:
    """Makes a function that gathers and scores items, int32 [iterations, n], one row of them after the other.

    It returns the sums of scores [1, n]. `prepare` runs once, before the loop, as it does once per request.
    """
    scorer = one.scorer
    function = scorer.compiled if one.xla else scorer.plain

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None], tf.int32)])
    def loop(items: tf.Tensor) -> tf.Tensor:
        prepared = _prepared(scorer, user)

        def body(i: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = ops.index_gather(one.index.resource_handle, items[i], one.row_dim)
            scores = _called(function, [*user, *prepared, rows[None]], scorer)
            scores.set_shape([1, None])
            return i + 1, sums + scores

        start = (tf.constant(0), tf.zeros([1, tf.shape(items)[1]]))
        return tf.while_loop(lambda i, _: i < tf.shape(items)[0], body, start, parallel_iterations=1)[1]

    return loop


def prepare_us(scorer: Scorer, user: UserTensors) -> float:
    """Returns the microseconds that `prepare` takes, once per request; 0 if nothing is prepared."""
    if scorer.prepare is None or not scorer.prepare.outputs:
        return 0.0

    @tf.function(autograph=False)
    def loop() -> tf.Tensor:
        def body(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Use one value of each result, so that TensorFlow cannot leave any of them out.
            values = [tf.cast(tf.reshape(tensor, [-1])[0], tf.float32) for tensor in _prepared(scorer, user)]
            return i + 1, total + tf.add_n(values)

        return tf.while_loop(lambda i, _: i < CALLS, body, (tf.constant(0), tf.zeros([])), parallel_iterations=1)[1]

    return 1e6 * _best_seconds({"prepare": loop}, [()] * 10)["prepare"] / CALLS


def nanoseconds(rows: Rows, repeats: int) -> dict[str, float]:
    """Measures the nanoseconds per multiply-add of a large matrix product, and per byte of rows gathered at random.

    Returns:
      A dict with `multiply_add`, `byte_uncut` for gathering alone, and `byte` for rows that are then split into parts.
    """
    rng = np.random.default_rng(6)
    items = [(tf.constant(rng.integers(0, rows.count, [CALLS, BATCH]), tf.int32),) for _ in range(2 * repeats)]
    narrow, wide = WIDTHS
    seconds = _best_seconds(
        {
            "narrow": _gather_loop(rows.embeddings(narrow), narrow, 1),
            "wide": _gather_loop(rows.embeddings(wide), wide, 1),
            "cut": _gather_loop(rows.embeddings(wide), wide, wide // narrow),
        },
        items,
    )
    of_product = _best_seconds({"product": large_product()}, [()] * repeats)["product"]
    bytes_more = CALLS * BATCH * 4 * (wide - narrow)
    return {
        "multiply_add": 1e9 * of_product / PRODUCT**3,
        "byte_uncut": 1e9 * (seconds["wide"] - seconds["narrow"]) / bytes_more,
        "byte": 1e9 * (seconds["cut"] - seconds["narrow"]) / bytes_more,
    }


def large_product() -> Any:
    """Makes a function that multiplies two float32 matrices of `PRODUCT` rows and columns, and returns one element."""
    rng = np.random.default_rng(6)
    one, other = (tf.constant(rng.normal(size=[PRODUCT, PRODUCT]), tf.float32) for _ in range(2))
    # With the matrices as arguments, TensorFlow cannot compute their product ahead.
    product = tf.function(lambda a, b: tf.matmul(a, b)[0, 0], autograph=False)
    return lambda: product(one, other)


def _gather_loop(index: MappedIndex, dim: int, parts: int) -> Any:
    """Makes a function that gathers items, int32 [iterations, n], a row of them at a time, and splits it in `parts`."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, BATCH], tf.int32)])
    def loop(items: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            gathered = ops.index_gather(index.resource_handle, items[i], dim)
            cut = tf.split(gathered, parts, axis=1) if parts > 1 else [gathered]
            return i + 1, total + tf.add_n([part[0, 0] for part in cut])

        start = (tf.constant(0), tf.zeros([]))
        return tf.while_loop(lambda i, _: i < tf.shape(items)[0], body, start, parallel_iterations=1)[1]

    return loop


def _prepared(scorer: Scorer, user: UserTensors) -> list[tf.Tensor]:
    if scorer.prepare is None:
        return []
    prepared = scorer.prepare(*user, *scorer.captured)
    return list(prepared) if isinstance(prepared, list | tuple) else [prepared]  # A single tensor is not in a list.


def _called(function: Any, tensors: Sequence[tf.Tensor], scorer: Scorer) -> tf.Tensor:
    """Calls a scorer: one that was traced holds its captures, one made by the passes takes them as arguments."""
    captures = bool(function.captured_inputs)
    return function(*tensors) if captures else function(*tensors, *scorer.captured)


def _best_seconds(functions: Mapping[str, Any], arguments: Sequence[tuple[Any, ...]]) -> dict[str, float]:
    """Returns the fastest call of each function over all arguments, taking turns, after one call that is not timed."""
    for function in functions.values():
        function(*arguments[0])
    best = dict.fromkeys(functions, float("inf"))
    for one in arguments:
        for name, function in functions.items():
            begin = time.perf_counter()
            function(*one).numpy()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best
