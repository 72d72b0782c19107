"""Measures how fast text ids are looked up in an index, and what they take, against a dict of Python.

python -m benchmarks.search.keys --items 1000000
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.command import Out, measuring, print_summary
from tfserving_ext.artifacts import write_json

ROUNDS = 7


def measure(items: int, at_once: int) -> dict[str, Any]:
    """Measures lookups of `at_once` keys of an index of `items`.

    Returns:
      `bytes_per_key` of the file beyond the keys' own, and of the dict and its objects; nanoseconds for each key of a
      batch: `known_ns` and `unknown_ns` from text to number, `spelled_ns` back, `dict_ns` by the dict, and `ratio`, how
      many times as long the dict takes for known keys.
    """
    import tensorflow as tf

    from tfserving_ext.index import Graph, ItemStorage, KeyedIds, Layer, write_index
    from tfserving_ext.index.item_keys import store_keys
    from tfserving_ext.index.resource import MappedIndex

    rng = np.random.default_rng(0)
    keys = [f"B{number:09d}-{number % 97:02d}" for number in rng.permutation(items).tolist()]
    begin = time.perf_counter()
    stored = store_keys(KeyedIds(np.arange(items), keys, items))
    seconds = time.perf_counter() - begin
    ring = Layer(np.arange(items + 1), np.roll(np.arange(items, dtype=np.int32), 1))
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(np.zeros(1, np.int32), [ring])
        vectors = rng.normal(size=[items, 1]).astype(np.float32)
        index = write_index(Path(folder) / "i", np.arange(items), vectors, graph, {}, ItemStorage(keys=stored))
        begin = time.perf_counter()
        mapped = MappedIndex(index)
        opened = time.perf_counter() - begin
        places = rng.integers(0, items, at_once)
        known = [keys[place] for place in places]
        asked, unknown = tf.constant(known), tf.constant([f"{key}?" for key in known])
        numbers = tf.constant(places)
        assert (mapped.numbers(asked).numpy() == places).all() and (mapped.numbers(unknown).numpy() == -1).all()
        found = {
            "known_ns": _ns(lambda: mapped.numbers(asked), at_once),
            "unknown_ns": _ns(lambda: mapped.numbers(unknown), at_once),
            "spelled_ns": _ns(lambda: mapped.keys(numbers), at_once),
        }
    own = sum(map(len, keys))
    tracemalloc.start()
    by_key = {key.encode(): number for number, key in enumerate(keys)}
    held = tracemalloc.get_traced_memory()[0] / items
    tracemalloc.stop()
    texts = [key.encode() for key in known]
    found["dict_ns"] = _ns(lambda: [by_key[key] for key in texts], at_once)
    return {
        "items": items,
        "at_once": at_once,
        "key_bytes": own / items,
        "bytes_per_key": {"file": (len(stored.content) - own) / items, "dict": held - own / items},
        "seconds": {"store": seconds, "open": opened},
        **found,
        "ratio": found["dict_ns"] / found["known_ns"],
    }


def _ns(run: Callable[[], Any], count: int) -> float:
    """Returns the nanoseconds for each of `count` lookups in the fastest of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter_ns()
        run()
        best = min(best, time.perf_counter_ns() - begin)
    return best / count


def main(
    items: Annotated[int, typer.Option(min=1, help="Keys of the index.")] = 1_000_000,
    at_once: Annotated[int, typer.Option(min=1, help="Keys that are looked up in one call.")] = 100_000,
    out: Out = Path("build/keys.json"),
) -> None:
    """Measure text ids of an index against a dict of Python."""
    with measuring(out):
        found = measure(items, at_once)
        write_json(out, found)
        print_summary(found, out)


if __name__ == "__main__":
    typer.run(main)
