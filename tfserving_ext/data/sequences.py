"""Reads users' histories from a `nann-sequences` folder: training batches, test cases, item rows and ids.

An item's row is its 1-based place in the item table; row 0 means "missing". A history holds the item rows of the
behaviours before its target in time order, the most recent last, padded with 0 at the front.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserving_ext.data.rows import Places
from tfserving_ext.data.sequence_format import SPLITS, load
from tfserving_ext.errors import NannError

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Cases:
    """The test cases of held-out users: a history, and the item to predict from it.

    Attributes:
      user_ids: int64 [N].
      histories: int32 [N, L], item rows, most recent last, padded with 0 at the front.
      targets: int32 [N], the row of the item that followed each history.
      positions: int64 [N], the target's place, from 0, in its user's whole history.
    """

    user_ids: np.ndarray
    histories: np.ndarray
    targets: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)


class Sequences:
    """A `nann-sequences` folder in memory, 12 bytes a behaviour. Safe to share between threads."""

    def __init__(self, folder: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray]):
        self.folder = folder
        self.manifest = manifest
        self.item_ids = arrays["item_ids"]
        self.item_categories = arrays["item_categories"]
        self.item_counts = arrays["item_counts"]
        self.category_ids = arrays["category_ids"]
        self.user_ids = arrays["user_ids"]
        self.user_splits = arrays["user_splits"]
        self.row_splits = arrays["row_splits"]
        self.sequence_items = arrays["sequence_items"]
        self.sequence_times = arrays["sequence_times"]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Sequences":
        """Opens and checks a folder.

        Raises:
          NannError: the folder is missing or damaged, its format or version is another, or its files do not fit
            together.
        """
        return cls(Path(folder), *load(Path(folder)))

    @property
    def counts(self) -> dict[str, Any]:
        """The manifest's counts: users, items, categories, behaviors, rows read and rows dropped."""
        return self.manifest["counts"]

    @property
    def num_items(self) -> int:
        """Number of items in the table, V; rows run from 1 to V."""
        return len(self.item_ids)

    @property
    def num_categories(self) -> int:
        """Number of categories in the table, C; rows run from 1 to C."""
        return len(self.category_ids)

    @cached_property
    def popularity(self) -> np.ndarray:
        """Number of training users' behaviours by item row: int64 [V + 1], 0 for row 0."""
        return np.concatenate([[0], self.item_counts])

    def rows_of(self, item_ids: np.ndarray) -> np.ndarray:
        """Maps item ids, int64 of any shape, to item rows: int32 of that shape, 0 for an unknown id."""
        return self._places(np.asarray(item_ids, np.int64))

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """Maps item rows of any shape to item ids: int64 of that shape, -1 for row 0.

        Raises:
          IndexError: a row is not in [0, V].
        """
        return _look_up(self._padded_ids, rows)

    def category_rows_of(self, rows: np.ndarray) -> np.ndarray:
        """Maps item rows of any shape to category rows: int32 of that shape, 0 for row 0.

        Raises:
          IndexError: a row is not in [0, V].
        """
        return _look_up(self._padded_categories, rows)

    def training_batch(
        self, step: int, batch_size: int, history_length: int = 50, seed: int = 0, targets: int = 1
    ) -> dict[str, Any]:
        """Draws the batch of one step; a pure function of its arguments.

        Every behaviour of a training user except its first is equally likely to be the first target.

        Args:
          step: from 0.
          batch_size: samples a batch.
          history_length: behaviours before the first target, L.
          seed: for the draws.
          targets: behaviours after each history, T.

        Returns:
          {"histories": int32 [batch_size, L], "targets": int32 [batch_size, T]}, both item rows; targets are 0 after
          the user's last behaviour.
        """
        rng = np.random.default_rng([seed, step])
        draws = rng.integers(self._training_targets[-1], size=batch_size)
        nth = np.searchsorted(self._training_targets, draws, side="right") - 1
        starts = self._training_starts[nth]
        places = starts + 1 + draws - self._training_targets[nth]
        ends = self.row_splits[self._training_users[nth] + 1]
        wanted = places[:, None] + np.arange(targets)
        items = np.take(self.sequence_items, wanted, mode="clip")
        return {
            "histories": self._histories(starts, places, history_length),
            "targets": np.where(wanted < ends[:, None], items, np.int32(0)),
        }

    def check_trainable(self) -> None:
        """Raises NannError if no training user has two behaviours, one to predict from and one to predict."""
        if not self._training_targets[-1]:
            raise NannError(f"{self.folder}: no training user has two behaviours or more")

    def training_batches(
        self, batch_size: int, history_length: int = 50, seed: int = 0, first_step: int = 0, targets: int = 1
    ) -> "tf.data.Dataset":
        """Returns an endless data set of the batches that `training_batch` draws, from step `first_step` on.

        A training that stopped after step s resumes exactly with `first_step` = s + 1.

        Args:
          batch_size: samples a batch.
          history_length: behaviours before the first target, L.
          seed: for the draws.
          first_step: the step of the first batch, from 0.
          targets: behaviours after each history, T.

        Returns:
          Elements {"histories": int32 [batch_size, L], "targets": int32 [batch_size, T]}.

        Raises:
          NannError: no training user has two behaviours, or an argument is out of range.
        """
        import tensorflow as tf  # Takes seconds to import, and index building and reports do not need it.

        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("history_length", history_length, 1),
            ("seed", seed, 0),
            ("first_step", first_step, 0),
            ("targets", targets, 1),
        ):
            if value < least:
                raise NannError(f"{name} is {value}; it must be {least} or more")
        self.check_trainable()

        def draw(step: int) -> tuple[np.ndarray, np.ndarray]:
            batch = self.training_batch(int(step), batch_size, history_length, seed, targets)
            return batch["histories"], batch["targets"]

        def element(step: tf.Tensor) -> dict[str, tf.Tensor]:
            histories, rows = tf.numpy_function(draw, [step], (tf.int32, tf.int32), stateful=False)
            return {
                "histories": tf.ensure_shape(histories, [batch_size, history_length]),
                "targets": tf.ensure_shape(rows, [batch_size, targets]),
            }

        return tf.data.Dataset.counter(first_step).map(element).prefetch(8)

    def cases(self, split: str, positions_per_user: int = 1, history_length: int = 50) -> Cases:
        """Returns the targets of a split's users, each with the behaviours before it.

        With one position a user, the target is the behaviour in the middle of the history, the paper's ground truth.
        P positions lie evenly inside a history of n behaviours, at n·k // (P + 1) for k = 1..P; each is taken once,
        and never the first behaviour. In data split by time, the n behaviours are those of a test user from the moment
        of the split on, and the history before a target may reach back beyond it. In data converted from the original's
        files, the target is each history's last behaviour, whatever `positions_per_user`.

        Args:
          split: "validation" or "test".
          positions_per_user: the most targets that a user has.
          history_length: behaviours before the target, L.

        Raises:
          NannError: `split` is another, a number is below 1, or no user of the split has two behaviours.
        """
        if split not in SPLITS[1:]:
            raise NannError(f"split is {split!r}; allowed are {', '.join(map(repr, SPLITS[1:]))}")
        for name, value in (("positions_per_user", positions_per_user), ("history_length", history_length)):
            if value < 1:
                raise NannError(f"{name} is {value}; it must be 1 or more")
        users = np.flatnonzero((self.user_splits == SPLITS.index(split)) & (np.diff(self.row_splits) > 1))
        if not users.size:
            raise NannError(f"{self.folder}: no {split} user has two behaviours or more; convert with {split} above 0")
        starts = self.row_splits[users]
        lengths = self.row_splits[users + 1] - starts
        before = self._before(users) if split == "test" else np.zeros_like(lengths)
        if self.manifest.get("rules", {}).get("ground_truth") == "last":
            places = lengths[:, None] - 1
        else:
            tested = (lengths - before)[:, None]
            places = before[:, None] + tested * np.arange(1, positions_per_user + 1) // (positions_per_user + 1)
        # Drops places that a short history repeats, and place 0.
        fresh = np.diff(places, axis=1, prepend=np.maximum(before - 1, 0)[:, None]) > 0
        nth = np.nonzero(fresh)[0]
        targets = starts[nth] + places[fresh]
        return Cases(
            user_ids=self.user_ids[users[nth]],
            histories=self._histories(starts[nth], targets, history_length),
            targets=np.take(self.sequence_items, targets),
            positions=places[fresh],
        )

    def _before(self, users: np.ndarray) -> np.ndarray:
        """Returns how many behaviours each user has before the moment of a split by time, or 0: int64 [u]."""
        if (split := self.manifest.get("time_split")) is None:
            return np.zeros(users.size, np.int64)
        early = np.concatenate([[0], np.cumsum(self.sequence_times < split["test_from"])])
        return early[self.row_splits[users + 1]] - early[self.row_splits[users]]

    def _histories(self, starts: np.ndarray, targets: np.ndarray, length: int) -> np.ndarray:
        """Returns the behaviours before the places `targets`, but none before `starts`: int32 [N, length]."""
        places = targets[:, None] + np.arange(-length, 0)
        return np.where(places >= starts[:, None], np.take(self.sequence_items, places, mode="clip"), np.int32(0))

    @cached_property
    def _training_users(self) -> np.ndarray:
        return np.flatnonzero((self.user_splits == 0) & (np.diff(self.row_splits) > 1))

    @cached_property
    def _training_starts(self) -> np.ndarray:
        return self.row_splits[self._training_users]

    @cached_property
    def _training_targets(self) -> np.ndarray:
        """Cumulative numbers of possible targets: of the users before each training user, then of all; int64."""
        lengths = self.row_splits[self._training_users + 1] - self._training_starts
        return np.concatenate([[0], np.cumsum(lengths - 1)]).astype(np.int64)

    @cached_property
    def _places(self) -> Places:
        return Places(self.item_ids)

    @cached_property
    def _padded_ids(self) -> np.ndarray:
        return np.concatenate([[-1], self.item_ids])

    @cached_property
    def _padded_categories(self) -> np.ndarray:
        return np.concatenate([np.zeros(1, np.int32), self.item_categories])


def _look_up(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.size and rows.min() < 0:  # NumPy would count a negative row from the end. It refuses one that is too large.
        raise IndexError(f"row {rows.min()}; rows are 0 to {len(table) - 1}")
    return table[rows]
