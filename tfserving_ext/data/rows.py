"""The rules of the conversion, one function each, shared by all engines that convert behaviours.

`convert.py` and Apache Beam (`beam.py`) call them on blocks of a file; the same rows give the same records.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from tfserving_ext.data.behavior_csv import BEHAVIORS
from tfserving_ext.errors import NannError

PAIR = ("item_id", "category_id")
_MOST = 2**63
SPLIT_KINDS = ("user", "time")


@dataclass(frozen=True)
class Rules:
    """What a conversion keeps, and how it splits users.

    Rows are dropped and counted in this order: behaviours not in `behaviors`, timestamps outside `time_range`, items
    with fewer than `min_item_count` rows left, users with fewer than `min_user_count` rows left. Identical rows are
    kept. An item seen under several categories gets its most frequent one; among equally frequent ones, the lowest id.

    Attributes:
      min_item_count: rows that an item needs, over the users of all splits.
      min_user_count: rows that a user needs; with fewer than 2 there is nothing to predict from.
      behaviors: the behaviour types to keep.
      time_range: first and last timestamp to keep, unix seconds, both inclusive; None keeps all.
      validation: users held out for validation: a number, or a fraction below 1 of the users that are left; None for
        10,000 users or a tenth of them, whichever is fewer.
      test: users held out for test, likewise. If `split` is "time", the fraction of the rows, the last in time, that
        test; None for a tenth, unless `test_from` is given.
      seed: for the hash that assigns users to splits.
      split: "user" to hold out users; "time" to test what happened from a moment on (splits.py), where users are held
        out for validation only, and items and training users need their rows before that moment.
      test_from: that moment, unix seconds: rows of this time or a later one test. Only if `split` is "time".
    """

    min_item_count: int = 5
    min_user_count: int = 2
    behaviors: tuple[str, ...] = BEHAVIORS
    time_range: tuple[int, int] | None = None
    validation: int | float | None = None
    test: int | float | None = None
    seed: int = 0
    split: Literal["user", "time"] = "user"
    test_from: int | None = None

    def __post_init__(self) -> None:
        """Raises NannError if a rule is out of its range."""
        for name, least in (("min_item_count", 1), ("min_user_count", 1), ("seed", 0)):
            if not least <= getattr(self, name) < _MOST:
                raise NannError(f"{name} is {getattr(self, name)}; it must be {least} or more, and below 2^63")
        if not self.behaviors or (unknown := sorted(set(self.behaviors) - set(BEHAVIORS))):
            got = ", ".join(map(repr, unknown)) if self.behaviors else "empty"
            raise NannError(f"behaviors: got {got}; allowed are {', '.join(BEHAVIORS)}")
        if self.time_range and not all(-_MOST <= time < _MOST for time in self.time_range):
            raise NannError(f"time_range is {self.time_range[0]} to {self.time_range[1]}; times are within 64 bits")
        if self.time_range and self.time_range[0] > self.time_range[1]:
            raise NannError(
                f"time_range is {self.time_range[0]} to {self.time_range[1]}; the first must not be above the last"
            )
        for name in ("validation", "test"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and (isinstance(value, int) or value < 1)):
                raise NannError(f"{name} is {value}; it must be a number of users or a fraction from 0 to below 1")
        self._check_split()

    def _check_split(self) -> None:
        if self.split not in SPLIT_KINDS:
            raise NannError(f"split is {self.split!r}; allowed are {', '.join(SPLIT_KINDS)}")
        if self.split == "user":
            if self.test_from is not None:
                raise NannError(f"test_from is {self.test_from}, but the split is by user; choose the split time")
            return
        if self.test is not None and not (isinstance(self.test, float) and self.test > 0):
            raise NannError(
                f"test is {self.test}, but the split is by time; allowed is a fraction of the behaviours above 0 and "
                "below 1, such as 0.1, or test_from"
            )
        if self.test_from is not None and (self.test is not None or not -_MOST <= self.test_from < _MOST):
            raise NannError(
                f"test_from is {self.test_from} and test {self.test}; allowed are a time within 64 bits, or a fraction "
                "of the behaviours, not both"
            )

    def as_dict(self) -> dict[str, Any]:
        """Returns the manifest's `rules`."""
        return {**asdict(self), "behaviors": list(self.behaviors)}


def wanted_rows(block: pl.DataFrame, rules: Rules) -> tuple[pl.DataFrame, dict[str, int]]:
    """Selects the rows with the behaviours and times to keep.

    Args:
      block: a frame of `behavior_csv.COLUMNS`.
      rules: what to keep.

    Returns:
      The rows that are left, in their order, and how many were dropped by the rules `behavior` and `time_range`.
    """
    wanted = block
    if set(rules.behaviors) != set(BEHAVIORS):
        wanted = block.filter(pl.col("behavior_type").is_in(rules.behaviors))
    in_time = wanted.filter(pl.col("timestamp").is_between(*rules.time_range)) if rules.time_range else wanted
    return in_time, {"behavior": block.height - wanted.height, "time_range": wanted.height - in_time.height}


def count_behaviors(block: pl.DataFrame) -> dict[str, int]:
    """Counts the rows of each behaviour; behaviours without rows are left out."""
    counts = np.bincount(block["behavior_type"].to_physical().to_numpy(), minlength=len(BEHAVIORS)).tolist()
    return {behavior: count for behavior, count in zip(BEHAVIORS, counts, strict=True) if count}


def count_pairs(rows: pl.DataFrame) -> pl.DataFrame:
    """Counts how often each item stands under each category: item_id, category_id, len (int64); in no order."""
    if (bits := _bits(rows)) is None:
        return rows.group_by(PAIR).len().with_columns(pl.col("len").cast(pl.Int64))
    # Sorting packed keys is about five times as fast as grouping by two columns.
    keys, lens = np.unique(_pack(rows, bits), return_counts=True)
    return _unpacked(keys, lens, bits)


def merge_counts(parts: Sequence[pl.DataFrame], keys: Sequence[str]) -> pl.DataFrame:
    """Sums the partial counts `len` over rows with equal `keys`, which then stand once each; in no order."""
    every = pl.concat(parts)
    if tuple(keys) != PAIR or (bits := _bits(every)) is None:
        return every.group_by(keys).agg(pl.col("len").sum())
    packed = _pack(every, bits)
    order = np.argsort(packed)
    packed = packed[order]
    first = np.flatnonzero(np.diff(packed, prepend=-1))
    return _unpacked(packed[first], np.add.reduceat(every["len"].to_numpy()[order], first), bits)


def _bits(rows: pl.DataFrame) -> int | None:
    """Returns the number of bits that a category id takes; None if item and category do not fit into 63, or no rows."""
    if not rows.height:
        return None
    item, category = (int(rows[column].max()).bit_length() for column in PAIR)  # type: ignore[arg-type]
    return category if item + category <= 63 else None


def _pack(rows: pl.DataFrame, bits: int) -> np.ndarray:
    return (rows["item_id"].to_numpy() << bits) | rows["category_id"].to_numpy()


def _unpacked(keys: np.ndarray, lens: np.ndarray, bits: int) -> pl.DataFrame:
    return pl.DataFrame({"item_id": keys >> bits, "category_id": keys & ((1 << bits) - 1), "len": lens})


@dataclass
class ItemTable:
    """The items that a conversion keeps.

    Attributes:
      ids: int64 [V], ascending.
      categories: int64 [V], the data's own category ids.
      dropped: how many items had too few rows.
      ambiguous: how many of the kept items were seen under several categories.
    """

    ids: np.ndarray
    categories: np.ndarray
    dropped: int
    ambiguous: int


def item_table(pairs: pl.DataFrame, min_item_count: int) -> ItemTable:
    """Picks every item's category and drops the rare items.

    Args:
      pairs: item_id, category_id and len, every pair once, as `merge_counts` returns them.
      min_item_count: rows that an item needs.
    """
    pairs = pairs.sort(["item_id", "len", "category_id"], descending=[False, True, False])
    ids, first, spread = np.unique(pairs["item_id"].to_numpy(), return_index=True, return_counts=True)
    lens = pairs["len"].to_numpy()
    counts = np.add.reduceat(lens, first) if first.size else lens
    kept = counts >= min_item_count
    return ItemTable(
        ids=ids[kept],
        categories=pairs["category_id"].to_numpy()[first[kept]],
        dropped=int(np.sum(~kept)),
        ambiguous=int(np.sum(spread[kept] > 1)),
    )


class Places:
    """Looks up the 1-based places of ids in a table."""

    def __init__(self, table: np.ndarray) -> None:
        """Prepares look-ups in `table`, int64 [V], ascending."""
        self._table = table
        self._dense: np.ndarray | None = None
        span = int(table[-1]) - int(table[0]) + 1 if table.size else 0
        # Ids are dense in most data, where a look-up in an array costs a tenth of a binary search.
        if table.size and span <= 16 * table.size:
            self._dense = np.zeros(span + 1, np.int32)
            self._dense[table - table[0]] = np.arange(1, table.size + 1, dtype=np.int32)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Returns the places of `ids`, int64 of any shape: int32 of that shape, 0 for an id not in the table."""
        if not self._table.size:
            return np.zeros(ids.shape, np.int32)
        if self._dense is not None:
            inside = (ids >= self._table[0]) & (ids <= self._table[-1])
            return self._dense[np.where(inside, ids - self._table[0], self._dense.size - 1)]
        found = np.searchsorted(self._table, ids)
        return np.where(self._table.take(found, mode="clip") == ids, found + 1, 0).astype(np.int32)


def time_order(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Returns the stable order by user, then time.

    Args:
      users: int64 [R], numbers from 0.
      times: int64 [R].

    Returns:
      int64 [R], the places of the rows in that order.
    """
    if not users.size:
        return np.zeros(0, np.int64)
    earliest = int(times.min())
    span = int(times.max()) - earliest + 1
    if (int(users.max()) + 1) * span >= 2**63:
        return np.lexsort((times, users))
    # Sorting by one packed key is about five times as fast as by two, and faster still if the file is almost sorted.
    return np.argsort(users * np.int64(span) + (times - earliest), kind="stable")


def cores() -> int:
    """Returns the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
