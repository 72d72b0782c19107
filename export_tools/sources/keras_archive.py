"""The source of a Keras archive with a ranking model that takes user features and one item embedding."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from export_tools.sources.functional import Functional, listed, score_outputs
from export_tools.sources.objectives import scores_of
from export_tools.sources.source import Source
from tfserving_ext.artifacts import sha256
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors


def keras_source(path: Path, seeds: str | None, item_input: str = "", output: str | Sequence[str] = "") -> Source:
    """Makes the source of a functional Keras model that scores one item for one user.

    Its inputs, however they are nested, are user features, each [B, ...], and an item embedding [B, d]; its output is
    one score per row. Every candidate becomes a row, next to a copy of the user's features. The model is called with
    inputs nested as it was built. An input's name is its key if the inputs are a dict, else the name it was made with.

    Args:
      path: a .keras archive; one that contains code is refused.
      seeds: the feature that holds the user's own item ids.
      item_input: the input that takes the item embedding; by default the one whose name begins with `item_emb`.
      output: the output that is the score, if there are several; with several names, those of all objectives.

    Raises:
      NannError: the archive does not load, or holds another kind of model.
    """
    model = Functional.load(path)
    item_name = _item_input(path, model, item_input)
    names = score_outputs(path, model.outputs, output)
    users = sorted(set(model.inputs) - {item_name})

    def score(user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        count = tf.shape(items)[1]
        rows: dict[str, Any] = {
            name: tf.repeat(tensor, count, axis=0) for name, tensor in zip(users, user, strict=True)
        }
        rows[item_name] = tf.reshape(items, [-1, items.shape[-1]])
        found, shape = model(rows), tf.shape(items)[:2]
        return scores_of({name: tf.cast(tf.reshape(found[name], shape), tf.float32) for name in names}, output)

    return Source(
        kind="keras",
        user=lambda features: tuple(features[name] for name in users),
        score=score,
        features={name: model.spec(name) for name in users},
        seeds=seeds,
        inputs={path.name: sha256(path)},
        description={"name": model.model.name, "item_input": item_name, "output": ", ".join(names)},
    )


def _item_input(path: Path, model: Functional, wanted: str) -> str:
    """Returns the name of the input that takes the item embedding.

    Raises:
      NannError: it is not clear which input that is, or the input takes something else.
    """
    inputs = model.inputs
    found = [wanted] if wanted else [name for name in inputs if name.startswith("item_emb")]
    if len(found) != 1 or found[0] not in inputs:
        raise NannError(
            f"the input of {path} that takes the item embedding is not clear: "
            f"{wanted or ', '.join(found) or 'none begins with item_emb'}; name one (--item-input) of "
            f"{listed(inputs)}. {_CURE}"
        )
    tensor = inputs[found[0]]
    if len(tensor.shape) == 2 and tensor.dtype in ("float32", "float16", "bfloat16", "float64"):
        return found[0]
    kind = f"input {found[0]} of {path} takes {tensor.dtype} {list(tensor.shape)}"
    if tensor.dtype.startswith("float"):
        raise NannError(f"{kind}, an item embedding must be [None, d]; its inputs are {listed(inputs)}")
    raise NannError(f"{kind}, which are ids; the search hands the scorer embeddings, float32 [None, d]. {_CURE}")


_CURE = (
    "For a model that takes raw features of items, such as ids and prices, give their table in place of an INDEX: "
    "--items items.parquet"
)
