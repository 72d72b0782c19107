"""A Keras archive of a ranking model: user features and one item embedding in, one score out."""

import zipfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from export_tools.sources.contract import Source
from tfserving_ext.artifacts import sha256
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors


def keras_source(path: Path, seeds: str | None, item_input: str = "") -> Source:
    """The source of a functional Keras model that ranks one item for one user.

    Its inputs are user features, each [B, ...], and an item embedding [B, d]; its output is one score per row. Every
    candidate becomes a row, beside which the user's features are repeated.

    Args:
      path: a .keras archive; code in it is refused.
      seeds: the feature that holds the user's own item ids.
      item_input: the input that takes the item embedding; by default the one whose name begins with `item_emb`.

    Raises:
      NannError: it does not load, or is not such a model.
    """
    try:
        # Safe mode refuses archives that carry Python code.
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise NannError(f"{path} does not load: {(str(error).splitlines() or [''])[0]}") from error
    inputs = {tensor.name: tensor for tensor in getattr(model, "inputs", None) or []}
    found = [item_input] if item_input else [name for name in inputs if name.startswith("item_emb")]
    if len(found) != 1 or found[0] not in inputs:
        raise NannError(
            f"the input of {path} that takes the item embedding is not clear: {item_input or found}; "
            f"name one of {', '.join(inputs) or 'its inputs, of which it has none'} (--item-input)"
        )
    item_name = found[0]
    user_inputs = {name: tensor for name, tensor in inputs.items() if name != item_name}
    if len(inputs[item_name].shape) != 2:
        raise NannError(f"input {item_name} of {path} has shape {inputs[item_name].shape}, it must be [None, d]")
    if len(model.outputs) != 1 or tuple(model.outputs[0].shape[1:]) not in ((), (1,)):
        shapes = [tuple(output.shape) for output in model.outputs]
        raise NannError(f"{path} has outputs {shapes}, it must have one of shape [None] or [None, 1]")
    names = sorted(user_inputs)

    def score(user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        users, count = tf.shape(items)[0], tf.shape(items)[1]
        rows: dict[str, Any] = {
            name: tf.repeat(tensor, count, axis=0) for name, tensor in zip(names, user, strict=True)
        }
        rows[item_name] = tf.reshape(items, [-1, items.shape[-1]])
        scores = model([rows[name] for name in inputs], training=False)
        return tf.cast(tf.reshape(scores, [users, count]), tf.float32)

    return Source(
        kind="keras",
        user=lambda features: tuple(features[name] for name in names),
        score=score,
        features={
            name: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype) for name, tensor in sorted(user_inputs.items())
        },
        seeds=seeds,
        inputs={path.name: sha256(path)},
        description={"name": model.name, "item_input": item_name},
    )
