"""An object with `user` and `score`: a tf.Module, a Keras model, anything."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from export_tools.sources.items import item_of_ids
from export_tools.sources.source import Source, any_batch, batched, check_dense, one_output
from tfserving_ext.errors import NannError


def import_module_source(
    text: str, features: Mapping[str, tf.TensorSpec] | None, seeds: str | None, output: str = ""
) -> Source:
    """The source of `MODULE:NAME`, an object, or a class or function without arguments that makes one.

    Raises:
      NannError: there is no such module or name, it fails or wants arguments, or what it makes is no retrieval model.
    """
    module_name, _, name = text.partition(":")
    # As `python -m` does: what lies in the current folder can be imported.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # Whatever code that is not ours raises.
        raise NannError(f"cannot import {text}: {type(error).__name__}: {error}") from error
    if inspect.isclass(found) or (callable(found) and not hasattr(found, "score")):
        found = _made(text, found)
    return module_source(found, features, seeds, output)


def _made(text: str, maker: Any) -> Any:
    """What a class or function makes without arguments.

    Raises:
      NannError: it wants some, or fails.
    """
    with contextlib.suppress(ValueError, TypeError):  # Of what has no signature.
        parameters = inspect.signature(maker).parameters.values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        wanted = [one.name for one in parameters if one.default is one.empty and one.kind not in variable]
        if wanted:
            raise NannError(
                f"{text} wants arguments, {', '.join(wanted)}; name an object, or a function without arguments that "
                f"makes one: def make(): return {text.partition(':')[2]}(...). What `nann train` trained is exported "
                "by its folder"
            )
    try:
        return maker()
    except NannError:
        raise
    except Exception as error:
        raise NannError(f"{text} failed: {type(error).__name__}: {error}") from error


def module_source(
    model: Any, features: Mapping[str, tf.TensorSpec] | None = None, seeds: str | None = None, output: str = ""
) -> Source:
    """The source of an object with the functions of `tfserving_ext.models.RetrievalModel`.

    Args:
      model: a tf.Module or Keras model. What its functions read must be among its variables.
      features: what its `user` takes; by default its attribute `features`, or the input signature of its `user` where
        that is a tf.function.
      seeds: which feature holds the user's own item ids; by default its attribute `seeds`, or none.
      output: the key of the scores where its `score` returns a dict of several.

    Raises:
      NannError: it has no `user` or `score`, or does not say its features.
    """
    if inspect.isclass(model):
        raise NannError(f"{model.__name__} is a class; give an object of it, {model.__name__}()")
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
        score=lambda user, items: one_output(model.score(user, items), output),
        features={name: batched(spec) for name, spec in features.items()},
        seeds=seeds or getattr(model, "seeds", None),
        item=item_of_ids(getattr(model, "item", None)),
        description={"class": f"{type(model).__module__}.{type(model).__qualname__}"},
    )


def _features_of(user: Any) -> Any:
    signature = getattr(user, "input_signature", None)
    return signature[0] if signature and len(signature) == 1 else None
