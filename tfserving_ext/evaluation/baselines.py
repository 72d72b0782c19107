"""Two answers that need no model: the most popular items, and the user's own history before them.

A neural metric has to beat both before its search is worth tuning. Where users buy again what they bought before, the
second is hard to beat.
"""

from collections.abc import Mapping

import numpy as np

from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.errors import NannError


def popularity_ranks(sequences: Sequences) -> np.ndarray:
    """Each item row's place among the most popular, from 0, ties by the lower row: int64 [V + 1]; row 0 is last."""
    popularity = np.asarray(sequences.popularity)[1:]
    ranks = np.empty(len(popularity) + 1, np.int64)
    ranks[0] = len(popularity)
    ranks[np.argsort(-popularity, kind="stable") + 1] = np.arange(len(popularity))
    return ranks


def most_popular(sequences: Sequences, cases: Cases) -> np.ndarray:
    """The target's rank, from 0, where the answer is the most popular items of training users: int64 [N]."""
    return popularity_ranks(sequences)[cases.targets]


def own_history(sequences: Sequences, cases: Cases, window: int | None = None) -> np.ndarray:
    """The target's rank, from 0, where the answer is the user's own items and then the most popular others.

    Own items come most frequent first, ties by the later last behaviour.

    Args:
      sequences: the data that the cases are from.
      cases: the cases.
      window: behaviours before the target that count; None for all.

    Returns:
      int64 [N].

    Raises:
      NannError: a window below 1, or a case of a user that the data does not have.
    """
    if window is not None and window < 1:
        raise NannError(f"window is {window}; it must be 1 or more")
    popular = popularity_ranks(sequences)
    starts = _starts(sequences, cases.user_ids)
    ranks = np.empty(len(cases), np.int64)
    for case, (start, position, target) in enumerate(zip(starts, cases.positions, cases.targets, strict=True)):
        first = start if window is None else max(start, start + position - window)
        history = np.asarray(sequences.sequence_items[first : start + position])
        # Reversed, so that the first place of an item is that of its last behaviour.
        items, places, counts = np.unique(history[::-1], return_index=True, return_counts=True)
        at = np.searchsorted(items, target)
        if at < len(items) and items[at] == target:
            before = (counts > counts[at]) | ((counts == counts[at]) & (places < places[at]))
            ranks[case] = before.sum()
        else:
            # Own items come first; the popular ones among them are not repeated.
            ranks[case] = len(items) + popular[target] - (popular[items] < popular[target]).sum()
    return ranks


def baseline_ranks(sequences: Sequences, cases: Cases, history_length: int) -> Mapping[str, np.ndarray]:
    """The target's rank under each baseline, by name; `history_length` is the model's window."""
    return {
        "most_popular": most_popular(sequences, cases),
        "own_history": own_history(sequences, cases),
        "own_history_in_window": own_history(sequences, cases, history_length),
    }


def _starts(sequences: Sequences, user_ids: np.ndarray) -> np.ndarray:
    """Where each user's history starts in `sequence_items`."""
    order = np.argsort(sequences.user_ids, kind="stable")
    places = np.searchsorted(sequences.user_ids, user_ids, sorter=order)
    users = order[np.minimum(places, len(order) - 1)]
    unknown = np.flatnonzero(np.asarray(sequences.user_ids)[users] != user_ids)
    if len(unknown):
        raise NannError(f"{sequences.folder} has no user {user_ids[unknown[0]]}")
    return np.asarray(sequences.row_splits)[users]
