"""Recall of a Keras ranker in training, by scoring every item."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from export_tools.cut.items import Catalogue, Items
from export_tools.sources.functional import Functional, score_outputs
from tfserving_ext.errors import NannError
from tfserving_ext.training.adversarial import AdversarialModel

_ROWS = 8192  # Pairs of a user and an item that are scored at once.


class RecallAtK(keras.callbacks.Callback):
    """Logs, after each epoch, the share of held-out users whose next item is among the best k of all items.

    Put it before callbacks that watch its figure, `val_recall_at_100` if k is 100, such as `EarlyStopping`, with mode
    "max". Every user takes as many rows through the model as there are items; some hundred users of ten thousand items
    are a few million rows. Items with the same score as the user's own rank before it.

    Example:
      >>> import polars
      >>> items = nann.Items(polars.DataFrame({"item_id": [3, 5, 7, 9]}))
      >>> recall = nann.RecallAtK({"user": np.ones([2, 4])}, targets=[5, 9], items=items, k=2)
      >>> recall.name
      'val_recall_at_2'

    Attributes:
      name: the name of its figure in the logs.
    """

    def __init__(
        self,
        users: Mapping[str, Any],
        targets: Sequence[Any] | np.ndarray,
        items: Items,
        k: int = 100,
        every: int = 1,
        output: str = "",
    ) -> None:
        """Takes the held-out users.

        Args:
          users: the user's inputs of the model by name, each [users, ...].
          targets: the id of the item that each user took next, integers or strings [users].
          items: the table of items that `export` takes.
          k: how many of the best items count.
          every: epochs from one measurement to the next; the last epoch of a `fit` is not measured by itself.
          output: the output that is the score, if there are several.

        Raises:
          NannError: k or `every` is below 1, there are no users, or numbers of users differ.
        """
        super().__init__()
        for what, value in (("k", k), ("every", every)):
            if value < 1:
                raise NannError(f"{what} is {value}, allowed are numbers of at least 1")
        counts = {"targets": len(targets)} | {name: len(values) for name, values in users.items()}
        if not users or set(counts.values()) != {len(targets)} or not len(targets):
            told = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise NannError(f"there must be as many users in all inputs as targets, and at least one; there are {told}")
        self.name = f"val_recall_at_{k}"
        self._users, self._targets, self._items = dict(users), np.asarray(targets), items
        self._k, self._every, self._output = k, every, output
        self._measure: Any = None

    def set_model(self, model: Any) -> None:
        """Takes the model that is trained, and reads the items as its inputs take them.

        Raises:
          NannError: the model is not functional, the table does not fit it, an input of the user is missing, or a
            target is no item.
        """
        super().set_model(model)
        ranker = model.ranker if isinstance(model, AdversarialModel) else model
        self._measure = _Exact(ranker, self._items, self._users, self._output)
        self._places = self._measure.places(self._targets)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the figure to the logs."""
        if (epoch + 1) % self._every == 0 and logs is not None:
            logs[self.name] = float(np.mean(self._measure.ranks(self._places) < self._k))


class _Exact:
    """Scores every item for every user."""

    def __init__(self, model: Any, items: Items, users: Mapping[str, Any], output: str) -> None:
        self._model = Functional(model, "the model")
        specs = {name: self._model.spec(name) for name in self._model.inputs}
        self._catalogue = Catalogue(items, specs)
        (self._output,) = score_outputs("the model", self._model.outputs, output)
        wanted = [name for name in specs if name not in self._catalogue.columns]
        missing = [name for name in wanted if name not in users]
        if missing:
            raise NannError(
                f"the held-out users have no input {missing[0]!r}; the model takes {', '.join(wanted)} of a user"
            )
        self._users = {name: tf.convert_to_tensor(users[name], specs[name].dtype) for name in wanted}
        self._scores = tf.function(self._score, autograph=False, reduce_retracing=True)

    def places(self, targets: np.ndarray) -> np.ndarray:
        """Returns the rows of items in the table by their ids."""
        rows = {item: row for row, item in enumerate(self._catalogue.ids.tolist())}
        for target in targets.tolist():
            if target not in rows:
                raise NannError(f"the target {target!r} is no item of {self._catalogue.name}")
        return np.array([rows[target] for target in targets.tolist()])

    def ranks(self, places: np.ndarray) -> np.ndarray:
        """Returns how many other items score at least as much as each user's own; all of them if that is NaN."""
        return np.array([self._rank(user, int(place)) for user, place in enumerate(places)])

    def _rank(self, user: int, place: int) -> int:
        count = len(self._catalogue.ids)
        given = {name: values[user : user + 1] for name, values in self._users.items()}
        parts = [
            self._scores(given, self._typed(begin, min(begin + _ROWS, count))).numpy()
            for begin in range(0, count, _ROWS)
        ]
        scores = np.concatenate(parts)
        return count if np.isnan(scores[place]) else int(np.sum(scores >= scores[place])) - 1

    def _typed(self, begin: int, end: int) -> dict[str, tf.Tensor]:
        rows = self._catalogue.rows(begin, end)
        return {name: tf.constant(values, self._model.spec(name).dtype) for name, values in rows.items()}

    def _score(self, user: Mapping[str, tf.Tensor], rows: Mapping[str, tf.Tensor]) -> tf.Tensor:
        count = tf.shape(next(iter(rows.values())))[0]
        repeated = {name: tf.repeat(value, count, axis=0) for name, value in user.items()}
        return tf.reshape(self._model({**repeated, **rows})[self._output], [-1])
