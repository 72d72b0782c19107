"""A trained model on disk: its configuration, the item table it was trained on, and its weights.

model.json              which model, its sizes, how it was trained
item_ids.npy            int64 [V], sorted
item_categories.npy     int64 [V], the category id of each item
category_ids.npy        int64 [C], sorted
weights.*               a TensorFlow checkpoint
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfserving_ext.artifacts import atomic_folder, read_json, tensorflow_writes, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.checks import check_vocabulary
from tfserving_ext.index.original import load_array
from tfserving_ext.local_paths import check_local
from tfserving_ext.models import SequenceConfig, SequenceModel, model_named
from tfserving_ext.outputs import MODEL

FORMAT = "nann-model"
MANIFEST = "model.json"
FORMAT_VERSION = 1


class TrainedModel(NamedTuple):
    """A model and the items it knows.

    Attributes:
      model: the model.
      item_ids: int64 [V], sorted.
      item_categories: int64 [V], the category id of each item.
      manifest: the content of `model.json`.
    """

    model: SequenceModel
    item_ids: np.ndarray
    item_categories: np.ndarray
    manifest: dict[str, Any]


def save_model(
    target: str | os.PathLike[str],
    model: SequenceModel,
    item_categories: np.ndarray,
    training: Mapping[str, Any],
    force: bool = False,
) -> None:
    """Writes the folder `target`, whole or not at all.

    Args:
      target: the folder; it replaces an earlier model.
      model: the trained model.
      item_categories: int64 [V], the category id of each item.
      training: how the model was trained, for `model.json`.
      force: replace whatever `target` holds.

    Raises:
      NannError: the folder cannot be written.
    """
    with atomic_folder(target, MODEL, force) as new:
        np.save(new / "item_ids.npy", model.items.ids.numpy())
        np.save(new / "item_categories.npy", item_categories)
        np.save(new / "category_ids.npy", model.categories.ids.numpy())
        with tensorflow_writes("weights"):
            tf.train.Checkpoint(model=model).write(str(new / "weights"))
        config = {"model": model.name, "config": dataclasses.asdict(model.config), "training": dict(training)}
        write_json(new / MANIFEST, {"format": FORMAT, "format_version": FORMAT_VERSION, **config})


def load_model(folder: str | os.PathLike[str]) -> TrainedModel:
    """Reads a model that `save_model` wrote.

    Raises:
      NannError: the folder holds no model, its parts are damaged or do not fit together, or one is missing.
    """
    check_local(folder)
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise NannError(f"{folder} is not a trained model: it has no model.json; train one with `nann train`")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        raise NannError(f"{folder / MANIFEST} is not a model's: it holds {manifest!r}, an object is expected")
    if manifest.get("format") != FORMAT or manifest.get("format_version") != FORMAT_VERSION:
        raise NannError(
            f"{folder / 'model.json'} has format {manifest.get('format')!r} version "
            f"{manifest.get('format_version')!r}, this release reads {FORMAT!r} version {FORMAT_VERSION}"
        )
    try:
        kind = model_named(manifest.get("model"))
    except NannError as error:
        raise NannError(f"{folder / 'model.json'}: {error}") from error
    config = read_config(kind.config_type, manifest.get("config"), folder / MANIFEST)
    item_ids = load_array(folder / "item_ids.npy")
    item_categories = load_array(folder / "item_categories.npy")
    if item_ids.shape != item_categories.shape:
        raise NannError(f"{folder}: {item_ids.shape} item ids but {item_categories.shape} item categories")
    category_ids = load_array(folder / "category_ids.npy")
    for name, ids in (("item_ids", item_ids), ("category_ids", category_ids)):
        check_vocabulary(folder / f"{name}.npy", ids)
    model = kind(item_ids, category_ids, None, config)
    if not (folder / "weights.index").exists():
        raise NannError(f"{folder / 'weights.index'} does not exist; the model is incomplete")
    try:
        status = tf.train.Checkpoint(model=model).read(str(folder / "weights"))
        status.assert_existing_objects_matched()
        status.assert_consumed()
    except (AssertionError, ValueError, IndexError, tf.errors.OpError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NannError(f"the weights in {folder} are damaged or belong to another model: {reason}") from error
    return TrainedModel(model, item_ids, item_categories, manifest)


def read_config(config_type: type[SequenceConfig], values: Any, file: Path) -> SequenceConfig:
    """Reads a model's sizes. A size that a model of an earlier release does not name gets its default, as it had then.

    Args:
      config_type: the configuration of this kind of model.
      values: the sizes by name, from JSON.
      file: where they were read, for messages.

    Raises:
      NannError: `values` are not the sizes of such a model; the message names `file`.
    """
    kinds = {field.name: type(field.default) for field in dataclasses.fields(config_type)}
    shared = [field.name for field in dataclasses.fields(SequenceConfig)]
    fields: dict[str, Any] = {}
    if isinstance(values, dict):
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    if not set(shared) <= set(fields) <= set(kinds) or any(type(fields[name]) is not kinds[name] for name in fields):
        wanted = ", ".join(f"{name} ({kind.__name__})" for name, kind in kinds.items())
        raise NannError(f"{file} has no usable config: it is {values!r}; expected {wanted}")
    try:
        return config_type(**fields)
    except NannError as error:
        raise NannError(f"{file}: {error}") from error


def item_function(trained: TrainedModel) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from item ids, int64 [n], to embeddings, float32 [n, d], with the categories of training."""
    categories = item_categories(trained)
    return lambda ids: trained.model.item({"item_id": ids, "category_id": categories(ids)})


def item_categories(trained: TrainedModel) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function from item ids, int64 of any shape, to their category ids in training; -1 for an unknown id."""
    held = tf.Variable(np.concatenate([[-1], trained.item_categories]), trainable=False)
    return lambda ids: tf.gather(held, trained.model.items.rows(ids))
