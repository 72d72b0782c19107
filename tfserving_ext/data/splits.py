"""Who trains, who validates and who tests: users are held out, or behaviours from a moment on.

By user, a held-out user's whole history is held out. By time, what happened before a moment trains (or validates, of
the users held out for that), and what happened at that moment or later tests. Everything that training reads is then
made of the behaviours before the moment alone: the histories, the item table, each item's category and count, and which
users have enough behaviours. Only names look ahead: the numbers of ids that are text are given over the whole file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np
import polars as pl

from tfserving_ext.data.rows import Rules, count_pairs
from tfserving_ext.errors import NannError

_MOST_HELD_OUT = 10_000  # Users, unless more are asked for: enough for narrow intervals of recall.
_TENTH = 0.1  # Of the behaviours, unless another part is asked for.
_DATED = range(10**8, 10**11)  # Times that are shown as dates too: 1973 to 5138. Others may be places or milliseconds.


@dataclass(frozen=True)
class Moment:
    """The moment that splits a file by time.

    Attributes:
      test_from: the first time that tests, unix seconds; what is earlier trains.
      first: the earliest time of the rows with the behaviours and times to keep.
      last: the latest of them.
    """

    test_from: int
    first: int
    last: int

    def __str__(self) -> str:
        return f"{_told(self.test_from)}; the times of the data run from {_told(self.first)} to {_told(self.last)}"


class Member(NamedTuple):
    """The users of one split.

    Attributes:
      users: int64 [u], ascending places among all users.
      lengths: int64 [u], how many behaviours of each, from its first, are in the split.
    """

    users: np.ndarray
    lengths: np.ndarray


def count_times(times: np.ndarray, rules: Rules) -> pl.DataFrame:
    """Counts the rows of each time, for `find_moment`: timestamp, len (int64).

    Where the moment is given, only the first and the last time matter, and the frame has no others.

    Args:
      times: int64 [R].
      rules: how the data are split.
    """
    if rules.test_from is not None and times.size:
        times = np.array([times.min(), times.max()])
    values, lens = np.unique(times, return_counts=True)
    return pl.DataFrame({"timestamp": values, "len": lens}, schema={"timestamp": pl.Int64, "len": pl.Int64})


def find_moment(times: pl.DataFrame, rules: Rules) -> Moment | None:
    """Returns the moment that splits the data by time; None if there are no rows.

    A fraction of the behaviours begins at the time of its first one. All rows of that time test, so that a tie makes
    the test larger, never smaller.

    Args:
      times: timestamp and len, each time once, as `count_times` returns them.
      rules: `test_from`, or `test` as a fraction of the behaviours; a tenth if both are None.

    Raises:
      NannError: nothing would be left to train on, or nothing to test.
    """
    if not times.height:
        return None
    values, lens = times.sort("timestamp").get_columns()
    first, last = int(values[0]), int(values[-1])
    if rules.test_from is not None:
        moment = Moment(rules.test_from, first, last)
    else:
        rows = int(lens.sum())
        earlier = rows - round((_TENTH if rules.test is None else rules.test) * rows)
        place = int(np.searchsorted(lens.cum_sum().to_numpy(), earlier, side="right"))
        moment = Moment(int(values[place]) if place < times.height else last + 1, first, last)
    if moment.test_from > last:
        raise NannError(f"nothing is left to test: the test begins at {moment}")
    if moment.test_from <= first:
        raise NannError(f"nothing is left to train on: the test begins at {moment}")
    return moment


def pairs_before(rows: pl.DataFrame, moment: Moment | None) -> pl.DataFrame:
    """Counts the (item, category) pairs of the rows before the moment, as `count_pairs` does.

    Args:
      rows: item_id, category_id and timestamp, int64.
      moment: where they are split; None for no rows.
    """
    return count_pairs(rows if moment is None else rows.filter(pl.col("timestamp") < moment.test_from))


def items_since(rows: pl.DataFrame, moment: Moment | None) -> pl.DataFrame:
    """Counts the rows of each item from the moment on: item_id, len (int64); arguments as for `pairs_before`."""
    since = rows if moment is None else rows.filter(pl.col("timestamp") >= moment.test_from)
    return since.group_by("item_id").len().with_columns(pl.col("len").cast(pl.Int64))


def count_new(since: pl.DataFrame, pairs: pl.DataFrame) -> int:
    """Returns how many items of `items_since` have no row before the moment, by the pairs of `pairs_before`."""
    return since.join(pairs.select("item_id").unique(), on="item_id", how="anti").height


def time_split(moment: Moment, new_items: int, members: Sequence[Member], before: np.ndarray) -> dict[str, int]:
    """Returns the manifest's `time_split`.

    Args:
      moment: where the data are split.
      new_items: items that have no row before it.
      members: the splits, as `divide` returns them.
      before: int64 [U], each user's behaviours before the moment.
    """
    test = members[2]
    return {
        "test_from": moment.test_from,
        "first_time": moment.first,
        "last_time": moment.last,
        "behaviors_tested": int(np.sum(test.lengths - before[test.users])),
        "new_items": new_items,
    }


def divide(
    user_ids: np.ndarray, lengths: np.ndarray, before: np.ndarray, rules: Rules, moment: Moment | None
) -> tuple[Member, ...]:
    """Divides users among train, validation and test, in this order.

    By time, a user may both train and test: its behaviours before the moment train if there are enough of them, and its
    whole history tests if it goes on at the moment or later.

    Args:
      user_ids: int64 [U], ascending.
      lengths: int64 [U], all behaviours of each.
      before: int64 [U], those before the moment.
      rules: how the data are split.
      moment: where they are split by time; None if they are split by user.

    Raises:
      NannError: no user would be left to train on or, by time, to test.
    """
    if moment is None:
        splits = split_users(user_ids, rules)
        return tuple(Member(users := np.flatnonzero(splits == code), lengths[users]) for code in range(3))
    early, late = np.flatnonzero(before >= rules.min_user_count), np.flatnonzero(lengths > before)
    for what, users in (
        (f"no user has {rules.min_user_count} behaviours or more to train on before", early),
        ("no user has a behaviour of an item that is trained to test from", late),
    ):
        if not users.size:
            raise NannError(f"{what} {moment}")
    splits = split_users(user_ids[early], replace(rules, split="user", test=0, test_from=None))
    trained = (early[splits == code] for code in range(2))
    return *(Member(users, before[users]) for users in trained), Member(late, lengths[late])


def split_keys(user_ids: np.ndarray, seed: int) -> np.ndarray:
    """Returns a number per user that decides its split; the users with the lowest numbers are held out.

    The number is a hash, so that it never depends on other users and any part of them can be processed alone: the
    finalizer of SplitMix64 (Steele, Lea, Flood 2014) over id and seed. It is a bijection: no two users share a number.

    Args:
      user_ids: int64 [U].
      seed: 0 or more.

    Returns:
      uint64 [U].
    """
    return mix(user_ids.astype(np.int64).view(np.uint64) ^ mix(np.array([seed + 1], np.uint64)))


def mix(values: np.ndarray) -> np.ndarray:
    """Applies the finalizer of SplitMix64, a bijection, to uint64 numbers of any shape."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def split_sizes(users: int, rules: Rules) -> tuple[int, int]:
    """Returns how many of `users` are held out for validation and for test.

    Raises:
      NannError: no user would be left to train on.
    """
    sizes = [_split_size(value, users) for value in (rules.validation, rules.test)]
    if sum(sizes) >= users:
        raise NannError(
            f"validation {sizes[0]:,} and test {sizes[1]:,} users of {users:,} leave none to train on; choose fewer, "
            f"or fractions such as validation=0.1, test=0.1"
        )
    return sizes[0], sizes[1]


def _split_size(value: int | float | None, users: int) -> int:
    if value is None:
        return min(_MOST_HELD_OUT, users // 10)
    return value if isinstance(value, int) else round(value * users)


def split_users(user_ids: np.ndarray, rules: Rules) -> np.ndarray:
    """Returns the split of each user, 0 train, 1 validation, 2 test: uint8 [U].

    The users with the lowest `split_keys` are the validation split, those with the next lowest the test split.

    Raises:
      NannError: no user would be left to train on.
    """
    validation, test = split_sizes(user_ids.size, rules)
    order = np.argsort(split_keys(user_ids, rules.seed))
    splits = np.zeros(user_ids.size, np.uint8)
    splits[order[:validation]] = 1
    splits[order[validation : validation + test]] = 2
    return splits


def _told(time: int) -> str:
    if time not in _DATED:
        return str(time)
    return f"{time} ({datetime.fromtimestamp(time, timezone.utc).isoformat().replace('+00:00', 'Z')})"
