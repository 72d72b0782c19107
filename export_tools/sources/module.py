"""The source of any Python object with `user` and `score`, such as a tf.Module or a Keras model."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from export_tools.sources.items import item_of_ids
from export_tools.sources.objectives import scores_of
from export_tools.sources.source import Source, any_batch, batched, check_dense
from tfserving_ext.errors import NannError


def import_module_source(
    text: str, features: Mapping[str, tf.TensorSpec] | None, seeds: str | None, output: str | Sequence[str] = ""
) -> Source:
    """Makes the source of `MODULE:NAME`, an object, or a class or function without arguments that makes one.

    Raises:
      NannError: there is no such module or name, the class or function fails or takes arguments, or the object is not a
        retrieval model.
    """
    module_name, _, name = text.partition(":")
    # Modules in the current folder can be imported, as with `python -m`.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # The model's own code may raise anything.
        raise NannError(f"cannot import {text}: {type(error).__name__}: {error}") from error
    if inspect.isclass(found) or (callable(found) and not hasattr(found, "score")):
        found = _made(text, found)
    return module_source(found, features, seeds, output)


def _made(text: str, maker: Any) -> Any:
    """Calls a class or function without arguments and returns the object that it makes.

    Raises:
      NannError: it takes arguments, or fails.
    """
    with contextlib.suppress(ValueError, TypeError):  # Some callables have no signature to read.
        parameters = inspect.signature(maker).parameters.values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        wanted = [one.name for one in parameters if one.default is one.empty and one.kind not in variable]
        if wanted:
            raise NannError(
                f"{text} takes arguments, {', '.join(wanted)}; name an object, or a function without arguments that "
                f"makes one: def make(): return {text.partition(':')[2]}(...). To export a model that `nann train` "
                "trained, give its folder"
            )
    try:
        return maker()
    except NannError:
        raise
    except Exception as error:
        raise NannError(f"{text} failed: {type(error).__name__}: {error}") from error


def module_source(
    model: Any,
    features: Mapping[str, tf.TensorSpec] | None = None,
    seeds: str | None = None,
    output: str | Sequence[str] = "",
) -> Source:
    """Makes the source of an object with the functions of `tfserving_ext.models.RetrievalModel`.

    Args:
      model: the object, such as a tf.Module or a Keras model.
      features: the features that its `user` takes; by default its attribute `features`, or the input signature of its
        `user` if that is a tf.function.
      seeds: the feature that holds the user's own item ids; by default its attribute `seeds`, or none.
      output: the key of the scores, if its `score` returns a dict of several outputs; several for objectives.

    Raises:
      NannError: the object has no `user` or `score`, or does not declare its features.
    """
    if inspect.isclass(model):
        raise NannError(f"{model.__name__} is a class; give an instance of it, {model.__name__}()")
    for name in ("user", "score"):
        if not callable(getattr(model, name, None)):
            raise NannError(
                f"{type(model).__name__} has no function {name!r}; a retrieval model has `user` and `score`"
            )
    if features is None:
        features = getattr(model, "features", None) or _features_of(model.user)
    if not isinstance(features, Mapping):
        raise NannError(
            f"the features of {type(model).__name__}.user are {features!r}; give a dict of tf.TensorSpec, as its "
            "attribute `features` or as the input signature of its `user`"
        )
    for name, spec in features.items():
        check_dense(name, spec)
    return Source(
        kind="keras" if isinstance(model, keras.Model) else "module",
        user=any_batch(model.user, features),
        score=lambda user, items: scores_of(model.score(user, items), output),
        features={name: batched(spec) for name, spec in features.items()},
        seeds=seeds or getattr(model, "seeds", None),
        item=item_of_ids(getattr(model, "item", None)),
        description={"class": f"{type(model).__module__}.{type(model).__qualname__}"},
    )


def _features_of(user: Any) -> Any:
    signature = getattr(user, "input_signature", None)
    return signature[0] if signature and len(signature) == 1 else None
