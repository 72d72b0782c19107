"""Answers many users by few calls of a signature: each call has users whose inputs have the same shapes.

Features are never padded, as models other than the project's own may take padding for behaviour. Ids that are excluded
or searched from are padded, which the signatures promise to ignore.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from export_tools.signatures import BY_ATTRIBUTES
from tfserving_ext.errors import NannError
from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.index.item_keys import NO_KEY
from tfserving_ext.serving.models import ServingError, Signature
from tfserving_ext.serving.requests import as_inputs

OUTPUTS = ("item_ids", "scores", "num_results")
_IDS = ("exclude", "seeds")  # Inputs of ids besides the model's features, [B, x].
Inputs = dict[str, np.ndarray]


class Answer(NamedTuple):
    """One user's answer.

    Attributes:
      item_ids: int64 or bytes [n], best first, with n the number of items that were found, at most k.
      scores: float32 [n].
    """

    item_ids: np.ndarray
    scores: np.ndarray


class Answerer:
    """Calls a signature with many users at once."""

    def __init__(self, signature: Signature, batch: int, common: Mapping[str, Any]) -> None:
        """Prepares calls.

        Args:
          signature: a signature with `OUTPUTS`.
          batch: the most users in a call.
          common: inputs by name that are the same for all users.
        """
        self._signature, self._batch = signature, batch
        self._common = as_inputs(signature, common)
        defaults = signature.defaults
        self._ids = [name for name in _IDS if name in defaults and defaults[name].shape == (0, 0)]
        open_rank = {name for name, info in signature.proto.inputs.items() if info.tensor_shape.unknown_rank}
        self._by_attributes = [name for name in BY_ATTRIBUTES if name in open_rank]
        # One call has one value of each, such as `pool`.
        self._parameters = open_rank - set(self._by_attributes)

    def answer(self, users: Sequence[Mapping[str, Any]], called: Callable[[int], str]) -> list[Answer]:
        """Returns the answers in the order of the users.

        Args:
          users: values by input name, as `as_inputs` takes them.
          called: returns the name of the user at a place, for messages.

        Raises:
          NannError: a user's inputs are wrong, or the search fails; the message names the user.
        """
        inputs = []
        for place, user in enumerate(users):
            try:
                inputs.append(self._inputs(user))
            except NannError as error:
                raise NannError(f"{called(place)}: {error}") from error
        alike: dict[Any, list[int]] = {}
        for place, one in enumerate(inputs):
            alike.setdefault(self._key(one), []).append(place)
        found: dict[int, Answer] = {}
        for places in alike.values():
            for start in range(0, len(places), self._batch):
                together = places[start : start + self._batch]
                try:
                    found.update(zip(together, self._call([inputs[place] for place in together]), strict=True))
                except ServingError as error:
                    raise self._named(error, together, inputs, called) from error
        return [found[place] for place in range(len(inputs))]

    def _inputs(self, user: Mapping[str, Any]) -> Inputs:
        """Returns one user's inputs, with one row in each that has rows of users."""
        inputs = as_inputs(self._signature, user)
        for name in self._ids:
            inputs.setdefault(name, np.zeros([1, 0], self._signature.defaults[name].dtype))
        for name in self._by_attributes:
            inputs[name] = np.reshape(inputs.get(name, self._signature.defaults[name]), -1)
        for name, array in inputs.items():
            if name not in self._parameters and array.shape[:1] != (1,):
                raise NannError(f"{name} has {array.shape[0]} rows; one is expected, of one user")
        return inputs

    def _key(self, inputs: Inputs) -> Any:
        """Returns what must be equal for two users to be in the same call."""
        return frozenset(
            (name, repr(array.tolist()) if name in self._parameters else array.shape[1:])
            for name, array in inputs.items()
            if name not in self._ids
        )

    def _call(self, users: Sequence[Inputs]) -> Iterator[Answer]:
        inputs = dict(self._common)
        for name in users[0]:
            rows = [user[name] for user in users]
            if name in self._parameters:
                inputs[name] = rows[0]
            elif name in self._ids:
                inputs[name] = _padded(rows)
            else:
                inputs[name] = np.concatenate(rows)
        found = self._signature.run(inputs)
        return (Answer(ids[:n], scores[:n]) for ids, scores, n in zip(*(found[one] for one in OUTPUTS), strict=True))

    def _named(
        self, error: ServingError, places: Sequence[int], inputs: Sequence[Inputs], called: Callable[[int], str]
    ) -> NannError:
        """Returns a call's error with the name of the first user whose inputs raise one by themselves."""
        for place in places:
            try:
                self._call([inputs[place]])
            except ServingError as own:
                return NannError(f"{called(place)}: {_first_line(own)}")
        return NannError(f"{called(places[0])} and {len(places) - 1} others like it: {_first_line(error)}")


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Returns ids [1, x] of several users, with any x, as one array [B, most x]."""
    none = NO_KEY if rows[0].dtype == object else NO_ITEM
    padded = np.full([len(rows), max(row.shape[1] for row in rows)], none, rows[0].dtype)
    for to, row in zip(padded, rows, strict=True):
        to[: row.shape[1]] = row[0]
    return padded


def _first_line(error: ServingError) -> str:
    """Returns what the search said; TensorFlow's further lines name the node of the graph."""
    return error.message.partition("\n")[0]
