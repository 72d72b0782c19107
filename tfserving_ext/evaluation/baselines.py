"""Two baselines that need no model: the most popular items, and the user's own items followed by popular ones.

A neural metric must beat both before tuning its search is worth the time. The second is hard to beat where users often
buy the same items again.
"""

from collections.abc import Mapping

import numpy as np

from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.errors import NannError


def popularity_ranks(sequences: Sequences) -> np.ndarray:
    """Returns the rank by popularity of each item row, from 0: int64 [V + 1]. Lower rows win ties; row 0 is last."""
    popularity = np.asarray(sequences.popularity)[1:]
    ranks = np.empty(len(popularity) + 1, np.int64)
    ranks[0] = len(popularity)
    ranks[np.argsort(-popularity, kind="stable") + 1] = np.arange(len(popularity))
    return ranks


def most_popular(sequences: Sequences, cases: Cases) -> np.ndarray:
    """Returns the targets' ranks, from 0, when the answer is training users' most popular items: int64 [N]."""
    return popularity_ranks(sequences)[cases.targets]


def own_history(sequences: Sequences, cases: Cases, window: int | None = None) -> np.ndarray:
    """Returns the targets' ranks, from 0, when the answer is the user's own items followed by the most popular others.

    Own items are ordered by falling frequency; of equally frequent ones, the one seen last comes first.

    Args:
      sequences: the data that the cases are from.
      cases: the cases.
      window: how many behaviours before the target count; None for all.

    Returns:
      int64 [N].

    Raises:
      NannError: `window` is below 1, or the data do not have the user of a case.
    """
    if window is not None and window < 1:
        raise NannError(f"window is {window}; it must be 1 or more")
    popular = popularity_ranks(sequences)
    starts = _starts(sequences, cases.user_ids)
    ranks = np.empty(len(cases), np.int64)
    for case, (start, position, target) in enumerate(zip(starts, cases.positions, cases.targets, strict=True)):
        first = start if window is None else max(start, start + position - window)
        history = np.asarray(sequences.sequence_items[first : start + position])
        # Reversed, so that an item's first place is that of its last behaviour.
        items, places, counts = np.unique(history[::-1], return_index=True, return_counts=True)
        at = np.searchsorted(items, target)
        if at < len(items) and items[at] == target:
            before = (counts > counts[at]) | ((counts == counts[at]) & (places < places[at]))
            ranks[case] = before.sum()
        else:
            # Own items come first, and are not repeated among the popular ones.
            ranks[case] = len(items) + popular[target] - (popular[items] < popular[target]).sum()
    return ranks


def baseline_ranks(sequences: Sequences, cases: Cases, history_length: int) -> Mapping[str, np.ndarray]:
    """Returns the targets' ranks under each baseline, by name; `history_length` is the model's window."""
    return {
        "most_popular": most_popular(sequences, cases),
        "own_history": own_history(sequences, cases),
        "own_history_in_window": own_history(sequences, cases, history_length),
    }


def _starts(sequences: Sequences, user_ids: np.ndarray) -> np.ndarray:
    """Returns where each user's history starts in `sequence_items`.

    In data split by time, a user may also be among those who train; the last of its histories is the whole one.
    """
    order = np.argsort(sequences.user_ids, kind="stable")
    users = order[np.maximum(np.searchsorted(sequences.user_ids, user_ids, side="right", sorter=order) - 1, 0)]
    unknown = np.flatnonzero(np.asarray(sequences.user_ids)[users] != user_ids)
    if len(unknown):
        raise NannError(f"{sequences.folder} has no user {user_ids[unknown[0]]}")
    return np.asarray(sequences.row_splits)[users]
