"""The form into which every kind of model is brought before it is exported."""

import dataclasses
import functools
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.known_values import read_known_values
from export_tools.sources.items import ItemFunction
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors
from tfserving_ext.serving.known_values import KnownValues

UserFunction = Callable[[dict[str, tf.Tensor]], UserTensors]
ScoreFunction = Callable[[UserTensors, tf.Tensor], tf.Tensor]

_OWN_INPUTS = ("k", "frontier", "pool", "max_steps", "ef", "rounds", "seeds", "exclude", "budget", "deadline_ms")


@dataclasses.dataclass(frozen=True)
class Sequence:
    """How to answer a request of alibaba/nann, which carries one user as a sequence of embedded behaviours.

    Attributes:
      width: number of values in `comm_seq`.
      user: computes the user tensors, each [1, ...], from `comm_seq`, float16 [1, width].
    """

    width: int
    user: Callable[[tf.Tensor], UserTensors]


@dataclasses.dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
      kind: the kind of model, one word for the manifest.
      user: see `tfserving_ext.models.RetrievalModel`.
      score: see there; always called with one user, so with [1, ...] and [1, N, d].
      features: specs of the features that `user` takes, by name; the first dimension is the batch, and is unknown.
      defaults: values for the features that a request may leave out, by name.
      seeds: the feature, int64, int32 or string [B, L], that holds the user's own item ids; None if there is none.
      sequence: how to answer a request of alibaba/nann; None if the model cannot.
      tracked: an object to save besides the state that the functions use, such as a SavedModel with its initializer.
      inputs: SHA-256 of every file that was read, by name.
      description: facts about the model for the manifest.
      item: returns embeddings [n, d] for ids [n], int64 or, if the model takes these, string; None if the model has no
        such function.
      item_ids: the ids that the model knows, int64 [n], ascending; None if it does not declare them.
      objectives: the names of the scores whose weighted sum `score` is (`objectives.weighted`), the last user tensor
        being the weights; empty for a model with one score.
    """

    kind: str
    user: UserFunction
    score: ScoreFunction
    features: Mapping[str, tf.TensorSpec]
    defaults: Mapping[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    seeds: str | None = None
    sequence: Sequence | None = None
    tracked: Any = None
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    item: ItemFunction | None = None
    item_ids: np.ndarray | None = None
    objectives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what must hold for every kind of model.

        Raises:
          NannError: there are no features or one has no batch dimension, or the seeds are not ids or may be left out.
        """
        if not self.features:
            raise NannError("the model's `user` takes no features; it needs at least one")
        for name, spec in self.features.items():
            if spec.shape.rank is None or spec.shape.rank < 1 or spec.shape[0] is not None:
                raise NannError(
                    f"feature {name} has shape {spec.shape}, it must begin with the batch, such as [None, 3]"
                )
        if self.seeds is not None:
            spec = self.features.get(self.seeds)
            if spec is None or spec.dtype not in (tf.int32, tf.int64, tf.string) or spec.shape.rank != 2:
                raise NannError(
                    f"seeds are {self.seeds!r}, allowed is a feature of int64, int32 or string [None, L]; "
                    f"{self._listed()}"
                )
            if self.seeds in self.defaults:
                raise NannError(
                    f"seeds are {self.seeds!r}, which requests may leave out; allowed is a feature that every request "
                    f"has: {', '.join(name for name in self.features if name not in self.defaults)}"
                )

    @functools.cached_property
    def known(self) -> dict[str, KnownValues]:
        """The values that the model's own tables know, by feature; the seeds are items, which the index knows."""
        specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in sorted(self.features.items())}
        traced = tf.function(self.user_tensors, autograph=False).get_concrete_function(specs)
        found = read_known_values(traced, list(specs))
        return {name: values for name, values in found.items() if name != self.seeds}

    def check_names(self) -> None:
        """Checks that the features' names can be inputs of a signature, beside the inputs that every signature has.

        Raises:
          NannError: one cannot.
        """
        # TensorFlow distinguishes the arguments of a function by their names in lower case.
        taken = dict.fromkeys(_OWN_INPUTS, "one of our own inputs")
        for name in self.features:
            wrong = taken.get(name.lower()) and f"which, except for case, is {taken[name.lower()]}"
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                wrong = "which an input of a SavedModel cannot be called"
            if wrong:
                plain = re.sub(r"\W", "_", name).strip("_") or "feature"
                raise NannError(
                    f"a feature is called {name!r}, {wrong}; allowed are letters, digits and underscores, but no "
                    f"keyword of Python and none of our own inputs: {', '.join(_OWN_INPUTS)}. Give it another name in "
                    f"requests: --feature 'user_{plain}={name}'"
                )
            taken[name.lower()] = f"the feature {name!r}"

    def renamed(self, names: Mapping[str, str]) -> "Source":
        """Returns the same model with other names for its features in requests.

        Args:
          names: the model's names of features, keyed by the names in requests.

        Raises:
          NannError: there is no such feature, or two features would have the same name.
        """
        for new, old in names.items():
            if old not in self.features:
                raise NannError(f"--feature {new}={old}: the model has no feature {old!r}; {self._listed()}")
        given = {old: new for new, old in names.items()}
        called = {old: given.get(old, old) for old in self.features}
        if len(given) < len(names) or len(set(called.values())) < len(called):
            raise NannError(
                f"--feature gives one name to two features, or two names to one: {dict(names)}; {self._listed()}"
            )
        return dataclasses.replace(
            self,
            user=lambda features: self.user({old: features[new] for old, new in called.items()}),
            features={new: self.features[old] for old, new in called.items()},
            defaults={called[old]: value for old, value in self.defaults.items()},
            seeds=self.seeds and called[self.seeds],
        )

    def _listed(self) -> str:
        """Lists the features in words, for errors."""
        return "its features are " + ", ".join(
            f"{name} {one.dtype.name} {one.shape}" for name, one in self.features.items()
        )

    def user_tensors(self, features: dict[str, tf.Tensor]) -> UserTensors:
        """Returns the tensors that `user` returns, as a tuple.

        Raises:
          NannError: `user` does not return a tuple or list of dense tensors, each with a batch dimension.
        """
        found = self.user(features)
        if not isinstance(found, (tuple, list)) or not found:
            raise NannError(
                f"`user` returned a {type(found).__name__}, it must return a tuple of tensors, each [B, ...]"
            )
        for place, tensor in enumerate(found):
            if isinstance(tensor, (tf.RaggedTensor, tf.SparseTensor, tf.IndexedSlices)):
                raise NannError(
                    f"`user` returned a {type(tensor).__name__} at place {place}, it must return dense tensors, such "
                    "as the one that to_tensor() gives, with a mask"
                )
        tensors = tuple(tf.convert_to_tensor(tensor) for tensor in found)
        for place, tensor in enumerate(tensors):
            if not tensor.shape.rank:
                raise NannError(
                    f"`user` returned a tensor of shape {tensor.shape} at place {place}, it must be [B, ...]; where "
                    "TensorFlow does not know the shape, state it by tf.ensure_shape(tensor, [None, 64])"
                )
        return tensors


def one_output(found: Any, output: str = "") -> Any:
    """Returns the scores among the outputs of a `score`.

    Args:
      found: the value that it returned, a tensor or a dict of tensors.
      output: the key of the scores in the dict; may be empty if there is only one.

    Raises:
      NannError: it is not clear which output holds the scores, or there is no such output.
    """
    if isinstance(found, Mapping):
        if not output and len(found) == 1:
            return next(iter(found.values()))
        if output in found:
            return found[output]
        # Sorted, because the outputs of a SavedModel are in any order.
        listed = ", ".join(f"{name!r} {value.dtype.name} {value.shape}" for name, value in sorted(found.items()))
        raise NannError(
            f"`score` returns no {output!r}; name one (--output) of {listed}"
            if output
            else f"which output of `score` holds the scores? name one (--output) of {listed}"
        )
    if output or isinstance(found, (tuple, list)):
        raise NannError(
            f"`score` returns a {type(found).__name__}; it must return one tensor, or a dict in which --output is a key"
        )
    return found


def check_dense(name: str, spec: Any) -> None:
    """Checks that requests can carry a feature.

    Raises:
      NannError: the feature is ragged or sparse, or not a tensor of numbers or strings.
    """
    if isinstance(spec, (tf.RaggedTensorSpec, tf.SparseTensorSpec)):
        ragged = isinstance(spec, tf.RaggedTensorSpec)
        shape = [None] * (spec.shape.rank or 2)
        padding = "''" if spec.dtype == tf.string else -1
        made = (
            f"RaggedTensor.from_tensor(features[{name!r}], padding={padding})"
            if ragged
            else f"sparse.from_dense(features[{name!r}])"
        )
        raise NannError(
            f"feature {name!r} is a {type(spec).__name__}, {spec.dtype.name} {spec.shape}; requests carry dense "
            "tensors, and making a feature dense without a word would change the answers. Let `user` take "
            f"tf.TensorSpec({shape}, tf.{spec.dtype.name}) and convert it itself: tf.{made}"
        )
    if not isinstance(spec, tf.TensorSpec) or spec.dtype in (tf.resource, tf.variant):
        raise NannError(f"feature {name!r} is {spec!r}, allowed is a tf.TensorSpec of numbers or strings")


def batched(spec: tf.TensorSpec) -> tf.TensorSpec:
    """Returns `spec` with an unknown batch if its batch is 1; any other spec is returned unchanged."""
    if not spec.shape.rank or spec.shape[0] not in (1, None):
        return spec
    return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)


def any_batch(user: UserFunction, features: Mapping[str, tf.TensorSpec]) -> UserFunction:
    """Makes `user` work for any number of users; if the batch of a feature is 1, it is called for each user in turn.

    TensorFlow lets a function that was traced for one user take several, but the function may then mix all of them into
    one user.
    """
    if not any(spec.shape.rank and spec.shape[0] == 1 for spec in features.values()):
        return user

    def one(given: dict[str, tf.Tensor]) -> UserTensors:
        found = user({name: tf.ensure_shape(value[None], features[name].shape) for name, value in given.items()})
        return tuple(tensor[0] for tensor in found)

    def several(given: dict[str, tf.Tensor]) -> UserTensors:
        traced = tf.function(lambda each: user(each), autograph=False).get_concrete_function(dict(features))
        found = traced.structured_outputs
        if not isinstance(found, (tuple, list)):
            return found  # `Source.user_tensors` refuses it.
        specs = tuple(tf.TensorSpec(tensor.shape[1:], tensor.dtype) for tensor in found)
        return tf.map_fn(one, given, fn_output_signature=specs)

    return several
