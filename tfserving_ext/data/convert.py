"""Converts behaviours to the `nann-sequences` folder that training and evaluation read; out of core and resumable.

1. Every block of the source is parsed, checked and spilled to disk, sorted by user.
2. The counts of all blocks give the item table, and ranges of user ids whose rows fit in memory. If the data are split
   by time, the moment is found first, and only rows before it count.
3. The rows of each range are collected from all blocks and sorted by user and time.
4. Once all users are known, they are split and their histories are written.

Steps 1 and 3 run on all cores. Finished blocks and ranges survive a kill (spill.py).
"""

import dataclasses
import errno
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tfserving_ext.artifacts import atomic_folder
from tfserving_ext.data.counts import Counts
from tfserving_ext.data.histories import Histories
from tfserving_ext.data.layouts.translation import Translation
from tfserving_ext.data.rows import (
    ItemTable,
    Places,
    Rules,
    cores,
    count_behaviors,
    count_pairs,
    item_table,
    merge_counts,
    wanted_rows,
)
from tfserving_ext.data.sequence_format import (
    FORMAT_VERSION,
    SPLITS,
    describe_sources,
    encode,
    shard_cuts,
    shard_name,
    write_items,
    write_manifest,
)
from tfserving_ext.data.sources import Block, Part, find_parts, read_blocks
from tfserving_ext.data.spill import BlockSummary, Spill
from tfserving_ext.data.splits import (
    Member,
    Moment,
    count_new,
    count_times,
    divide,
    find_moment,
    items_since,
    pairs_before,
    time_split,
)
from tfserving_ext.errors import NannError
from tfserving_ext.outputs import SEQUENCES, check_replaceable
from tfserving_ext.progress import console, progress

MEMORY_BYTES = 4 << 30
MIN_MEMORY_BYTES = 1 << 30  # TensorFlow and Polars alone take half of it.
# Measured peaks of memory, in bytes: for a byte of CSV while its block is parsed, for a row while histories are sorted,
# and for an (item, category) pair or a user while counts are merged.
_BYTES_PER_CSV_BYTE, _BYTES_PER_ROW, _BYTES_PER_COUNT = 8, 90, 120
_LEAST_RANGE_ROWS = 1 << 20
_RESUMABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # After these errors a later run may succeed.


def convert_behaviors(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    rules: Rules = Rules(),  # noqa: B008 - frozen
    *,
    memory_bytes: int = MEMORY_BYTES,
    translation: Translation | None = None,
    force: bool = False,
) -> Path:
    """Converts behaviours to a `nann-sequences` folder, as `convert` does without Apache Beam.

    Args:
      sources: files or folders of behaviours, as `convert` takes them.
      target: the folder to write; it appears whole or not at all, and replaces an earlier conversion. While the
        conversion runs, a hidden folder beside it takes about 36 bytes a row.
      rules: what to keep, and how to split users.
      memory_bytes: upper bound of the process's memory, in bytes.
      translation: what `sources` was translated from; the manifest names its sources, and its keys are written too.
      force: replace whatever `target` holds.

    Returns:
      `target`.

    Raises:
      NannError: a source is missing or bad (the message names the line), nothing is left, or memory does not suffice.
    """
    if memory_bytes < MIN_MEMORY_BYTES:
        least = f"{MIN_MEMORY_BYTES / 2**30:.0f} GB"
        raise NannError(f"memory is {memory_bytes / 2**30:.2f} GB, allowed are {least} and more")
    parts = find_parts([sources] if isinstance(sources, (str, os.PathLike)) else list(sources))
    check_replaceable(target, SEQUENCES, force, [part.path for part in parts])
    target = Path(target).resolve()
    free = memory_bytes - MIN_MEMORY_BYTES // 2
    block_bytes = min(64 << 20, free // (2 * (cores() + 1) * _BYTES_PER_CSV_BYTE))
    spill = Spill(target, _identity(parts, rules, block_bytes))
    pool = ThreadPoolExecutor(cores())
    try:
        _Conversion(parts, target, rules, spill, pool, free, block_bytes, translation, force).run()
    except NannError as error:
        pool.shutdown(cancel_futures=True)
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _RESUMABLE:
            raise NannError(
                f"{error}; the finished part is kept in {spill.folder}: run the same command again to resume from it"
            ) from error
        spill.delete()  # The same error would end a resumed run too.
        raise
    else:
        spill.delete()
    finally:
        pool.shutdown(cancel_futures=True)
        spill.close()
    return target


def _identity(parts: list[Part], rules: Rules, block_bytes: int) -> dict[str, Any]:
    """Returns what must be equal for a conversion to resume an interrupted one."""
    return {
        "parts": [[part.name, part.size, part.path.stat().st_mtime_ns] for part in parts],
        "rules": rules.as_dict(),
        "block_bytes": block_bytes,
        "format_version": FORMAT_VERSION,
    }


@dataclasses.dataclass
class _Conversion:
    """One run of `convert_behaviors`, with its arguments as fields; `free` is the memory for data, in bytes.

    Attributes:
      moment: where the data are split by time, once it is known; None if they are split by user.
      new_items: how many items then have no row before the moment.
    """

    parts: list[Part]
    target: Path
    rules: Rules
    spill: Spill
    pool: ThreadPoolExecutor
    free: int
    block_bytes: int
    translation: Translation | None
    force: bool
    moment: Moment | None = None
    new_items: int = 0

    def run(self) -> None:
        blocks = self._spill_blocks()
        counts = Counts()
        for block in blocks:
            counts.add(block.read_by_behavior, block.dropped)
        self.moment = self._find_moment(len(blocks))
        items = self._item_table(len(blocks))
        ranges = self._user_ranges(len(blocks))
        self._sort_histories(len(blocks), ranges, Places(items.ids))
        histories = Histories(self.spill, ranges, items.ids)
        counts.add({}, histories.dropped, histories.users_dropped)
        counts.check(self.parts[0].name, self.rules, histories.user_ids.size)
        self._write(counts, items, histories)

    def _spill_blocks(self) -> list[BlockSummary]:
        """Does step 1: parses the blocks not spilled yet, only as many at once as fit in memory."""
        blocks = self.spill.finished_blocks()
        if blocks:
            console.print(f"  resuming after {sum(block.read for block in blocks):,} rows that were read before")
        whole = sum(part.size for part in self.parts) >> 20
        shown = 0

        def show(place: int, consumed: int) -> None:
            nonlocal shown
            done = (sum(part.size for part in self.parts[:place]) + consumed) >> 20
            advance(done - shown)
            shown = done

        with progress("reading (MB)", whole) as advance:
            first = blocks[-1].next if blocks else (0, 0)
            if blocks:
                show(first[0], blocks[-1].consumed)
            waiting: set[Future[None]] = set()
            for number, block in enumerate(read_blocks(self.parts, self.block_bytes, first), start=len(blocks)):
                waiting.add(self.pool.submit(self._spill_block, number, block))
                while len(waiting) > cores():
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                show(block.part, block.consumed)
            for future in waiting:
                future.result()
        return self.spill.finished_blocks()

    def _spill_block(self, number: int, block: Block) -> None:
        rows = block.rows(self.parts)
        wanted, dropped = wanted_rows(rows, self.rules)
        summary = BlockSummary(
            next=(block.part, block.end),
            consumed=block.consumed,
            read=rows.height,
            read_by_behavior=count_behaviors(rows),
            dropped=dropped,
        )
        pairs = count_pairs(wanted) if self.rules.split == "user" else None  # Later, of the rows before the moment.
        self.spill.write_block(number, wanted, pairs, summary)

    def _find_moment(self, blocks: int) -> Moment | None:
        """Returns where the data are split by time; None if they are not, or if there are no rows."""
        if self.rules.split == "user":
            return None
        times = (count_times(rows["timestamp"].to_numpy(), self.rules) for rows in self.spill.rows(blocks))
        return find_moment(self._merged("times", times, ["timestamp"]), self.rules)

    def _item_table(self, blocks: int) -> ItemTable:
        by_time, moment = self.rules.split == "time", self.moment
        counted = self.spill.pairs(blocks)
        if by_time:
            counted = (pairs_before(rows, moment) for rows in self.spill.rows(blocks))
        pairs = self._merged("(item, category) pairs", counted, ["item_id", "category_id"])
        if by_time:
            since = (items_since(rows, moment) for rows in self.spill.rows(blocks))
            self.new_items = count_new(self._merged("items", since, ["item_id"]), pairs)
        return item_table(pairs, self.rules.min_item_count)

    def _merged(self, what: str, parts: Iterator[pl.DataFrame], keys: list[str]) -> pl.DataFrame:
        """Sums the counts `len` of equal keys, holding hardly more rows in memory than there are different keys.

        `what` names the keys in the error, which is raised if they do not fit in memory.
        """
        limit = self.free // _BYTES_PER_COUNT
        merged, new = next(parts), list[pl.DataFrame]()
        for part in parts:
            new.append(part)
            # A merge costs as much as the rows merged so far, so wait until about as many new ones have come in.
            if sum(frame.height for frame in new) > max(merged.height, limit // 8):
                merged, new = merge_counts([merged, *new], keys), []
            if merged.height > limit:
                break  # The true number of keys stays unknown.
        merged = merge_counts([merged, *new], keys)
        if merged.height > limit:
            raise NannError(
                f"{merged.height:,} {what}, and perhaps more, are more than fit in the memory allowed; allow at least "
                f"{(merged.height * _BYTES_PER_COUNT + MIN_MEMORY_BYTES / 2) * 1.5 / 2**30:.0f} GB"
            )
        return merged

    def _user_ranges(self, blocks: int) -> list[tuple[int, int]]:
        """Does step 2: returns the first and last user of each range.

        The rows of as many ranges as there are cores fit in memory together.
        """
        limit = self.free // (cores() * _BYTES_PER_ROW)
        users = self._merged("users", self.spill.user_counts(blocks), ["user_id"]).sort("user_id")
        ids, rows = users["user_id"].to_numpy(), users["len"].to_numpy()
        if rows.size and rows.max() > limit:
            raise NannError(
                f"user {ids[rows.argmax()]} has {rows.max():,} rows, more than fit in the memory allowed; allow about "
                f"{(rows.max() * _BYTES_PER_ROW * cores() + MIN_MEMORY_BYTES / 2) * 1.2 / 2**30:.0f} GB"
            )
        ends = np.cumsum(rows)
        # Smaller ranges keep all cores busy to the end.
        limit = min(limit, max(int(ends[-1:].sum()) // (4 * cores()), _LEAST_RANGE_ROWS, int(rows.max(initial=1))))
        ranges, begin = [], 0
        while begin < ids.size:
            before = int(ends[begin - 1]) if begin else 0
            end = int(np.searchsorted(ends, before + limit, side="right"))
            ranges.append((int(ids[begin]), int(ids[end - 1])))
            begin = end
        return ranges

    def _sort_histories(self, blocks: int, ranges: list[tuple[int, int]], places: Places) -> None:
        """Does step 3, for the ranges not finished yet."""
        moment = None if self.moment is None else self.moment.test_from
        with progress("sorting histories (parts)", len(ranges)) as advance:
            futures = [
                self.pool.submit(self.spill.write_histories, blocks, users, places, self.rules.min_user_count, moment)
                for users in ranges
                if not (self.spill.histories(users) / "manifest.json").exists()
            ]
            advance(len(ranges) - len(futures))
            for future in futures:
                future.result()
                advance()

    def _write(self, counts: Counts, items: ItemTable, histories: Histories) -> None:
        """Does step 4."""
        moment, before = self.moment, histories.before
        members = divide(histories.user_ids, histories.lengths, before, self.rules, moment)
        # Hashing the sources releases the interpreter lock, so histories are encoded meanwhile.
        translation = self.translation
        read = [part.path for part in self.parts] if translation is None else translation.sources
        sources = self.pool.submit(describe_sources, read)
        with (
            atomic_folder(self.target, SEQUENCES, self.force) as folder,
            progress("writing histories (users)", sum(member.users.size for member in members)) as advance,
        ):
            shards = {}
            for split, member in zip(SPLITS, members, strict=True):
                cuts = shard_cuts(member.lengths)
                pieces = list(map(Member, np.split(member.users, cuts), np.split(member.lengths, cuts)))
                shards[split] = len(pieces)
                for shard, piece in enumerate(pieces):
                    with (folder / shard_name(split, shard, len(pieces))).open("wb") as file:
                        for users, framed in self._framed(histories, piece):
                            file.write(framed)
                            advance(users)
            write_items(folder, items.ids, items.categories, histories.item_counts(members[0]))
            for keys in [] if translation is None else translation.keys:
                shutil.copy(keys, folder)
            write_manifest(
                folder,
                counts=counts.as_dict(items, histories.user_ids.size, int(histories.lengths.sum()), self.rules),
                splits={
                    split: {
                        "users": member.users.size,
                        "behaviors": int(member.lengths.sum()),
                        "shards": shards[split],
                    }
                    for split, member in zip(SPLITS, members, strict=True)
                },
                rules=self.rules.as_dict(),
                sources=sources.result(),
                **({} if moment is None else {"time_split": time_split(moment, self.new_items, members, before)}),
                **({} if translation is None else {"layout": translation.record}),
            )

    def _framed(self, histories: Histories, member: Member) -> Iterator[tuple[int, bytes]]:
        """Yields the framed records of users and their number, some users at a time; encoded on all cores."""
        waiting: deque[tuple[int, Future[bytes]]] = deque()
        for part in histories.read(member):
            waiting.append((part[0].size, self.pool.submit(encode, *part)))
            if len(waiting) > cores():
                count, future = waiting.popleft()
                yield count, future.result()
        for count, future in waiting:
            yield count, future.result()
