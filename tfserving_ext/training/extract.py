"""Writes the item embeddings of a trained model, from which the index is built."""

import os

import numpy as np
import tensorflow as tf

from tfserving_ext import outputs
from tfserving_ext.artifacts import atomic_folder
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.index.match import check_embeddings
from tfserving_ext.models.checkpoint import TrainedModel, item_function, load_model
from tfserving_ext.progress import progress

CHUNK = 1 << 15
EMBEDDINGS = "item_embs.npy"


def extract(model: str | os.PathLike[str], target: str | os.PathLike[str], force: bool = False) -> tuple[int, int]:
    """Writes `item_ids.npy` int64 [n] and `item_embs.npy` float32 [n, d] into the folder `target`, whole or not at all.

    Example:
      >>> items, width = nann.extract("model", "embeddings")
      >>> np.load("embeddings/item_embs.npy").shape == (items, width)
      True

    Args:
      model: a folder that `nann train` wrote.
      target: the folder to write; it replaces earlier embeddings.
      force: replace whatever `target` holds.

    Returns:
      The number of items n and the embeddings' width d.

    Raises:
      NannError: the model is bad, its embeddings are not finite, or `target` cannot be written.
    """
    outputs.check_replaceable(target, outputs.EMBEDDINGS, force, [model])
    trained = load_model(model)
    n, dim = len(trained.item_ids), trained.model.item_dim
    item = tf.function(trained.model.item, reduce_retracing=True)
    with atomic_folder(target, outputs.EMBEDDINGS, force) as new:
        embeddings = np.lib.format.open_memmap(new / EMBEDDINGS, mode="w+", dtype=np.float32, shape=(n, dim))
        with progress("extract", n) as advance:
            for start in range(0, n, CHUNK):
                rows = slice(start, start + CHUNK)
                features = {
                    "item_id": tf.constant(trained.item_ids[rows]),
                    "category_id": tf.constant(trained.item_categories[rows]),
                }
                values = item(features).numpy()
                if not np.isfinite(values).all():
                    raise NannError(f"{model} gives embeddings that are not finite; it did not train well")
                embeddings[rows] = values
                advance(len(values))
        embeddings.flush()
        np.save(new / "item_ids.npy", np.asarray(trained.item_ids))
    return n, dim


def check_match(trained: TrainedModel, index: Index) -> None:
    """Checks on a sample of common items that an index was built from the embeddings of this very model.

    Raises:
      NannError: index and model have no item in common, or an item's embeddings differ.
    """
    item = item_function(trained)
    check_embeddings(index, lambda ids: item(tf.constant(ids)).numpy(), np.asarray(trained.item_ids))
