"""Test cases: chooses them, computes their user tensors, and groups them."""

import dataclasses

import numpy as np
import tensorflow as tf

from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors
from tfserving_ext.models.checkpoint import TrainedModel

GROUPS = 5


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The held-out cases to evaluate on, and the length of the answers.

    Attributes:
      k: length of the answers (the paper's M).
      positions_per_user: cases per user; with 1, the target is the behaviour in the middle of the history.
      max_cases: the most cases, taken evenly from all; None for all.
      split: "test" or "validation", the users to take.
    """

    k: int = 200
    positions_per_user: int = 1
    max_cases: int | None = None
    split: str = "test"


def choose_cases(sequences: Sequences, held_out: HeldOut, history_length: int) -> Cases:
    """Returns the cases that `held_out` describes, with histories of this length.

    Raises:
      NannError: the split is another or has no users, or a number is below 1.
    """
    cases = sequences.cases(held_out.split, held_out.positions_per_user, history_length)
    wanted = held_out.max_cases
    return cases if wanted is None else part(cases, even_rows(len(cases), wanted))


def even_rows(rows: int, wanted: int) -> np.ndarray:
    """Returns `wanted` of the numbers below `rows`, evenly spaced, or all if there are no more: int64.

    Raises:
      NannError: `wanted` is below 1.
    """
    if wanted < 1:
        raise NannError(f"the number of cases is {wanted}; it must be 1 or more")
    return np.arange(rows) if wanted >= rows else np.linspace(0, rows - 1, wanted).astype(np.int64)


def part(cases: Cases, rows: slice | np.ndarray) -> Cases:
    """Returns the cases in `rows`."""
    return Cases(**{field.name: getattr(cases, field.name)[rows] for field in dataclasses.fields(cases)})


def user_tensors(trained: TrainedModel, sequences: Sequences, cases: Cases) -> UserTensors:
    """Computes the user tensors of test cases from their histories."""
    # Uses the data's own ids: a model and a data set share these, but not necessarily item rows.
    history = sequences.ids_of(cases.histories)
    rows = trained.model.items.rows(tf.constant(history))
    categories = np.concatenate([[-1], trained.item_categories])
    features = {"item_history": tf.constant(history), "category_history": tf.gather(categories, rows)}
    return trained.model.user(features)


def target_popularity(sequences: Sequences, cases: Cases) -> np.ndarray:
    """Returns how often each case's target occurs in the training users' behaviours: int64 [N]."""
    return np.asarray(sequences.popularity)[cases.targets]


def equal_groups(values: np.ndarray, groups: int = GROUPS) -> list[tuple[int, int]]:
    """Returns ranges of integers, both ends inclusive, with about equally many of `values` in each.

    There are fewer than `groups` ranges if many values are equal. Together they contain all values, and none is empty.
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, groups + 1), method="higher")).astype(np.int64)
    lows = edges[:-1] if len(edges) > 1 else edges
    highs = np.concatenate([lows[1:] - 1, edges[-1:]])
    filled = [(low, high) for low, high in zip(lows, highs, strict=True) if ((values >= low) & (values <= high)).any()]
    return [(int(low), int(high)) for low, high in filled]
