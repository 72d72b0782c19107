"""Test cases: which, what the model takes of them, and by what they are grouped."""

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
    """Which held-out cases are asked, and for how many items.

    Attributes:
      k: length of the answers (the paper's M).
      positions_per_user: cases per user; 1 asks for the behaviour in the middle of the history.
      max_cases: so many cases, drawn evenly; None for all.
      split: whose cases, "test" or "validation" users'.
    """

    k: int = 200
    positions_per_user: int = 1
    max_cases: int | None = None
    split: str = "test"


def choose_cases(sequences: Sequences, held_out: HeldOut, history_length: int) -> Cases:
    """The cases that `held_out` describes, with histories of this length.

    Raises:
      NannError: another split, a split without users, or a number below 1.
    """
    cases = sequences.cases(held_out.split, held_out.positions_per_user, history_length)
    wanted = held_out.max_cases
    return cases if wanted is None else part(cases, even_rows(len(cases), wanted))


def even_rows(rows: int, wanted: int) -> np.ndarray:
    """`wanted` of the numbers below `rows`, evenly apart, or all of them where there are no more: int64.

    Raises:
      NannError: fewer than one is wanted.
    """
    if wanted < 1:
        raise NannError(f"{wanted} cases are wanted; it must be 1 or more")
    return np.arange(rows) if wanted >= rows else np.linspace(0, rows - 1, wanted).astype(np.int64)


def part(cases: Cases, rows: slice | np.ndarray) -> Cases:
    """Some of the cases."""
    return Cases(**{field.name: getattr(cases, field.name)[rows] for field in dataclasses.fields(cases)})


def user_tensors(trained: TrainedModel, sequences: Sequences, cases: Cases) -> UserTensors:
    """The user tensors of test cases: their histories as the model's user function takes them."""
    # Through the data's own ids, which a model and a data set share; rows they need not.
    history = sequences.ids_of(cases.histories)
    rows = trained.model.items.rows(tf.constant(history))
    categories = np.concatenate([[-1], trained.item_categories])
    features = {"item_history": tf.constant(history), "category_history": tf.gather(categories, rows)}
    return trained.model.user(features)


def target_popularity(sequences: Sequences, cases: Cases) -> np.ndarray:
    """How often training users met each case's target: int64 [N]."""
    return np.asarray(sequences.popularity)[cases.targets]


def equal_groups(values: np.ndarray, groups: int = GROUPS) -> list[tuple[int, int]]:
    """Ranges of whole numbers, both ends included, that hold about equally many of `values` each.

    Fewer than `groups` where many values are equal. Ranges hold all values, and none is empty.
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, groups + 1), method="higher")).astype(np.int64)
    lows = edges[:-1] if len(edges) > 1 else edges
    highs = np.concatenate([lows[1:] - 1, edges[-1:]])
    filled = [(low, high) for low, high in zip(lows, highs, strict=True) if ((values >= low) & (values <= high)).any()]
    return [(int(low), int(high)) for low, high in filled]
