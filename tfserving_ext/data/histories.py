"""All users' histories as they lie on disk between sorting and writing."""

from collections.abc import Iterator

import numpy as np

from tfserving_ext.data.spill import Spill

_ENCODED_ROWS = 1 << 18  # One core encodes about this many rows at once.


class Histories:
    """All users' histories, ascending by user id.

    Attributes:
      user_ids: int64 [U].
      lengths: int64 [U], behaviours of each user.
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
        self.user_ids, self.lengths = (
            np.concatenate([np.zeros(0, np.int64), *(arrays[name] for arrays in self._ranges)])
            for name in ("user_ids", "lengths")
        )
        self.dropped = {rule: sum(counts[rule] for _, counts in read) for rule in ("rare_item", "short_user")}
        self.users_dropped = sum(counts["short_users"] for _, counts in read)
        self._first_user = np.cumsum([0, *(arrays["user_ids"].size for arrays in self._ranges)])

    def read(self, users: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields the histories of users, some at a time: user_ids, lengths, item_ids, times.

        Args:
          users: ascending places in `user_ids`.
        """
        for number, arrays in enumerate(self._ranges):
            first, end = self._first_user[number : number + 2]
            inside = users[np.searchsorted(users, first) : np.searchsorted(users, end)] - first
            # Only one range is mapped at a time, since there may be more ranges than a process may open files.
            items, times = (self._spill.map_history(self._between[number], name) for name in ("items", "times"))
            ends = np.cumsum(arrays["lengths"])
            lengths = arrays["lengths"][inside]
            cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // _ENCODED_ROWS)) + 1
            for some, some_lengths in zip(np.split(inside, cuts), np.split(lengths, cuts), strict=True):
                starts = ends[some] - some_lengths
                rows = np.repeat(starts - np.cumsum(some_lengths) + some_lengths, some_lengths)
                rows += np.arange(rows.size)
                yield arrays["user_ids"][some], some_lengths, self._item_ids[items[rows] - 1], times[rows]

    def item_counts(self, users: np.ndarray) -> np.ndarray:
        """Counts the rows of each item, int64 [V], over the users where `users`, bool [U], is true."""
        counts = np.zeros(self._item_ids.size + 1, np.int64)
        for number, arrays in enumerate(self._ranges):
            first, end = self._first_user[number : number + 2]
            counted = np.repeat(users[first:end], arrays["lengths"])
            items = self._spill.map_history(self._between[number], "items")
            counts += np.bincount(items[counted], minlength=counts.size)
        return counts[1:]
