"""Where an exported model comes from: one file a kind, each making the same `Source`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from export_tools.sources.checkpoint import checkpoint_source
from export_tools.sources.keras_archive import keras_source
from export_tools.sources.module import import_module_source, module_source
from export_tools.sources.original import original_source
from export_tools.sources.saved_model import saved_model_source
from export_tools.sources.source import Source
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local

__all__ = ["Source", "module_source", "open_source"]

KINDS = """a folder that `nann train` wrote (model.json),
a SavedModel with functions `user` and `score` (saved_model.pb),
a Keras archive of a ranking model (.keras),
the original's folder (frozen_graph.pb),
or MODULE:NAME, an object of yours with `user` and `score`"""


def open_source(
    model: Any,
    features: Mapping[str, tf.TensorSpec] | None = None,
    seeds: str | None = None,
    item_input: str = "",
    output: str = "",
    rename: Mapping[str, str] | None = None,
) -> Source:
    """Opens a model of any kind.

    Args:
      model: a path, `MODULE:NAME`, or an object with the functions of `tfserving_ext.models.RetrievalModel`.
      features: the raw features of an object's `user`; where it does not say them itself.
      seeds: the feature that holds the user's own item ids, from which the search starts.
      item_input: the input of a Keras archive that takes the item embedding; found where there is one candidate.
      output: which of several outputs is the score.
      rename: what the model calls its features, by what requests shall call them.

    Raises:
      NannError: it is none of the kinds, or a broken one.
    """
    rename = rename or {}
    source = _opened(model, features, seeds and rename.get(seeds, seeds), item_input, output).renamed(rename)
    source.check_names()
    return source


def _opened(
    model: Any, features: Mapping[str, tf.TensorSpec] | None, seeds: str | None, item_input: str, output: str
) -> Source:
    path = Path(model) if isinstance(model, (str, os.PathLike)) else None
    if item_input and (path is None or path.suffix != ".keras"):
        raise NannError(f"--item-input is {item_input!r}, which only a Keras archive has; {model} is none")
    if path is None:
        return module_source(model, features, seeds, output)
    text = os.fspath(model)
    check_local(text)
    if path.suffix == ".keras" and path.exists():
        return keras_source(path, seeds, item_input, output)
    if (path / "saved_model.pb").exists():
        return saved_model_source(path, seeds, output)
    if not path.exists() and ":" in text:
        return import_module_source(text, features, seeds, output)
    if output:
        raise NannError(f"--output is {output!r}, but {text} has one output only")
    if (path / "model.json").exists():
        return checkpoint_source(path)
    if (path / "frozen_graph.pb").exists():
        return original_source(path)
    raise NannError(f"{text} is no model; allowed are {KINDS}")
