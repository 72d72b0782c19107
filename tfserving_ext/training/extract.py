"""Writes the item embeddings of a trained model: what the index is built from."""

import os

import numpy as np
import tensorflow as tf

from tfserving_ext import outputs
from tfserving_ext.artifacts import atomic_folder
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.progress import progress
from tfserving_ext.training.checkpoint import TrainedModel, load_model

CHUNK = 1 << 15
MATCH_SAMPLE = 64
EMBEDDINGS = "item_embs.npy"


def extract(model: str | os.PathLike[str], target: str | os.PathLike[str], force: bool = False) -> tuple[int, int]:
    """Writes `item_ids.npy` int64 [n] and `item_embs.npy` float32 [n, d] into the folder `target`, whole or not at all.

    Args:
      model: a folder that `nann train` wrote.
      target: the folder; embeddings there are replaced.
      force: replace whatever `target` holds.

    Returns:
      n and d.

    Raises:
      NannError: bad model, embeddings that are not finite, or `target` cannot be written.
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
    """Checks that an index was built from the embeddings of this very model, on a sample of its items.

    An index of another training loads and answers; only its answers are bad, so that nothing else would tell.

    Raises:
      NannError: an item that the model does not know, or embeddings that are not its own.
    """
    unknown = np.setdiff1d(index.item_ids, trained.item_ids)
    if len(unknown):
        raise NannError(f"{index.folder} holds {len(unknown)} items that the model does not know, such as {unknown[0]}")
    sample = np.unique(np.linspace(0, len(index.item_ids) - 1, MATCH_SAMPLE).astype(np.int64))
    ids = np.asarray(index.item_ids)[sample]
    categories = trained.item_categories[np.searchsorted(trained.item_ids, ids)]
    embeddings = trained.model.item({"item_id": tf.constant(ids), "category_id": tf.constant(categories)}).numpy()
    held = index.embeddings(sample)
    # int8 rounds a coordinate by up to half a scale.
    rounding = 0.0 if index.item_scales is None else float(index.item_scales[sample].max())
    if embeddings.shape != held.shape or not np.allclose(embeddings, held, rtol=1e-2, atol=1e-3 + rounding):
        raise NannError(
            f"{index.folder} was not built from this model's embeddings; run `nann extract` and `nann index` again"
        )
