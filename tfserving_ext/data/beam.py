"""The conversion on Apache Beam, for data too large for one machine: the same rules, records and files.

Workers read blocks of the source, which all of them must see under the same path, and group the rows by user. The item
table, the splits and the shards are side inputs, computed by the functions that `convert.py` calls too. A worker sorts
one shard at a time.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl
from apache_beam.options.pipeline_options import PipelineOptions

from tfserving_ext.artifacts import atomic_folder, read_json, write_json
from tfserving_ext.data.counts import Counts
from tfserving_ext.data.rows import (
    PAIR,
    ItemTable,
    Places,
    Rules,
    count_behaviors,
    count_pairs,
    item_table,
    merge_counts,
    split_users,
    time_order,
    wanted_rows,
)
from tfserving_ext.data.sequence_format import (
    ITEMS_NAME,
    SPLITS,
    describe_sources,
    encode,
    shard_cuts,
    shard_name,
    write_items,
    write_manifest,
)
from tfserving_ext.data.sources import Block, Part, find_parts, read_blocks
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import SEQUENCES, check_replaceable

BLOCK_BYTES = 64 << 20
_USERS_DROPPED = "users_dropped"
_NO_PAIRS = pl.DataFrame(schema={"item_id": pl.Int64, "category_id": pl.Int64, "len": pl.Int64})
_WORK = "beam"  # Subfolder of the new folder, for files that the pipeline hands to the process that started it.


class Rows(NamedTuple):
    """Some of a user's behaviours.

    Attributes:
      place: the position in the source of the block that they come from; rows of a later place come later.
      items: int64 [n].
      times: int64 [n].
    """

    place: tuple[int, int]
    items: np.ndarray
    times: np.ndarray


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
        work = folder / _WORK
        work.mkdir()
        try:
            with beam.Pipeline(options=PipelineOptions([*options])) as pipeline:
                _build(pipeline, parts, rules, folder, block_bytes)
        except Exception as error:
            # A worker's error may come as text, behind the worker's stack.
            *_, text = str(error).rpartition(f"{NannError.__name__}: ")
            if isinstance(error, NannError) or text != str(error):
                raise NannError(text.partition("\n")[0].partition(" [while running")[0]) from error
            raise
        _finish(folder, parts, rules)
    return target


def _build(pipeline: beam.Pipeline, parts: list[Part], rules: Rules, folder: Path, block_bytes: int) -> None:
    read = (
        pipeline
        | "sources" >> beam.Create(_tasks(parts, block_bytes))
        | "spread" >> beam.Reshuffle()
        | "read" >> beam.ParDo(_Read(parts, rules, block_bytes)).with_outputs("pairs", "counts", main="rows")
    )
    work = folder / _WORK
    items = beam.pvalue.AsSingleton(
        read.pairs
        | "merge pairs" >> beam.CombineGlobally(_merge_pairs)
        | "item table" >> beam.Map(item_table, rules.min_item_count)
    )
    histories = (
        read.rows
        | "by user" >> beam.GroupByKey()
        | "histories" >> beam.ParDo(_History(rules), items).with_outputs("counts", main="histories")
    )
    users = beam.pvalue.AsSingleton(
        histories.histories
        | "lengths" >> beam.Map(lambda history: np.array([[history[0], history[1].items.size]]))
        | "users" >> beam.CombineGlobally(_Concatenate())
        | "shards of users" >> beam.Map(_shards_of_users, rules)
    )
    written = (
        histories.histories
        | "shard of each" >> beam.Map(_with_shard, users)
        | "by shard" >> beam.GroupByKey()
        | "write" >> beam.ParDo(_WriteShard(folder), users, items)
    )
    _ = (
        written
        | "item counts" >> beam.CombineGlobally(_add_arrays)
        | "write items" >> beam.Map(_write_item_counts, folder, items)
    )
    _ = (
        (read.counts, histories.counts)
        | "all counts" >> beam.Flatten()
        | "sums" >> beam.CombinePerKey(sum)
        | "counts" >> beam.combiners.ToDict()
        | "write counts" >> beam.Map(lambda counts: write_json(work / "counts.json", counts))
    )


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
    """Turns blocks into (user, Rows), and emits pair counts and row counts as side outputs."""

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
            yield beam.pvalue.TaggedOutput("pairs", count_pairs(wanted))
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


class _History(beam.DoFn):
    """Turns a user's rows into its history (user, Rows), whose items are places in the item table."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._places: Places | None = None

    def process(self, rows_of_user: tuple[int, Iterable[Rows]], items: ItemTable) -> Iterator[Any]:
        if self._places is None:
            self._places = Places(items.ids)
        user, rows = rows_of_user
        ordered = sorted(rows, key=lambda some: some.place)
        places = self._places(np.concatenate([some.items for some in ordered]))
        times = np.concatenate([some.times for some in ordered])[places > 0]
        if rare := int(np.sum(places == 0)):
            yield beam.pvalue.TaggedOutput("counts", ("dropped rare_item", rare))
        places = places[places > 0]
        if not places.size:
            return
        if places.size < self._rules.min_user_count:
            yield beam.pvalue.TaggedOutput("counts", ("dropped short_user", int(places.size)))
            yield beam.pvalue.TaggedOutput("counts", (_USERS_DROPPED, 1))
            return
        order = time_order(np.zeros(places.size, np.int64), times)
        yield user, Rows((0, 0), places[order], times[order])


class _Concatenate(beam.CombineFn):
    """Concatenates arrays [n, 2]."""

    def create_accumulator(self) -> list[np.ndarray]:
        return []

    def add_input(self, accumulator: list[np.ndarray], array: np.ndarray) -> list[np.ndarray]:
        accumulator.append(array)
        return accumulator if len(accumulator) < 10_000 else [np.concatenate(accumulator)]

    def merge_accumulators(self, accumulators: Iterable[list[np.ndarray]]) -> list[np.ndarray]:
        return [array for accumulator in accumulators for array in accumulator]

    def extract_output(self, accumulator: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(accumulator) if accumulator else np.zeros([0, 2], np.int64)


class Users(NamedTuple):
    """All users that are left, with their splits and shards.

    Attributes:
      ids: int64 [U], ascending.
      splits: uint8 [U], as `split_users` returns them.
      shards: int64 [U], each user's shard within its split.
      shard_counts: the number of shards of each split.
    """

    ids: np.ndarray
    splits: np.ndarray
    shards: np.ndarray
    shard_counts: tuple[int, ...]


def _shards_of_users(users: np.ndarray, rules: Rules) -> Users:
    ids, lengths = users[np.argsort(users[:, 0])].T
    if not ids.size:
        return Users(ids, np.zeros(0, np.uint8), ids, (1, 1, 1))
    splits, shards, shard_counts = split_users(ids, rules), np.zeros(ids.size, np.int64), []
    for code in range(len(SPLITS)):
        cuts = shard_cuts(lengths[splits == code])
        shards[splits == code] = np.searchsorted(cuts, np.arange(np.sum(splits == code)), side="right")
        shard_counts.append(cuts.size + 1)
    return Users(ids, splits, shards, tuple(shard_counts))


def _with_shard(history: tuple[int, Rows], users: Users) -> tuple[tuple[int, int], tuple[int, Rows]]:
    place = np.searchsorted(users.ids, history[0])
    return (int(users.splits[place]), int(users.shards[place])), history


class _WriteShard(beam.DoFn):
    """Writes a shard; for a training shard, yields how many rows each item has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def process(self, shard: Any, users: Users, items: ItemTable) -> Iterator[np.ndarray]:
        (code, number), histories = shard
        ordered = sorted(histories, key=lambda history: history[0])
        lengths = np.array([rows.items.size for _, rows in ordered])
        places = np.concatenate([rows.items for _, rows in ordered])
        times = np.concatenate([rows.times for _, rows in ordered])
        shard_count = users.shard_counts[code]
        path = self._folder / shard_name(SPLITS[code], number, shard_count)
        # A runner may run two attempts of a shard at the same time: only a complete file gets the final name.
        attempt = self._folder / _WORK / f"{path.name}.{os.urandom(8).hex()}"
        attempt.write_bytes(encode(np.array([user for user, _ in ordered]), lengths, items.ids[places - 1], times))
        attempt.replace(path)
        summary = {"split": SPLITS[code], "shards": shard_count, "users": len(ordered), "behaviors": places.size}
        write_json(self._folder / _WORK / f"{path.name}.json", summary)
        if code == 0:
            yield np.bincount(places - 1, minlength=items.ids.size)


def _add_arrays(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return sum(arrays, np.zeros(1, np.int64))


def _write_item_counts(counts: np.ndarray, folder: Path, items: ItemTable) -> None:
    write_items(folder, items.ids, items.categories, np.broadcast_to(counts, items.ids.shape))
    write_json(folder / _WORK / "items.json", {"dropped": items.dropped, "ambiguous": items.ambiguous})


def _finish(folder: Path, parts: list[Part], rules: Rules) -> None:
    """Writes the manifest and the empty shards, which have no users."""
    work = folder / _WORK
    counted = read_json(work / "counts.json")
    counts = Counts(users_dropped=counted.get(_USERS_DROPPED, 0))
    for name, count in counted.items():
        kind, _, key = name.partition(" ")
        {"read": counts.read_by_behavior, "dropped": counts.dropped}.get(kind, Counter())[key] += count
    splits = {split: {"users": 0, "behaviors": 0, "shards": 1} for split in SPLITS}
    for path in work.glob("*.tfrecord.json"):
        shard = read_json(path)
        of_split = splits[shard["split"]]
        of_split["users"] += shard["users"]
        of_split["behaviors"] += shard["behaviors"]
        of_split["shards"] = shard["shards"]
    users, behaviors = (sum(split[name] for split in splits.values()) for name in ("users", "behaviors"))
    counts.check(parts[0].name, rules, users)
    for split, of_split in splits.items():
        for shard in range(of_split["shards"]):  # Shards without users were not written by any worker.
            (folder / shard_name(split, shard, of_split["shards"])).touch()
    table, totals = pl.read_parquet(folder / ITEMS_NAME), read_json(work / "items.json")
    items = ItemTable(table["item_id"].to_numpy(), table["category_id"].to_numpy(), **totals)
    shutil.rmtree(work)
    write_manifest(
        folder,
        counts=counts.as_dict(items, users, behaviors),
        splits=splits,
        rules=rules.as_dict(),
        sources=describe_sources(part.path for part in parts),
    )
