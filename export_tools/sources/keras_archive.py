"""The source of a Keras archive with a ranking model that takes user features and one item embedding."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from export_tools.sources.source import Source
from tfserving_ext.artifacts import sha256
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors


def keras_source(path: Path, seeds: str | None, item_input: str = "", output: str = "") -> Source:
    """Makes the source of a functional Keras model that scores one item for one user.

    Its inputs, however they are nested, are user features, each [B, ...], and an item embedding [B, d]; its output is
    one score per row. Every candidate becomes a row, next to a copy of the user's features. The model is called with
    inputs nested as it was built. An input's name is its key if the inputs are a dict, else the name it was made with.

    Args:
      path: a .keras archive; one that contains code is refused.
      seeds: the feature that holds the user's own item ids.
      item_input: the input that takes the item embedding; by default the one whose name begins with `item_emb`.
      output: the output that is the score, if there are several.

    Raises:
      NannError: the archive does not load, or holds another kind of model.
    """
    model, taken, given = _functional(path)
    inputs = _by_name(taken)
    names = {id(tensor): name for name, tensor in inputs.items()}
    outputs = _by_name(given, model.output_names)
    item_name = _item_input(path, model, inputs, item_input)
    for name, tensor in inputs.items():
        if tensor.sparse or tensor.shape[0] is not None:
            wrong = "is sparse" if tensor.sparse else f"has a fixed batch size of {tensor.shape[0]}"
            raise NannError(
                f"input {name} of {path} {wrong}; requests carry dense tensors of any batch size: build the model anew "
                "with such an input"
            )
    if output and output not in outputs:
        raise NannError(f"{path} has no output {output!r}; its outputs are {_listed(outputs)}")
    if not output and len(outputs) != 1:
        raise NannError(f"which output of {path} is the score? name one (--output) of {_listed(outputs)}")
    score_name = output or next(iter(outputs))
    if tuple(outputs[score_name].shape[1:]) not in ((), (1,)):
        raise NannError(
            f"output {score_name} of {path} has shape {list(outputs[score_name].shape)}, a score must have [None] or "
            f"[None, 1]; its outputs are {_listed(outputs)}"
        )
    place = list(outputs).index(score_name)
    users = sorted(set(inputs) - {item_name})

    def score(user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        count = tf.shape(items)[1]
        rows: dict[str, Any] = {
            name: tf.repeat(tensor, count, axis=0) for name, tensor in zip(users, user, strict=True)
        }
        rows[item_name] = tf.reshape(items, [-1, items.shape[-1]])
        found = model(keras.tree.map_structure(lambda tensor: rows[names[id(tensor)]], taken), training=False)
        return tf.cast(tf.reshape(_flat(found)[place], tf.shape(items)[:2]), tf.float32)

    return Source(
        kind="keras",
        user=lambda features: tuple(features[name] for name in users),
        score=score,
        features={name: tf.TensorSpec([None, *inputs[name].shape[1:]], inputs[name].dtype) for name in users},
        seeds=seeds,
        inputs={path.name: sha256(path)},
        description={"name": model.name, "item_input": item_name, "output": score_name},
    )


def _functional(path: Path) -> tuple[Any, Any, Any]:
    """Loads the model; returns it with its inputs and outputs, nested as it has them."""
    try:
        # Safe mode refuses archives that carry Python code.
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise NannError(f"{path} does not load: {(str(error).splitlines() or [''])[0]}") from error
    try:
        return model, model.input, model.output
    except AttributeError as error:
        raise NannError(
            f"{path} is a {type(model).__name__}, it must be a functional model, keras.Model(inputs, outputs), that "
            "takes user features and an item embedding; export others as MODULE:NAME, with functions `user` and `score`"
        ) from error


def _flat(structure: Any) -> list[Any]:
    return keras.tree.flatten(structure)


def _by_name(structure: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """Names the tensors of a structure, in its order, by the last key on their path, else by `names` or their own."""
    paths = keras.tree.flatten_with_path(structure)
    found = []
    for place, (path, tensor) in enumerate(paths):
        keys = [part for part in path if isinstance(part, str)]
        found.append(keys[-1] if keys else names[place] if names else tensor.name)
    if len(set(found)) < len(found):  # Keys repeat where dicts are nested, and names where a layer is used twice.
        found = ["/".join(map(str, path)) for path, _ in paths]
    return {name: tensor for name, (_, tensor) in zip(found, paths, strict=True)}


def _listed(tensors: Mapping[str, Any]) -> str:
    return ", ".join(f"{name!r} {tensor.dtype} {list(tensor.shape)}" for name, tensor in tensors.items())


def _item_input(path: Path, model: Any, inputs: Mapping[str, Any], wanted: str) -> str:
    """Returns the name of the input that takes the item embedding.

    Raises:
      NannError: it is not clear which input that is, or the input takes something else.
    """
    found = [wanted] if wanted else [name for name in inputs if name.startswith("item_emb")]
    if len(found) != 1 or found[0] not in inputs:
        raise NannError(
            f"the input of {path} that takes the item embedding is not clear: "
            f"{wanted or ', '.join(found) or 'none begins with item_emb'}; name one (--item-input) of {_listed(inputs)}"
        )
    tensor = inputs[found[0]]
    if len(tensor.shape) == 2 and tensor.dtype in ("float32", "float16", "bfloat16", "float64"):
        return found[0]
    kind = f"input {found[0]} of {path} takes {tensor.dtype} {list(tensor.shape)}"
    if tensor.dtype.startswith("float"):
        raise NannError(f"{kind}, an item embedding must be [None, d]; its inputs are {_listed(inputs)}")
    raise NannError(
        f"{kind}, which are ids; the search hands the scorer embeddings, float32 [None, d]. "
        f"{_how_to_split(model, tensor)}"
    )


def _how_to_split(model: Any, tensor: Any) -> str:
    """Returns the lines that split a model that takes item ids, at the layer that turns these into vectors."""
    layer = _embedding_layer(model, tensor)
    words = f"after {layer!r}" if layer else "after the layer that turns ids into vectors, here THE_LAYER"
    return f"""Split the model {words}: index the output of the first half, export the second.
    item = model.get_layer({layer or "THE_LAYER"!r}).output
    ids = [tensor for tensor in model.inputs if tensor.name == {tensor.name!r}]
    users = [tensor for tensor in model.inputs if tensor.name != {tensor.name!r}]
    keras.Model(ids, item).predict(item_ids)   # item_embs.npy, for `nann index`
    vector = keras.Input(item.shape[1:], name="item_embedding")
    keras.Model([*users, vector], keras.Model([*users, item], model.output)([*users, vector])).save("ranker.keras")"""


def _embedding_layer(model: Any, tensor: Any) -> str:
    """Returns the first layer that makes one vector of the input `tensor` and nothing else; "" if there is none."""
    behind, embedded = {id(tensor)}, False
    for layer in model.layers:
        try:
            source, target = layer.input, layer.output
        except AttributeError:  # Called more than once, or never.
            continue
        if isinstance(source, keras.KerasTensor) and id(source) in behind and isinstance(target, keras.KerasTensor):
            embedded |= isinstance(layer, keras.layers.Embedding)
            if embedded and len(target.shape) == 2:
                return str(layer.name)
            behind.add(id(target))
    return ""
