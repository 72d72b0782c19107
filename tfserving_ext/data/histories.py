"""All users' histories as they lie on disk between sorting and writing."""

from collections.abc import Iterator

import numpy as np

from tfserving_ext.data.spill import Spill
from tfserving_ext.data.splits import Member

_ENCODED_ROWS = 1 << 18  # One core encodes about this many rows at once.


class Histories:
    """All users' histories, ascending by user id.

    Attributes:
      user_ids: int64 [U].
      lengths: int64 [U], behaviours of each user.
      before: int64 [U], those before the moment that splits the data by time; all of them if they are split by user.
      dropped: rows that were dropped while histories were sorted, by rule.
      users_dropped: users with too few rows left.
    """

    def __init__(self, spill: Spill, ranges: list[tuple[int, int]], item_ids: np.ndarray) -> None:
        """Opens the histories that `Spill.write_histories` wrote.

        Args:
          spill: the working folder.
          ranges: first and last user of each range, ascending.
          item_ids: int64 [V], the item table; histories hold 1-based places in it.
        """
        self._spill, self._between, self._item_ids = spill, ranges, item_ids
        read = [spill.read_histories(between) for between in ranges]
        self._ranges = [arrays for arrays, _ in read]
        self.user_ids, self.lengths, self.before = (
            np.concatenate([np.zeros(0, np.int64), *(arrays[name] for arrays in self._ranges)])
            for name in ("user_ids", "lengths", "before")
        )
        rules = ("rare_item", "unknown_item", "short_user")
        self.dropped = {rule: sum(counts[rule] for _, counts in read) for rule in rules}
        self.users_dropped = sum(counts["short_users"] for _, counts in read)
        self._first_user = np.cumsum([0, *(arrays["user_ids"].size for arrays in self._ranges)])

    def read(self, member: Member) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields the histories of a split, some at a time: user_ids, lengths, item_ids, times.

        Args:
          member: the split: places in `user_ids`, and how many behaviours of each.
        """
        for number, arrays in enumerate(self._ranges):
            first, end = self._first_user[number : number + 2]
            some_users = slice(*np.searchsorted(member.users, (first, end)))
            inside, lengths = member.users[some_users] - first, member.lengths[some_users]
            # Only one range is mapped at a time, since there may be more ranges than a process may open files.
            items, times = (self._spill.map_history(self._between[number], name) for name in ("items", "times"))
            begins = np.cumsum(arrays["lengths"]) - arrays["lengths"]
            cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // _ENCODED_ROWS)) + 1
            for some, some_lengths in zip(np.split(inside, cuts), np.split(lengths, cuts), strict=True):
                rows = np.repeat(begins[some] - np.cumsum(some_lengths) + some_lengths, some_lengths)
                rows += np.arange(rows.size)
                yield arrays["user_ids"][some], some_lengths, self._item_ids[items[rows] - 1], times[rows]

    def item_counts(self, member: Member) -> np.ndarray:
        """Counts the rows of each item in a split: int64 [V]."""
        counts = np.zeros(self._item_ids.size + 1, np.int64)
        kept = np.zeros(self.user_ids.size, np.int64)
        kept[member.users] = member.lengths
        for number, arrays in enumerate(self._ranges):
            first, end = self._first_user[number : number + 2]
            lengths = arrays["lengths"]
            nth = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            counted = nth < np.repeat(kept[first:end], lengths)
            items = self._spill.map_history(self._between[number], "items")
            counts += np.bincount(items[counted], minlength=counts.size)
        return counts[1:]
