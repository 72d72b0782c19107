"""Opens the model to export: one file for every kind of model, each of which makes the same `Source`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from export_tools.sources.checkpoint import checkpoint_source
from export_tools.sources.keras_archive import keras_source
from export_tools.sources.module import import_module_source, module_source
from export_tools.sources.objectives import check_objectives, weighted
from export_tools.sources.original import original_source
from export_tools.sources.saved_model import saved_model_source
from export_tools.sources.source import Source
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local

__all__ = ["Source", "module_source", "open_source"]

KINDS = """a folder that `nann train` wrote (model.json),
a SavedModel with functions `user` and `score` (saved_model.pb),
a Keras archive of a ranking model (.keras),
a folder of alibaba/nann (frozen_graph.pb),
or MODULE:NAME, an object of yours with `user` and `score`"""


def open_source(
    model: Any,
    features: Mapping[str, tf.TensorSpec] | None = None,
    seeds: str | None = None,
    item_input: str = "",
    output: str = "",
    rename: Mapping[str, str] | None = None,
    objectives: Mapping[str, float] | None = None,
) -> Source:
    """Opens a model of any kind.

    Args:
      model: a path, `MODULE:NAME`, or an object with the functions of `tfserving_ext.models.RetrievalModel`.
      features: the raw features that an object's `user` takes, if the object does not declare them.
      seeds: the feature, int64 or int32 [B, L], that holds the user's own item ids, from which the search starts.
      item_input: the input of a Keras archive that takes the item embedding; by default, the one whose name begins with
        `item_emb`.
      output: the output that is the score, if there are several.
      rename: the model's names of its features, keyed by the names that requests will use.
      objectives: in place of `output`, the outputs that are scores, or names for the T scores of a `score` that returns
        [B, N, T]; and the weights in their sum of requests that give none (docs/own_models.md).

    Returns:
      The model in the form that is exported.

    Raises:
      NannError: the model is of no known kind, is damaged or cannot be exported.
    """
    rename = rename or {}
    if objectives:
        check_objectives(objectives, output)
    wanted = tuple(objectives) if objectives else output
    source = _opened(model, features, seeds and rename.get(seeds, seeds), item_input, wanted).renamed(rename)
    source.check_names()
    return weighted(source, objectives) if objectives else source


def _opened(
    model: Any,
    features: Mapping[str, tf.TensorSpec] | None,
    seeds: str | None,
    item_input: str,
    output: str | tuple[str, ...],
) -> Source:
    path = Path(model) if isinstance(model, (str, os.PathLike)) else None
    if item_input and (path is None or path.suffix != ".keras"):
        raise NannError(f"--item-input is {item_input!r}, which only a Keras archive has; {model} is not one")
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
        named = f"--output is {output!r}" if isinstance(output, str) else f"--objective names {', '.join(output)}"
        raise NannError(f"{named}, but {text} has only one output")
    if (path / "model.json").exists():
        return checkpoint_source(path)
    if (path / "frozen_graph.pb").exists():
        return original_source(path)
    raise NannError(f"{text} is not a model; allowed are {KINDS}")
