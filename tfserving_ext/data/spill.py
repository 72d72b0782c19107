"""What a conversion keeps on disk while it runs: blocks of rows by user, then histories by user.

Everything is written under a temporary name and renamed when it is complete, so that what has its final name is
finished: a conversion that was killed resumes after the last finished block.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tfserving_ext.artifacts import atomic_folder, read_json, write_json
from tfserving_ext.data.rows import Places, time_order
from tfserving_ext.outputs import Stage
from tfserving_ext.unfinished import Unfinished

_SPILLED = Stage("a part of a conversion", "manifest.json", "", ("manifest.json", "*.npy", "*.arrow"))


@dataclass
class BlockSummary:
    """The summary of a spilled block.

    Attributes:
      next: part and start of the block after it.
      consumed: bytes of its part that have been read when it ends.
      read: the number of its rows.
      read_by_behavior: the number of its rows by behaviour.
      dropped: the number of its rows that were dropped, by rule.
    """

    next: tuple[int, int]
    consumed: int
    read: int
    read_by_behavior: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)


class Spill(Unfinished):
    """The working folder of a conversion, beside its target."""

    def __init__(self, target: Path, identity: dict[str, Any]) -> None:
        """Reopens the folder of an interrupted run of the same conversion, or starts an empty one; see `Unfinished`."""
        super().__init__(target, identity, "converting", "conversion")

    # Blocks of the source, in its order.

    def block(self, number: int) -> Path:
        """Returns the path of block `number`, whether it is written or not."""
        return self.folder / f"block-{number:06d}"

    def write_block(self, number: int, rows: pl.DataFrame, pairs: pl.DataFrame | None, summary: BlockSummary) -> None:
        """Spills rows, sorted by user, and their summary.

        Args:
          number: of the block, from 0.
          rows: a frame of `behavior_csv.COLUMNS`.
          pairs: the counts of the rows' (item, category) pairs; None to spill the categories instead, where only the
            rows of some times will count.
          summary: of the block.
        """
        users = rows["user_id"].to_numpy()
        columns = {"items": rows["item_id"].to_numpy(), "times": rows["timestamp"].to_numpy()}
        if pairs is None:
            columns["categories"] = rows["category_id"].to_numpy()
        if np.any(users[1:] < users[:-1]):  # Most files are sorted by user already.
            order = np.argsort(users, kind="stable")
            users, columns = users[order], {name: column[order] for name, column in columns.items()}
        starts = np.flatnonzero(np.diff(users, prepend=users[:1] - 1)) if users.size else np.zeros(0, np.int64)
        columns["users"] = users[starts]
        columns["splits"] = np.append(starts, users.size)
        with atomic_folder(self.block(number), _SPILLED) as new:
            for name, column in columns.items():
                np.save(new / f"{name}.npy", column)
            if pairs is not None:
                pairs.write_ipc(new / "pairs.arrow")
            write_json(new / "manifest.json", asdict(summary))

    def finished_blocks(self) -> list[BlockSummary]:
        """Returns the summaries of the finished blocks, from the first to the last before a gap."""
        found: list[BlockSummary] = []
        while (path := self.block(len(found)) / "manifest.json").exists():
            summary = read_json(path)
            found.append(BlockSummary(**{**summary, "next": tuple(summary["next"])}))
        return found

    def pairs(self, blocks: int) -> Iterator[pl.DataFrame]:
        """Yields each block's counts of (item, category) pairs."""
        for number in range(blocks):
            yield pl.read_ipc(self.block(number) / "pairs.arrow")

    def rows(self, blocks: int) -> Iterator[pl.DataFrame]:
        """Yields each block's rows, if it was spilled with categories: item_id, category_id, timestamp (int64)."""
        for number in range(blocks):
            columns = (np.load(self.block(number) / f"{name}.npy") for name in ("items", "categories", "times"))
            yield pl.DataFrame(dict(zip(("item_id", "category_id", "timestamp"), columns, strict=True)))

    def user_counts(self, blocks: int) -> Iterator[pl.DataFrame]:
        """Yields each block's users and the numbers of their rows: user_id, len (int64)."""
        for number in range(blocks):
            users, splits = (np.load(self.block(number) / f"{name}.npy") for name in ("users", "splits"))
            yield pl.DataFrame({"user_id": users, "len": np.diff(splits)})

    # Histories, in the order of user ids.

    def histories(self, users: tuple[int, int]) -> Path:
        """Returns the path of the histories of `users`, a range's first and last user, whether it is written or not.

        The name has both: with another number of cores or other memory, a range with the same first user may end at
        another one.
        """
        return self.folder / f"histories-{users[0]:020d}-{users[1]:020d}"

    def write_histories(
        self, blocks: int, between: tuple[int, int], places: Places, min_user_count: int, moment: int | None = None
    ) -> None:
        """Collects the rows of a range of users from all blocks and writes their histories.

        Args:
          blocks: the number of blocks.
          between: first and last user of the range, both inclusive.
          places: the item table; rows of other items are dropped as `rare_item`, or, from the moment on, as
            `unknown_item`.
          min_user_count: rows that a user needs; the rows of other users are dropped as `short_user`.
          moment: where the data are split by time, unix seconds; None if they are not.
        """
        first_user, last_user = between
        user_parts, item_parts, time_parts = [], [], []
        for number in range(blocks):
            arrays = {
                name: np.load(self.block(number) / f"{name}.npy", mmap_mode="r")
                for name in ("users", "splits", "items", "times")
            }
            begin = np.searchsorted(arrays["users"], first_user)
            end = np.searchsorted(arrays["users"], last_user, side="right")
            if begin == end:
                continue
            splits = np.asarray(arrays["splits"][begin : end + 1])
            user_parts.append(np.repeat(np.asarray(arrays["users"][begin:end]), np.diff(splits)))
            item_parts.append(places(np.asarray(arrays["items"][splits[0] : splits[-1]])))
            # Copied, because a view would keep the file open until the last block is read, and there may be thousands.
            time_parts.append(np.array(arrays["times"][splits[0] : splits[-1]]))
        users, items, times = (
            np.concatenate([np.zeros(0, dtype), *parts])
            for parts, dtype in ((user_parts, np.int64), (item_parts, np.int32), (time_parts, np.int64))
        )
        del user_parts, item_parts, time_parts
        known = items > 0
        early = np.ones(times.size, bool) if moment is None else times < moment
        dropped = {"rare_item": int(np.sum(~known & early)), "unknown_item": int(np.sum(~known & ~early))}
        users, items, times, early = users[known], items[known], times[known], early[known]
        user_ids, nth, lengths = np.unique(users, return_inverse=True, return_counts=True)
        long = lengths >= min_user_count
        kept = long[nth]
        before = np.bincount(nth[early], minlength=user_ids.size)
        nth, items, times = nth[kept], items[kept], times[kept]
        order = time_order(nth, times)
        counts = {**dropped, "short_user": int(np.sum(lengths[~long])), "short_users": int(np.sum(~long))}
        with atomic_folder(self.histories(between), _SPILLED) as new:
            np.save(new / "user_ids.npy", user_ids[long])
            np.save(new / "lengths.npy", lengths[long])
            np.save(new / "before.npy", before[long])
            np.save(new / "items.npy", items[order])
            np.save(new / "times.npy", times[order])
            write_json(new / "manifest.json", counts)

    def read_histories(self, between: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Reads which users have histories in a range, and how much was dropped.

        Returns:
          user_ids, lengths and before (the behaviours before the moment), int64 [u] each, by name; and the numbers of
          rows dropped as `rare_item`, `unknown_item` and `short_user`, and of dropped users as `short_users`.
        """
        folder = self.histories(between)
        arrays = {name: np.load(folder / f"{name}.npy") for name in ("user_ids", "lengths", "before")}
        return arrays, read_json(folder / "manifest.json")

    def map_history(self, between: tuple[int, int], name: str) -> np.ndarray:
        """Maps a file of histories: `items` int32 [r] (1-based rows of the item table) or `times` int64 [r]."""
        return np.load(self.histories(between) / f"{name}.npy", mmap_mode="r")
