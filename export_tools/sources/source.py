"""What every kind of model is turned into before it is exported."""

import dataclasses
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.sources.items import ItemFunction
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors

UserFunction = Callable[[dict[str, tf.Tensor]], UserTensors]
ScoreFunction = Callable[[UserTensors, tf.Tensor], tf.Tensor]

_OWN_INPUTS = ("k", "frontier", "pool", "max_steps", "ef", "rounds", "seeds", "exclude", "budget", "deadline_ms")


@dataclasses.dataclass(frozen=True)
class Sequence:
    """The original's request: one user as a sequence of embedded behaviours.

    Attributes:
      width: values in `comm_seq`.
      user: user tensors, each [1, ...], of `comm_seq` float16 [1, width].
    """

    width: int
    user: Callable[[tf.Tensor], UserTensors]


@dataclasses.dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
      kind: one word for the manifest.
      user: see `tfserving_ext.models.RetrievalModel`.
      score: see there; only ever called with one user, so [1, ...] and [1, N, d].
      features: what `user` takes, by name, the batch leading and unknown.
      defaults: tensors for features that a request may leave out.
      seeds: the feature, int64 or int32 [B, L], that holds the user's own item ids; None where there is none.
      sequence: what the original's signature does; None where the model has no such thing.
      tracked: what is saved beside the state that the functions use, such as an initializer of a SavedModel's own.
      inputs: SHA-256 of every file that was read, by name.
      description: what the manifest says of the model.
      item: embeddings [n, d] of int64 ids [n]; None where the model has no such function.
      item_ids: the ids that the model knows, int64 [n], ascending; None where it does not say.
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

    def __post_init__(self) -> None:
        """Checks what the kinds have in common.

        Raises:
          NannError: features without a batch, or seeds that are no ids or may be left out.
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
            if spec is None or spec.dtype not in (tf.int32, tf.int64) or spec.shape.rank != 2:
                raise NannError(
                    f"seeds are {self.seeds!r}, allowed is a feature of int64 or int32 [None, L]; {self._listed()}"
                )
            if self.seeds in self.defaults:
                raise NannError(
                    f"seeds are {self.seeds!r}, which requests may leave out; allowed is a feature that each has, one "
                    f"of {', '.join(name for name in self.features if name not in self.defaults)}"
                )

    def check_names(self) -> None:
        """Checks that the features can be the inputs of a signature beside ours.

        Raises:
          NannError: one cannot.
        """
        # TensorFlow tells arguments of a function by their names in lower case.
        taken = dict.fromkeys(_OWN_INPUTS, "one of ours")
        for name in self.features:
            wrong = taken.get(name.lower()) and f"which, its case aside, is {taken[name.lower()]}"
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                wrong = "which is no name that an input of a SavedModel can have"
            if wrong:
                plain = re.sub(r"\W", "_", name).strip("_") or "feature"
                raise NannError(
                    f"a feature is called {name!r}, {wrong}; allowed are letters, digits and underscores, no words of "
                    f"Python's, and none of ours: {', '.join(_OWN_INPUTS)}. Let requests call it otherwise: "
                    f"--feature 'user_{plain}={name}'"
                )
            taken[name.lower()] = f"the feature {name!r}"

    def renamed(self, names: Mapping[str, str]) -> "Source":
        """The same model with features that requests call otherwise.

        Args:
          names: what the model calls them, by what requests call them.

        Raises:
          NannError: there is no such feature, or two would have one name.
        """
        for new, old in names.items():
            if old not in self.features:
                raise NannError(f"--feature {new}={old}: the model has no feature {old!r}; {self._listed()}")
        given = {old: new for new, old in names.items()}
        called = {old: given.get(old, old) for old in self.features}
        if len(given) < len(names) or len(set(called.values())) < len(called):
            raise NannError(f"--feature gives one name to two features, or two to one: {dict(names)}; {self._listed()}")
        return dataclasses.replace(
            self,
            user=lambda features: self.user({old: features[new] for old, new in called.items()}),
            features={new: self.features[old] for old, new in called.items()},
            defaults={called[old]: value for old, value in self.defaults.items()},
            seeds=self.seeds and called[self.seeds],
        )

    def _listed(self) -> str:
        """The features in words."""
        return "its features are " + ", ".join(
            f"{name} {one.dtype.name} {one.shape}" for name, one in self.features.items()
        )

    def user_tensors(self, features: dict[str, tf.Tensor]) -> UserTensors:
        """What `user` returns, as a tuple.

        Raises:
          NannError: it returns something else than a tuple or list of tensors, or one without a batch.
        """
        found = self.user(features)
        if not isinstance(found, (tuple, list)) or not found:
            raise NannError(
                f"`user` returned a {type(found).__name__}, it must return a tuple of tensors, each [B, ...]"
            )
        for place, tensor in enumerate(found):
            if isinstance(tensor, (tf.RaggedTensor, tf.SparseTensor, tf.IndexedSlices)):
                raise NannError(
                    f"`user` returned a {type(tensor).__name__} at place {place}, it must return dense "
                    "tensors, such as one made by its to_tensor() and a mask"
                )
        tensors = tuple(tf.convert_to_tensor(tensor) for tensor in found)
        for place, tensor in enumerate(tensors):
            if not tensor.shape.rank:
                raise NannError(
                    f"`user` returned a tensor of shape {tensor.shape} at place {place}, it must be [B, ...]; where "
                    "TensorFlow does not know the shape, say it by tf.ensure_shape(tensor, [None, 64])"
                )
        return tensors


def one_output(found: Any, output: str = "") -> Any:
    """The scores in what a `score` returned: a tensor, or one of several in a dict.

    Args:
      found: what it returned.
      output: the key of the scores in a dict.

    Raises:
      NannError: it is not clear which, or there is none of that name.
    """
    if isinstance(found, Mapping):
        if not output and len(found) == 1:
            return next(iter(found.values()))
        if output in found:
            return found[output]
        # A SavedModel's are in any order.
        listed = ", ".join(f"{name!r} {value.dtype.name} {value.shape}" for name, value in sorted(found.items()))
        raise NannError(
            f"`score` returns no {output!r}; name one (--output) of {listed}"
            if output
            else f"which output of `score` holds the scores? name one (--output) of {listed}"
        )
    if output or isinstance(found, (tuple, list)):
        raise NannError(
            f"`score` returns a {type(found).__name__}; it must return one tensor, or a dict and --output a key"
        )
    return found


def check_dense(name: str, spec: Any) -> None:
    """Checks that requests can carry a feature.

    Raises:
      NannError: it is ragged or sparse, or no tensor of values.
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
            f"feature {name!r} is a {type(spec).__name__}, of {spec.dtype.name} {spec.shape}; requests carry dense "
            "tensors, and what is made dense in silence changes the answers. Let `user` take "
            f"tf.TensorSpec({shape}, tf.{spec.dtype.name}) and make of it what it needs: tf.{made}"
        )
    if not isinstance(spec, tf.TensorSpec) or spec.dtype in (tf.resource, tf.variant):
        raise NannError(f"feature {name!r} is {spec!r}, allowed is a tf.TensorSpec of numbers or strings")


def batched(spec: tf.TensorSpec) -> tf.TensorSpec:
    """`spec` with an unknown batch in place of a batch of one; another batch, and a scalar, stay what they are."""
    if not spec.shape.rank or spec.shape[0] not in (1, None):
        return spec
    return tf.TensorSpec([None, *spec.shape[1:]], spec.dtype)


def any_batch(user: UserFunction, features: Mapping[str, tf.TensorSpec]) -> UserFunction:
    """`user` for any number of users, also where a feature's batch is 1: it is called for each of them then.

    TensorFlow lets a function that was traced for one user take several, and what it then makes of them may be one user
    mixed of all.
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
            return found  # Which is refused.
        specs = tuple(tf.TensorSpec(tensor.shape[1:], tensor.dtype) for tensor in found)
        return tf.map_fn(one, given, fn_output_signature=specs)

    return several
