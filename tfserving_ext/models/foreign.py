"""Models that are not this project's: any class with `user`, `item` and `score`, trained and served like ours.

A model's folder records "module:Class", but no module is imported because a file names it: the user who runs a command
says which modules may run (`nann --import module`).
"""

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.models.histories import last_known
from tfserving_ext.models.retrieval_model import RetrievalModel, UserTensors
from tfserving_ext.models.sequence_model import SequenceConfig
from tfserving_ext.models.vocabulary import Vocabulary

_FUNCTIONS = ("user", "item", "score")
_imported: set[str] = set()


@dataclasses.dataclass(frozen=True)
class ForeignConfig(SequenceConfig):
    """The configuration of a foreign model; its sizes beyond the shared ones are set in its own class.

    Attributes:
      model_class: "module:Class".
    """

    model: ClassVar[str] = "foreign"

    model_class: str = ""


def import_models(module: str) -> None:
    """Imports a module and allows its models; searches the working folder too, as `python -m` does.

    Raises:
      NannError: there is no such module, or importing it fails.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.import_module(module)
    except Exception as error:  # Code that is not ours may raise anything.
        raise NannError(f"cannot import {module!r}: {type(error).__name__}: {error}") from error
    _imported.add(module)


def foreign_class(name: str) -> type:
    """Returns the class that "module:Class" names.

    Raises:
      NannError: the module has not been allowed, has no such class, or the class lacks a function of the contract.
    """
    module, _, attribute = name.partition(":")
    if module not in _imported:
        raise NannError(
            f"the model is {name!r}, code of the module {module!r}; allow it to run by `nann --import {module} ...`"
        )
    found = getattr(sys.modules[module], attribute, None)
    if not inspect.isclass(found):
        classes = [each for each, value in vars(sys.modules[module]).items() if _follows_contract(value)]
        raise NannError(f"{module} has no class {attribute!r}; its models are {', '.join(classes) or 'none'}")
    if not _follows_contract(found):
        missing = [function for function in _FUNCTIONS if not callable(getattr(found, function, None))]
        raise NannError(f"{name} has no {', '.join(missing)}; a model has {', '.join(_FUNCTIONS)} (docs/own_models.md)")
    return found


def _follows_contract(value: object) -> bool:
    return inspect.isclass(value) and all(callable(getattr(value, function, None)) for function in _FUNCTIONS)


class ForeignModel(keras.Model):
    """Wraps a foreign model with what training and the commands need; follows `TrainableModel`.

    Attributes:
      config: names the class.
      items: the item vocabulary.
      categories: the category vocabulary.
      inner: the foreign model.
      item_dim: width of e_v.
    """

    config_type: ClassVar[type[SequenceConfig]] = ForeignConfig

    def __init__(
        self, item_ids: np.ndarray, category_ids: np.ndarray, item_counts: np.ndarray | None, config: ForeignConfig
    ) -> None:
        """Makes `config.model_class(item_ids, category_ids, item_counts)`.

        Raises:
          NannError: the class is not available, its constructor fails, or its functions do not follow the contract.
        """
        super().__init__(name=config.model)
        self.config = config
        self.items = Vocabulary(item_ids, "items")
        self.categories = Vocabulary(category_ids, "categories")
        self._layers_dtype = keras.mixed_precision.dtype_policy().compute_dtype
        # One history of two items, and two items: enough for any model to create its weights.
        ids, categories = np.resize(item_ids, 2)[None], np.resize(category_ids, 2)[None]
        try:
            self.inner: RetrievalModel = foreign_class(config.model_class)(item_ids, category_ids, item_counts)
            item = self.item({"item_id": tf.constant(ids[0]), "category_id": tf.constant(categories[0])})
            user = self.user({"item_history": tf.constant(ids), "category_history": tf.constant(categories)})
            score = self.score(user, item[None])
        except NannError:
            raise
        except Exception as error:
            raise NannError(f"{config.model_class} failed: {type(error).__name__}: {error}") from error
        if not isinstance(getattr(self.inner, "trainable_variables", None), (list, tuple)):
            raise NannError(f"{config.model_class} has no trainable_variables; derive it from keras.Model or tf.Module")
        if item.shape.rank != 2 or item.shape[0] != 2 or item.dtype != tf.float32:
            raise NannError(
                f"{config.model_class}.item gave {item.dtype.name} {item.shape}; for 2 items it must be float32 [2, d]"
            )
        if score.shape != (1, 2) or score.dtype != tf.float32:
            raise NannError(
                f"{config.model_class}.score gave {score.dtype.name} {score.shape}; for 1 user and 2 items it must be "
                "float32 [1, 2]"
            )
        self.item_dim = int(item.shape[1])
        self.built = True

    @property
    def trainable_variables(self) -> list[Any]:
        """The trainable variables of the foreign model."""
        return list(cast(Any, self.inner).trainable_variables)

    def item(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        """See `RetrievalModel.item`."""
        return self._float32(self.inner.item(features))

    def user(self, features: dict[str, tf.Tensor]) -> UserTensors:
        """See `RetrievalModel.user`; histories reach the foreign model in the form that they have in training.

        That is the last `history_length` behaviours with items of the training data, padded with -1 at the front.
        """
        histories = {name: features[name] for name in ("item_history", "category_history")}
        known = self.items.rows(histories["item_history"]) > 0
        fixed = last_known(known, histories, self.config.history_length, missing=-1)
        return tuple(map(self._float32, self.inner.user(dict(zip(histories, fixed, strict=True)))))

    def score(self, user: UserTensors, items: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See `TrainableModel.score`."""
        if items.shape[0] == 1 and user[0].shape[0] != 1:
            items = tf.repeat(items, tf.shape(user[0])[0], axis=0)
        return self._float32(self._function("score", training)(user, items))

    def item_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See `TrainableModel.item_from_rows`."""
        features = {"item_id": _ids(self.items, item_rows), "category_id": _ids(self.categories, category_rows)}
        return self._float32(self._function("item", training)(features))

    def user_from_rows(self, item_rows: tf.Tensor, category_rows: tf.Tensor, training: bool = False) -> UserTensors:
        """See `TrainableModel.user_from_rows`."""
        histories = {
            "item_history": _ids(self.items, item_rows),
            "category_history": _ids(self.categories, category_rows),
        }
        return tuple(map(self._float32, self._function("user", training)(histories)))

    def _function(self, name: str, training: bool) -> Callable[..., Any]:
        """Returns a function of the foreign model; binds `training` if it takes that."""
        function = getattr(self.inner, name)
        if training and "training" in inspect.signature(function).parameters:
            return functools.partial(function, training=True)
        return function

    def _float32(self, values: tf.Tensor) -> tf.Tensor:
        """Casts values of layers that compute in another type under mixed precision."""
        return tf.cast(values, tf.float32) if values.dtype.name == self._layers_dtype else values


def _ids(vocabulary: Vocabulary, rows: tf.Tensor) -> tf.Tensor:
    return tf.where(rows > 0, tf.gather(vocabulary.ids, tf.maximum(rows - 1, 0)), tf.constant(-1, tf.int64))
