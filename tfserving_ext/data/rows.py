"""The rules of the conversion, a function each: what every engine that converts behaviours shares.

`nann convert` calls them on blocks of a file, Apache Beam (`beam.py`) on bundles of one; the same rows give the same
records.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from tfserving_ext.data.behavior_csv import BEHAVIORS
from tfserving_ext.errors import NannError

PAIR = ("item_id", "category_id")


_MOST = 2**63


@dataclass(frozen=True)
class Rules:
    """What a conversion keeps, and how it splits users.

    Rows are dropped in this order, and counted: behaviours not in `behaviors`, timestamps outside `time_range`, items
    with fewer than `min_item_count` rows left, users with fewer than `min_user_count` rows left. Identical rows are
    kept. An item seen under several categories gets its most frequent one, the lowest id among equals.

    Attributes:
      min_item_count: rows an item needs, over the users of all splits.
      min_user_count: rows a user needs; with fewer than 2 there is nothing to predict from.
      behaviors: the behaviour types to keep.
      time_range: first and last timestamp to keep, unix seconds, both inclusive; None keeps all.
      validation: users held out for validation: a number, or a fraction below 1 of the users that are left.
      test: users held out for test, likewise.
      seed: of the hash that assigns users to splits.
    """

    min_item_count: int = 5
    min_user_count: int = 2
    behaviors: tuple[str, ...] = BEHAVIORS
    time_range: tuple[int, int] | None = None
    validation: int | float = 10_000
    test: int | float = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises NannError where a rule is out of its range."""
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
            if not (value >= 0 and (isinstance(value, int) or value < 1)):
                raise NannError(f"{name} is {value}; it must be a number of users or a fraction from 0 to below 1")

    def as_dict(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {**asdict(self), "behaviors": list(self.behaviors)}


def wanted_rows(block: pl.DataFrame, rules: Rules) -> tuple[pl.DataFrame, dict[str, int]]:
    """The rows of wanted behaviours and times.

    Args:
      block: a frame of `behavior_csv.COLUMNS`.
      rules: what to keep.

    Returns:
      The rows that are left, in their order, and how many were dropped by `behavior` and by `time_range`.
    """
    wanted = block
    if set(rules.behaviors) != set(BEHAVIORS):
        wanted = block.filter(pl.col("behavior_type").is_in(rules.behaviors))
    in_time = wanted.filter(pl.col("timestamp").is_between(*rules.time_range)) if rules.time_range else wanted
    return in_time, {"behavior": block.height - wanted.height, "time_range": wanted.height - in_time.height}


def count_behaviors(block: pl.DataFrame) -> dict[str, int]:
    """How many rows of each behaviour there are, of those that are there at all."""
    counts = np.bincount(block["behavior_type"].to_physical().to_numpy(), minlength=len(BEHAVIORS)).tolist()
    return {behavior: count for behavior, count in zip(BEHAVIORS, counts, strict=True) if count}


def count_pairs(rows: pl.DataFrame) -> pl.DataFrame:
    """How often each item stands under each category: item_id, category_id, len (int64); in no order."""
    if (bits := _bits(rows)) is None:
        return rows.group_by(PAIR).len().with_columns(pl.col("len").cast(pl.Int64))
    # Sorting packed keys is about five times as fast as grouping by two.
    keys, lens = np.unique(_pack(rows, bits), return_counts=True)
    return _unpacked(keys, lens, bits)


def merge_counts(parts: Sequence[pl.DataFrame], keys: Sequence[str]) -> pl.DataFrame:
    """Sums the partial counts `len` of frames, so that equal `keys` stand once; in no order."""
    every = pl.concat(parts)
    if tuple(keys) != PAIR or (bits := _bits(every)) is None:
        return every.group_by(keys).agg(pl.col("len").sum())
    packed = _pack(every, bits)
    order = np.argsort(packed)
    packed = packed[order]
    first = np.flatnonzero(np.diff(packed, prepend=-1))
    return _unpacked(packed[first], np.add.reduceat(every["len"].to_numpy()[order], first), bits)


def _bits(rows: pl.DataFrame) -> int | None:
    """The bits that a category takes, if item and category fit into 63 together, and there are any."""
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
      dropped: items with too few rows.
      ambiguous: kept items that were seen under several categories.
    """

    ids: np.ndarray
    categories: np.ndarray
    dropped: int
    ambiguous: int


def item_table(pairs: pl.DataFrame, min_item_count: int) -> ItemTable:
    """Picks every item's category and drops the rare items; `pairs` as `merge_counts` gives them."""
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
    """The 1-based places of ids in a table, looked up many times."""

    def __init__(self, table: np.ndarray) -> None:
        """Takes int64 [V], ascending."""
        self._table = table
        self._dense: np.ndarray | None = None
        span = int(table[-1]) - int(table[0]) + 1 if table.size else 0
        if table.size and span <= 16 * table.size:  # Ids are mostly so; a lookup costs a tenth of a search.
            self._dense = np.zeros(span + 1, np.int32)
            self._dense[table - table[0]] = np.arange(1, table.size + 1, dtype=np.int32)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Their places, 0 where the table has none: int32, of the shape of the int64 `ids`."""
        if not self._table.size:
            return np.zeros(ids.shape, np.int32)
        if self._dense is not None:
            inside = (ids >= self._table[0]) & (ids <= self._table[-1])
            return self._dense[np.where(inside, ids - self._table[0], self._dense.size - 1)]
        found = np.searchsorted(self._table, ids)
        return np.where(self._table.take(found, mode="clip") == ids, found + 1, 0).astype(np.int32)


def time_order(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The stable order by user, then time: int64 [R]. `users` are numbers from 0."""
    if not users.size:
        return np.zeros(0, np.int64)
    earliest = int(times.min())
    span = int(times.max()) - earliest + 1
    if (int(users.max()) + 1) * span >= 2**63:
        return np.lexsort((times, users))
    # One packed key is about five times as fast as two, the more so where the file is almost sorted already.
    return np.argsort(users * np.int64(span) + (times - earliest), kind="stable")


def split_keys(user_ids: np.ndarray, seed: int) -> np.ndarray:
    """A number per user that decides its split; the users with the lowest ones are held out.

    A hash, so that any part of the users can be looked at alone and a user's number never depends on the others: the
    finalizer of SplitMix64 (Steele, Lea, Flood 2014) over id and seed. It is a bijection: no two users share a number.

    Args:
      user_ids: int64 [U].
      seed: from 0.

    Returns:
      uint64 [U].
    """
    return mix(user_ids.astype(np.int64).view(np.uint64) ^ mix(np.array([seed + 1], np.uint64)))


def mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64, a bijection of uint64 numbers of any shape."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def split_sizes(users: int, rules: Rules) -> tuple[int, int]:
    """How many of `users` are held out for validation and for test.

    Raises:
      NannError: none would be left to train on.
    """
    sizes = [int(value) if isinstance(value, int) else round(value * users) for value in (rules.validation, rules.test)]
    if sum(sizes) >= users:
        raise NannError(
            f"validation {sizes[0]:,} and test {sizes[1]:,} users of {users:,} leave none to train on; choose fewer, "
            f"or fractions such as validation=0.1, test=0.1"
        )
    return sizes[0], sizes[1]


def split_users(user_ids: np.ndarray, rules: Rules) -> np.ndarray:
    """The split of each user, 0 train, 1 validation, 2 test: uint8 [U].

    The `validation` users of the lowest `split_keys` are the validation split, the `test` next ones the test split.

    Raises:
      NannError: none would be left to train on.
    """
    validation, test = split_sizes(user_ids.size, rules)
    order = np.argsort(split_keys(user_ids, rules.seed))
    splits = np.zeros(user_ids.size, np.uint8)
    splits[order[:validation]] = 1
    splits[order[validation : validation + test]] = 2
    return splits


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))
