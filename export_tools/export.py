"""Writes one SavedModel: tables as mapped assets, scorer and user tower as functions, three signatures."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import tensorflow as tf

from export_tools.served_model import Defaults, ServedModel
from tfserving_ext import __version__
from tfserving_ext.artifacts import atomic_folder, sha256, tensorflow_writes, write_json
from tfserving_ext.index.format import Index
from tfserving_ext.training.checkpoint import load_model
from tfserving_ext.training.extract import check_match


def export(
    model: str | os.PathLike[str],
    index: str | os.PathLike[str],
    target: str | os.PathLike[str],
    defaults: Defaults = Defaults(),  # noqa: B008 - frozen
) -> Path:
    """Exports a trained model and its index to the SavedModel `target`, whole or not at all.

    Args:
      model: a folder that `nann train` wrote.
      index: a folder that `nann index` wrote from the same model's embeddings.
      target: the SavedModel's folder; TensorFlow Serving wants `BASE/NAME/VERSION`, such as `models/nann/1`.
      defaults: what requests may leave out.

    Returns:
      `target`.

    Raises:
      NannError: the index is not of this model, parameters do not fit it, or `target` cannot be written.
    """
    trained, opened = load_model(model), Index.open(index, checksums=True)
    check_match(trained, opened)
    served = ServedModel(trained, opened, defaults)
    manifest: dict[str, Any] = {
        "nann": __version__,
        "tensorflow": tf.__version__,
        "model": trained.manifest,
        "index": opened.manifest,
        "model_json_sha256": sha256(Path(model) / "model.json"),
        "defaults": dataclasses.asdict(defaults),
    }
    with atomic_folder(target) as new:
        with tensorflow_writes("SavedModel"):
            tf.saved_model.save(served, str(new), signatures=served.signatures())
        (new / "assets.extra").mkdir()
        write_json(new / "assets.extra" / "nann_export.json", manifest)
    return Path(target)
