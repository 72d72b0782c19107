"""Recall and coverage of top-M answers (arXiv 2202.10226, section 4.2). Each row is a case."""

import numpy as np

from tfserving_ext.index.checks import NO_ITEM


def held(item_ids: np.ndarray) -> np.ndarray:
    """Returns where an answer has an item, bool of the shape of `item_ids`: int64, or text as bytes or str."""
    if item_ids.dtype.kind in "OSU":
        return (item_ids != b"") & (item_ids != "")
    return item_ids != NO_ITEM


def recall(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns whether each case's target is in its answer.

    Args:
      answers: item ids int64 [N, M]; -1 stands for no item.
      targets: item ids int64 [N].

    Returns:
      float64 [N], 0 or 1; the mean is recall@M: recall-all for brute force's answers, recall-retrieval for those of a
      search.
    """
    return (answers == targets[:, None]).any(axis=1).astype(np.float64)


def target_ranks(answers: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the place of each case's target in its answer, from 0: int32 [N], -1 if it is not there.

    The recall of a case at a cutoff c up to M is 1 if 0 <= rank < c.

    Args:
      answers: item ids int64 [N, M], best first; -1 stands for no item.
      targets: item ids int64 [N].
    """
    found = (answers == targets[:, None]) & held(answers)
    return np.where(found.any(axis=1), found.argmax(axis=1), -1).astype(np.int32)


def coverage(answers: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Returns the share of brute force's answer that a search found, |R_u ∩ B_u| / |B_u|.

    Args:
      answers: item ids int64 [N, M] of the search, where -1 stands for no item; or text, where an empty one does.
      exact: item ids [N, M] of brute force, of the same type.

    Returns:
      float64 [N]; its mean is coverage@M.
    """
    result = np.empty(len(exact))
    for case, (found, wanted) in enumerate(zip(answers, exact, strict=True)):
        wanted = wanted[held(wanted)]
        result[case] = np.isin(wanted, found).mean() if len(wanted) else 1.0
    return result


def recall_delta(recall_all: float, recall_retrieval: float) -> float:
    """Returns the share of recall that the search loses, (recall-all - recall-retrieval) / recall-all; 0 for 0 / 0."""
    return (recall_all - recall_retrieval) / recall_all if recall_all else 0.0
