"""The interface of a peer, which the harness calls."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfserving_ext.data.sequences import Sequences
from tfserving_ext.index.format import Index
from tfserving_ext.models.checkpoint import TrainedModel


@dataclasses.dataclass(frozen=True)
class Workload:
    """The queries that every peer answers, with everything needed to answer them.

    Attributes:
      trained: the model, and the items it knows.
      sequences: the data that it was trained on.
      index: the items, and the graph over them.
      user: the user tensors of all cases, each [N, ...].
      histories: item ids int64 [N, L], oldest first; -1 is padding.
      targets: the item id that each case asks for, int64 [N].
      exact: brute force's answers, item ids int64 [N, k].
      k: length of an answer.
      threads: threads that a peer may use.
      scratch: a folder for files that a peer has to write.
    """

    trained: TrainedModel
    sequences: Sequences
    index: Index
    user: tuple[tf.Tensor, ...]
    histories: np.ndarray
    targets: np.ndarray
    exact: np.ndarray
    k: int
    threads: int
    scratch: Path

    def first(self, cases: int) -> "Workload":
        """Returns the workload of the first `cases` cases, or of all if there are fewer."""
        return dataclasses.replace(
            self,
            user=tuple(tensor[:cases] for tensor in self.user),
            histories=self.histories[:cases],
            targets=self.targets[:cases],
            exact=self.exact[:cases],
        )


class Peer(Protocol):
    """One way to answer the queries.

    Attributes:
      name: its name in the results.
      settings: the settings that `__call__` takes, from cheap to expensive; JSON can hold each of them.
    """

    name: str
    settings: Sequence[Any]

    def __init__(self, workload: Workload) -> None:
        """Prepares everything outside a query: builds its index, compiles, warms up."""

    def __call__(self, first: int, last: int, setting: Any) -> np.ndarray:
        """Answers the cases first to last - 1.

        Returns:
          Item ids int64 [last - first, k], best first, padded with -1 if there are fewer.
        """
