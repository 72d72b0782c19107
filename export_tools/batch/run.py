"""The top k of every user of a table, by an exported model: what `nann retrieve-all` does."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from export_tools.signatures.request import MAX_USERS
from tfserving_ext.errors import NannError
from tfserving_ext.extras import require


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How all users are answered.

    Attributes:
      k: how many items each user gets; None for the model's default.
      signature: the signature that answers.
      keep: columns of the users to carry to the answers; without any, `row` tells the users apart.
      batch: how many users a call of the signature has at most, 1 to 1,024.
      part_users: how many users a file of answers has at most. A run that goes on after a kill repeats at most the
        files that were being made.
    """

    k: int | None = None
    signature: str = "retrieve"
    keep: tuple[str, ...] = ()
    batch: int = 64
    part_users: int = 4096

    def __post_init__(self) -> None:
        """Raises NannError if a number is out of its range, or a column is kept twice."""
        for name, value, most in (
            ("k", self.k, None),
            ("batch", self.batch, MAX_USERS),
            ("part_users", self.part_users, None),
        ):
            if value is not None and not 1 <= value <= (most or value):
                allowed = "1 and more" if most is None else f"1 to {most:,}"
                raise NannError(f"{name} is {value}; allowed are {allowed}")
        if len(set(self.keep)) < len(self.keep):
            raise NannError(f"the columns to keep are {', '.join(self.keep)}; each can be kept once")


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """The outcome of a run.

    Attributes:
      folder: the folder of the answers.
      users: how many users it has the answers of.
      answered: how many of them this run answered; the others were there already.
      seconds: how long that took, from the first user to the last.
      cores: the cores of this machine; None if the users were answered elsewhere.
    """

    folder: Path
    users: int
    answered: int
    seconds: float
    cores: int | None

    def __str__(self) -> str:
        """Returns one sentence for people."""
        if not self.answered:
            return f"{self.users:,} users, all of whom were answered before: {self.folder}"
        rate = self.answered / max(self.seconds, 1e-9)
        each = "" if self.cores is None else f", {rate / self.cores:,.1f} a second a core"
        before = "" if self.answered == self.users else f", {self.users - self.answered:,} of whom were answered before"
        return (
            f"{self.users:,} users{before}: {self.folder}\n"
            f"          {self.answered:,} users in {self.seconds:,.1f} s, {rate:,.1f} a second{each}"
        )


def retrieve_all(
    saved_model: str | os.PathLike[str],
    users: str | os.PathLike[str],
    target: str | os.PathLike[str] = "answers",
    options: BatchOptions = BatchOptions(),
    beam: Sequence[str] = (),
    force: bool = False,
) -> Retrieved:
    """Writes the top k of every user of a table, by a pipeline of Apache Beam.

    Call it again with the same arguments to go on after an interruption: files that are finished are not made again.

    Example:
      >>> import polars as pl
      >>> histories = pl.DataFrame({"user_id": [1, 2], "item_history": [[100031, 100062], [100093]]})
      >>> histories.write_parquet("users.parquet")
      >>> from export_tools.batch import BatchOptions
      >>> made = nann.retrieve_all("models/nann/1", "users.parquet", "answers", BatchOptions(k=3, keep=("user_id",)))
      >>> answers = pl.read_parquet("answers/*.parquet")
      >>> answers.columns
      ['user_id', 'item_ids', 'scores']
      >>> [len(ids) for ids in answers["item_ids"]]
      [3, 3]

    Args:
      saved_model: output of `nann export`.
      users: a table with a row per user, whose columns are inputs of the signature: a file (Parquet, JSON, JSON lines)
        or a folder of Parquet files. A value may leave out leading dimensions: a list is a history, a number an age. A
        missing value is one that the user does not give.
      target: the folder to write, with the files `part-*.parquet` and `manifest.json`; it appears whole or not at all.
        The columns are those that are kept, or `row` int64, the place in the table from 0; `item_ids`, a list of int64
        or string, best first; and `scores`, a list of float32. A user for whom fewer than k items were found has
        shorter lists.
      options: how the users are answered.
      beam: Beam's pipeline options, such as --runner=FlinkRunner; this machine without any. All workers must see the
        model, the users and the target under the same paths.
      force: replace whatever `target` holds.

    Raises:
      NannError: a file is missing or damaged; the signature or a feature's column is missing, or a column is of
        another type, which is found before the pipeline starts; a user's values are wrong, in which case the message
        names the row; or `target` holds answers of another model, of other users or with other options.
    """
    require("beam")
    from export_tools.batch.pipeline import run

    return run(Path(saved_model), users, Path(target).resolve(), options, tuple(beam), force)
