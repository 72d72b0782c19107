"""The last steps of the conversion on Apache Beam: histories are split, cut into shards and written."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import polars as pl

from tfserving_ext.artifacts import read_json, write_json
from tfserving_ext.data.counts import Counts
from tfserving_ext.data.rows import ItemTable, Rules
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
from tfserving_ext.data.sources import Part
from tfserving_ext.data.splits import Member, Moment, divide, time_split

USERS_DROPPED = "users_dropped"
WORK = "beam"  # Subfolder of the new folder, for files that the pipeline hands to the process that started it.


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


class History(NamedTuple):
    """A user's history.

    Attributes:
      user: the id.
      rows: the behaviours in the order of time; items are places in the item table.
      before: how many of them are before the moment that splits the data by time.
    """

    user: int
    rows: Rows
    before: int


class Users(NamedTuple):
    """The users of one split, with their shards.

    Attributes:
      ids: int64 [u], ascending.
      lengths: int64 [u], how many behaviours of each, from its first, are in the split.
      shards: int64 [u], each user's shard.
      shard_count: the number of shards.
    """

    ids: np.ndarray
    lengths: np.ndarray
    shards: np.ndarray
    shard_count: int


def shards_of_users(users: np.ndarray, rules: Rules, moment: Moment | None, work: Path) -> tuple[Users, ...]:
    """Returns the users of each split; what the manifest tells of them together is written to `work`."""
    ids, lengths, before = users[np.argsort(users[:, 0])].T
    write_json(work / "histories.json", {"users": ids.size, "behaviors": int(lengths.sum())})
    if not ids.size:
        return (Users(ids, ids, ids, 1),) * len(SPLITS)
    members = divide(ids, lengths, before, rules, moment)
    if moment is not None:
        write_json(work / "time_split.json", time_split(moment, 0, members, before))
    return tuple(_sharded(ids, member) for member in members)


def _sharded(ids: np.ndarray, member: Member) -> Users:
    cuts = shard_cuts(member.lengths)
    shards = np.searchsorted(cuts, np.arange(member.users.size), side="right")
    return Users(ids[member.users], member.lengths, shards, cuts.size + 1)


def with_shards(history: History, users: tuple[Users, ...]) -> Iterator[tuple[tuple[int, int], tuple[int, Rows]]]:
    """Yields a history once for each split that it is in: split and shard, user and rows."""
    for code, of_split in enumerate(users):
        place = np.searchsorted(of_split.ids, history.user)
        if place < of_split.ids.size and of_split.ids[place] == history.user:
            some = slice(of_split.lengths[place])
            rows = Rows(history.rows.place, history.rows.items[some], history.rows.times[some])
            yield (code, int(of_split.shards[place])), (history.user, rows)


class WriteShard(beam.DoFn):
    """Writes a shard; for a training shard, yields how many rows each item has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def process(self, shard: Any, users: tuple[Users, ...], items: ItemTable) -> Iterator[np.ndarray]:
        """Writes the histories of `shard`, which has its split and number as key."""
        (code, number), histories = shard
        ordered = sorted(histories, key=lambda history: history[0])
        lengths = np.array([rows.items.size for _, rows in ordered])
        places = np.concatenate([rows.items for _, rows in ordered])
        times = np.concatenate([rows.times for _, rows in ordered])
        shard_count = users[code].shard_count
        path = self._folder / shard_name(SPLITS[code], number, shard_count)
        # A runner may run two attempts of a shard at the same time: only a complete file gets the final name.
        attempt = self._folder / WORK / f"{path.name}.{os.urandom(8).hex()}"
        attempt.write_bytes(encode(np.array([user for user, _ in ordered]), lengths, items.ids[places - 1], times))
        attempt.replace(path)
        summary = {"split": SPLITS[code], "shards": shard_count, "users": len(ordered), "behaviors": places.size}
        write_json(self._folder / WORK / f"{path.name}.json", summary)
        if code == 0:
            yield np.bincount(places - 1, minlength=items.ids.size)


def add_arrays(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Adds the counts of shards; there may be none."""
    return sum(arrays, np.zeros(1, np.int64))


def write_item_counts(counts: np.ndarray, folder: Path, items: ItemTable) -> None:
    """Writes the item table, with the rows of each item in the training shards."""
    write_items(folder, items.ids, items.categories, np.broadcast_to(counts, items.ids.shape))
    write_json(folder / WORK / "items.json", {"dropped": items.dropped, "ambiguous": items.ambiguous})


def finish(folder: Path, parts: list[Part], rules: Rules) -> None:
    """Writes the manifest and the empty shards, which have no users."""
    work = folder / WORK
    counted = read_json(work / "counts.json")
    counts = Counts(users_dropped=counted.get(USERS_DROPPED, 0))
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
    histories = read_json(work / "histories.json")
    counts.check(parts[0].name, rules, histories["users"])
    for split, of_split in splits.items():
        for shard in range(of_split["shards"]):  # Shards without users were not written by any worker.
            (folder / shard_name(split, shard, of_split["shards"])).touch()
    table, totals = pl.read_parquet(folder / ITEMS_NAME), read_json(work / "items.json")
    items = ItemTable(table["item_id"].to_numpy(), table["category_id"].to_numpy(), **totals)
    by_time = {}
    if rules.split == "time":
        new_items = read_json(work / "new_items.json")
        by_time["time_split"] = {**read_json(work / "time_split.json"), "new_items": new_items}
    shutil.rmtree(work)
    write_manifest(
        folder,
        counts=counts.as_dict(items, **histories, rules=rules),
        splits=splits,
        rules=rules.as_dict(),
        sources=describe_sources(part.path for part in parts),
        **by_time,
    )
