"""The conversion on Apache Beam, for data too large for one machine: the same rules, records and files.

Workers read blocks of the source, which all of them must see under the same path, and group the rows by user. The item
table, the splits and the shards are side inputs, computed by the functions that `convert.py` calls too. A worker sorts
one shard at a time.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import polars as pl

from tfserving_ext.artifacts import atomic_folder, write_json
from tfserving_ext.data.beam_shards import (
    USERS_DROPPED,
    WORK,
    History,
    Rows,
    WriteShard,
    add_arrays,
    finish,
    shards_of_users,
    with_shards,
    write_item_counts,
)
from tfserving_ext.data.rows import (
    PAIR,
    ItemTable,
    Places,
    Rules,
    count_behaviors,
    count_pairs,
    item_table,
    merge_counts,
    time_order,
    wanted_rows,
)
from tfserving_ext.data.sources import Block, Part, find_parts, read_blocks
from tfserving_ext.data.splits import (
    Moment,
    count_new,
    count_times,
    find_moment,
    items_since,
    pairs_before,
)
from tfserving_ext.outputs import SEQUENCES, check_replaceable
from tfserving_ext.pipelines import run_pipeline

BLOCK_BYTES = 64 << 20
_NO_PAIRS = pl.DataFrame(schema={"item_id": pl.Int64, "category_id": pl.Int64, "len": pl.Int64})


def convert_by_beam(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    rules: Rules = Rules(),  # noqa: B008 - frozen
    options: Sequence[str] = (),
    block_bytes: int = BLOCK_BYTES,
    force: bool = False,
) -> Path:
    """Converts behaviours to the folder that `convert` writes.

    Args:
      sources: as `convert` takes them; all workers read them under these paths.
      target: the folder to write, which all workers see too; it appears whole or not at all.
      rules: what to keep, and how to split users.
      options: Beam's pipeline options, such as --runner=FlinkRunner; the local runner without any.
      block_bytes: bytes of CSV that a worker parses at once.
      force: replace whatever `target` holds.

    Returns:
      `target`.

    Raises:
      NannError: a source is missing or bad, or nothing is left.
    """
    parts = find_parts(sources)
    check_replaceable(target, SEQUENCES, force, [part.path for part in parts])
    target = Path(target).resolve()
    with atomic_folder(target, SEQUENCES, force) as folder:
        work = folder / WORK
        work.mkdir()
        with run_pipeline(options) as pipeline:
            _build(pipeline, parts, rules, folder, block_bytes)
        finish(folder, parts, rules)
    return target


def _build(pipeline: beam.Pipeline, parts: list[Part], rules: Rules, folder: Path, block_bytes: int) -> None:
    read = (
        pipeline
        | "sources" >> beam.Create(_tasks(parts, block_bytes))
        | "spread" >> beam.Reshuffle()
        | "read"
        >> beam.ParDo(_Read(parts, rules, block_bytes)).with_outputs("pairs", "timed", "times", "counts", main="rows")
    )
    work = folder / WORK
    pairs, moment = _pairs(pipeline, read, rules, work)
    items = beam.pvalue.AsSingleton(pairs | "item table" >> beam.Map(item_table, rules.min_item_count))
    histories = (
        read.rows
        | "by user" >> beam.GroupByKey()
        | "histories" >> beam.ParDo(_History(rules), items, moment).with_outputs("counts", main="histories")
    )
    users = beam.pvalue.AsSingleton(
        histories.histories
        | "lengths" >> beam.Map(lambda history: np.array([[history.user, history.rows.items.size, history.before]]))
        | "users" >> beam.CombineGlobally(_Concatenate())
        | "shards of users" >> beam.Map(shards_of_users, rules, moment, work)
    )
    written = (
        histories.histories
        | "shard of each" >> beam.FlatMap(with_shards, users)
        | "by shard" >> beam.GroupByKey()
        | "write" >> beam.ParDo(WriteShard(folder), users, items)
    )
    _ = (
        written
        | "item counts" >> beam.CombineGlobally(add_arrays)
        | "write items" >> beam.Map(write_item_counts, folder, items)
    )
    _ = (
        (read.counts, histories.counts)
        | "all counts" >> beam.Flatten()
        | "sums" >> beam.CombinePerKey(sum)
        | "counts" >> beam.combiners.ToDict()
        | "write counts" >> beam.Map(lambda counts: write_json(work / "counts.json", counts))
    )


def _pairs(pipeline: beam.Pipeline, read: Any, rules: Rules, work: Path) -> tuple[Any, Any]:
    """Returns the counts of (item, category) pairs, and the moment where the data are split by time, or None.

    Args:
      pipeline: the pipeline.
      read: the outputs of `_Read`.
      rules: how the data are split. By time, only rows before the moment count.
      work: where the number of items without such a row is written.
    """
    if rules.split == "user":
        nothing = pipeline | "no moment" >> beam.Create([None])
        return read.pairs | "merge pairs" >> beam.CombineGlobally(_merge_pairs), beam.pvalue.AsSingleton(nothing)
    moment = beam.pvalue.AsSingleton(
        read.times | "merge times" >> beam.CombineGlobally(_merge_times) | "moment" >> beam.Map(find_moment, rules)
    )
    pairs = (
        read.timed
        | "pairs before" >> beam.Map(pairs_before, moment)
        | "merge pairs" >> beam.CombineGlobally(_merge_pairs)
    )
    _ = (
        read.timed
        | "items since" >> beam.Map(items_since, moment)
        | "merge items" >> beam.CombineGlobally(_merge_items)
        | "new items" >> beam.Map(count_new, beam.pvalue.AsSingleton(pairs))
        | "write new items" >> beam.Map(lambda count: write_json(work / "new_items.json", count))
    )
    return pairs, moment


def _tasks(parts: list[Part], block_bytes: int) -> list[Block]:
    """Returns the pieces that workers read: blocks of a plain CSV, other parts as a whole."""
    tasks: list[Block] = []
    for place, part in enumerate(parts):
        if part.kind == "csv":
            tasks += [
                Block(place, block.start, block.end, block.consumed, None) for block in read_blocks([part], block_bytes)
            ]
        else:
            tasks.append(Block(place, 0, -1, 0, None))
    return tasks


class _Read(beam.DoFn):
    """Turns blocks into (user, Rows), and emits pair counts and row counts as side outputs.

    If the data are split by time, the rows with their times, and the counts of the times, come instead of pair counts.
    """

    def __init__(self, parts: list[Part], rules: Rules, block_bytes: int) -> None:
        self._parts, self._rules, self._block_bytes = parts, rules, block_bytes

    def process(self, task: Block) -> Iterator[Any]:
        blocks: Iterable[Block] = [task]
        if self._parts[task.part].kind != "csv":
            part = self._parts[task.part]
            blocks = (Block(task.part, *_rest(block)) for block in read_blocks([part], self._block_bytes))
        for block in blocks:
            rows = block.rows(self._parts)
            wanted, dropped = wanted_rows(rows, self._rules)
            if self._rules.split == "user":
                yield beam.pvalue.TaggedOutput("pairs", count_pairs(wanted))
            else:
                yield beam.pvalue.TaggedOutput("timed", wanted.select(*PAIR, "timestamp"))
                yield beam.pvalue.TaggedOutput("times", count_times(wanted["timestamp"].to_numpy(), self._rules))
            counts = {("read", behavior): count for behavior, count in count_behaviors(rows).items()}
            counts |= {("dropped", rule): count for rule, count in dropped.items()}
            for name, count in counts.items():
                yield beam.pvalue.TaggedOutput("counts", (" ".join(name), count))
            columns = ("user_id", "item_id", "timestamp")
            users, items, times = (wanted[column].to_numpy() for column in columns)
            order = np.argsort(users, kind="stable")
            users, items, times = users[order], items[order], times[order]
            starts = np.flatnonzero(np.diff(users, prepend=-1))
            for start, end in zip(starts.tolist(), [*starts[1:].tolist(), users.size], strict=bool(users.size)):
                yield int(users[start]), Rows((block.part, block.start), items[start:end], times[start:end])


def _rest(block: Block) -> tuple[int, int, int, bytes | pl.DataFrame | None]:
    return block.start, block.end, block.consumed, block.content


def _merge_pairs(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return merge_counts([_NO_PAIRS, *frames], PAIR)


def _merge_times(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return merge_counts([_NO_PAIRS.select(timestamp="item_id", len="len"), *frames], ["timestamp"])


def _merge_items(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return merge_counts([_NO_PAIRS.select("item_id", "len"), *frames], ["item_id"])


class _History(beam.DoFn):
    """Turns a user's rows into its `History`."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._places: Places | None = None

    def process(
        self, rows_of_user: tuple[int, Iterable[Rows]], items: ItemTable, moment: Moment | None
    ) -> Iterator[Any]:
        if self._places is None:
            self._places = Places(items.ids)
        user, rows = rows_of_user
        ordered = sorted(rows, key=lambda some: some.place)
        places = self._places(np.concatenate([some.items for some in ordered]))
        times = np.concatenate([some.times for some in ordered])
        early = np.ones(times.size, bool) if moment is None else times < moment.test_from
        for rule, rows_dropped in (("rare_item", (places == 0) & early), ("unknown_item", (places == 0) & ~early)):
            if count := int(np.sum(rows_dropped)):
                yield beam.pvalue.TaggedOutput("counts", (f"dropped {rule}", count))
        places, times, early = places[places > 0], times[places > 0], early[places > 0]
        if not places.size:
            return
        if places.size < self._rules.min_user_count:
            yield beam.pvalue.TaggedOutput("counts", ("dropped short_user", int(places.size)))
            yield beam.pvalue.TaggedOutput("counts", (USERS_DROPPED, 1))
            return
        order = time_order(np.zeros(places.size, np.int64), times)
        yield History(user, Rows((0, 0), places[order], times[order]), int(np.sum(early)))


class _Concatenate(beam.CombineFn):
    """Concatenates arrays [n, 3]."""

    def create_accumulator(self) -> list[np.ndarray]:
        return []

    def add_input(self, accumulator: list[np.ndarray], array: np.ndarray) -> list[np.ndarray]:
        accumulator.append(array)
        return accumulator if len(accumulator) < 10_000 else [np.concatenate(accumulator)]

    def merge_accumulators(self, accumulators: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
        return [array for accumulator in accumulators for array in accumulator]

    def extract_output(self, accumulator: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(accumulator) if accumulator else np.zeros([0, 3], np.int64)
