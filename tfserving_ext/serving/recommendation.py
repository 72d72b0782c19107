"""Asks an exported model for one user's recommendations, and names what it answers."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.serving.requests import as_inputs, item_keys_of, spelled

HISTORY = "item_history"  # The input of our own models' signatures that takes a user's items.


@dataclasses.dataclass(frozen=True)
class Item:
    """An item of a history or of an answer.

    Attributes:
      id: its id; the text that stood in the user's data, if that was no whole number.
      name: its name, or `item ID` if it has none.
      score: the model's score; None in a history.
    """

    id: str
    name: str
    score: float | None = None


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One user's answer.

    Attributes:
      history: the user's items, oldest first; empty if the request was given by its features.
      items: the answer, best first.
      items_scored: how many items the model evaluated.
    """

    history: list[Item]
    items: list[Item]
    items_scored: int


@dataclasses.dataclass(frozen=True)
class Asked:
    """Whom to recommend to; either `user` and `data`, or `features`.

    Attributes:
      user: the user's id in the data, as a text.
      data: output of `nann convert`.
      features: the signature's inputs by name, with one user each.
      new: leave out the items of the user's history.
      inputs: further inputs of the signature by name, such as `filter`.
    """

    user: str | None = None
    data: str | os.PathLike[str] | None = None
    features: Mapping[str, Any] | None = None
    new: bool = False
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises NannError unless exactly one way is complete."""
        by_id = self.user is not None and self.data is not None
        if by_id == (self.features is not None) or (self.user is None) != (self.data is None):
            raise NannError("a request needs either a user and data, or features")
        if self.new and not by_id:
            raise NannError("items of the history can only be left out for a user of data; exclude them by features")


def recommend(
    saved_model: str | os.PathLike[str],
    asked: Asked,
    k: int = 10,
    names: str | os.PathLike[str] | None = None,
    signature: str = "retrieve",
) -> Recommendation:
    """Runs an exported model for one user, in this process.

    Example:
      >>> from tfserving_ext.serving.recommendation import Asked
      >>> found = nann.recommend("models/nann/1", Asked(user="5000", data="data"), k=3)
      >>> len(found.items)
      3

    Args:
      saved_model: output of `nann export`.
      asked: whom to recommend to.
      k: how many items to answer.
      names: a CSV file with the columns item_id and name, and perhaps category.
      signature: the signature to call.

    Raises:
      NannError: a file is missing or damaged, the user is unknown, the signature is missing or does not take what was
        asked, or the search fails.
    """
    from tfserving_ext.data.catalogue import Catalogue
    from tfserving_ext.serving.models import ModelOptions, ServingError, load_servable

    catalogue = Catalogue({}, {}) if names is None else Catalogue.open(names)
    keys: dict[int, str] = {}
    history = np.zeros(0, np.int64)
    if asked.data is not None:
        history, keys = _history(Path(asked.data), str(asked.user))
    servable = load_servable(saved_model, ModelOptions(warm_up_runs=0))
    try:
        served = servable.signature(signature)
        inputs = _inputs(served, asked, history, keys)
        answer = served.run({**inputs, "k": np.asarray(k, np.int32)})
    except ServingError as error:
        # TensorFlow's further lines name the node, which says nothing to whoever asked.
        raise NannError(f"{saved_model}: {error.message.partition(chr(10))[0]}") from error
    finally:
        servable.close()

    def item(number: int | bytes, score: float | None = None) -> Item:
        key = number.decode(errors="replace") if isinstance(number, bytes) else keys.get(number, str(number))
        return Item(key, catalogue.name(key), score)

    count = int(np.ravel(answer["num_results"])[0])
    found = zip(answer["item_ids"][0][:count].tolist(), answer["scores"][0][:count].tolist(), strict=True)
    return Recommendation(
        [item(one) for one in history.tolist()], [item(*one) for one in found], int(answer["items_scored"][0])
    )


def _history(data: Path, user: str) -> tuple[np.ndarray, dict[int, str]]:
    """Returns the ids of a user's items, oldest first, and, where ids are numbers for texts, the text of each."""
    import polars as pl

    from tfserving_ext.data.sequences import Sequences

    sequences = Sequences.open(data)
    users = data / "user_keys.parquet"
    number = int(user) if user.isdecimal() and len(user) < 20 else -1
    if users.exists():
        row = pl.scan_parquet(users).filter(pl.col("key") == user).collect()
        number = row["id"].item() if row.height else -1
    place = np.flatnonzero(sequences.user_ids == number)[-1:]  # If split by time, the last is the whole history.
    if not place.size:
        raise NannError(
            f"{data} has no user {user!r}; it has {sequences.user_ids.size:,}, such as {_some(sequences, users)}"
        )
    begin, end = sequences.row_splits[place[0]], sequences.row_splits[place[0] + 1]
    return sequences.ids_of(sequences.sequence_items[begin:end]), item_keys_of(data)


def _some(sequences: Any, users: Path) -> str:
    import polars as pl

    some = sequences.user_ids[-3:].tolist()
    if users.exists():
        some = pl.scan_parquet(users).filter(pl.col("id").is_in(some)).collect()["key"].to_list()
    return ", ".join(map(str, some))


def _inputs(signature: Any, asked: Asked, history: np.ndarray, keys: Mapping[int, str]) -> dict[str, np.ndarray]:
    if asked.features is None:
        if HISTORY not in signature.proto.inputs:
            wanted = sorted(set(signature.proto.inputs) - set(signature.defaults))
            raise NannError(f"the model does not take {HISTORY}, but {', '.join(wanted)}; give these as features")
        given = {HISTORY: spelled(signature.proto.inputs[HISTORY], history, keys)[None]}
        exclude = {"exclude": given[HISTORY]} if asked.new else {}
        return {**given, **exclude, **as_inputs(signature, asked.inputs)}
    return as_inputs(signature, {**asked.features, **asked.inputs})
