"""A functional Keras model from an archive, with its inputs and outputs by name, however they are nested."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfserving_ext.errors import NannError


class Functional:
    """A functional model, keras.Model(inputs, outputs), or a Sequential one.

    Attributes:
      model: the model.
      inputs: its symbolic inputs by name, in its order: by their keys if they are a dict, else by their own names.
      outputs: its symbolic outputs by name: the key, or the name of the layer.
    """

    def __init__(self, model: Any, path: str | Path) -> None:
        """Takes a model; messages call it `path`.

        Raises:
          NannError: it is another kind of model, or has inputs that no request can carry.
        """
        self.model = model
        try:
            self._taken, given = self.model.input, self.model.output
        except AttributeError as error:
            raise NannError(
                f"{path} is a {type(self.model).__name__}, it must be a functional model, "
                "keras.Model(inputs, outputs): its archive tells its inputs; of others, export what "
                "model.export('folder') writes, or MODULE:NAME "
                "with functions `user` and `score`"
            ) from error
        self.inputs = _by_name(self._taken)
        self.outputs = _by_name(given, self.model.output_names)
        self._names = {id(tensor): name for name, tensor in self.inputs.items()}
        for name, tensor in self.inputs.items():
            if tensor.sparse or tensor.shape[0] is not None:
                wrong = "is sparse" if tensor.sparse else f"has a fixed batch size of {tensor.shape[0]}"
                raise NannError(
                    f"input {name} of {path} {wrong}; requests carry dense tensors of any batch size: build the model "
                    "anew with such an input"
                )

    @classmethod
    def load(cls, path: Path) -> "Functional":
        """Loads a .keras archive; one that contains code is refused.

        Raises:
          NannError: the archive does not load, or see the constructor.
        """
        return cls(_loaded(path), path)

    def __call__(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Calls the model with inputs nested as it was built; takes and returns tensors by name."""
        nested = keras.tree.map_structure(lambda tensor: values[self._names[id(tensor)]], self._taken)
        return dict(zip(self.outputs, keras.tree.flatten(self.model(nested, training=False)), strict=True))

    def spec(self, name: str) -> tf.TensorSpec:
        """Returns the spec of an input, with an unknown batch."""
        tensor = self.inputs[name]
        return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def listed(tensors: Mapping[str, Any]) -> str:
    """Returns names, types and shapes in words, for errors."""
    return ", ".join(
        f"{name!r} {tf.as_dtype(tensor.dtype).name} {list(tensor.shape)}" for name, tensor in tensors.items()
    )


def score_outputs(path: str | Path, outputs: Mapping[str, Any], wanted: str | Sequence[str]) -> list[str]:
    """Returns the names of the outputs that are scores: one, or with several names all of them.

    Args:
      path: what messages call the model.
      outputs: the outputs by name, each with its dtype and shape.
      wanted: the name, or names, that the caller gave; "" for the only one.

    Raises:
      NannError: it is not clear which one that is, or one is no score.
    """
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if names == [""]:
        if len(outputs) != 1:
            raise NannError(
                f"which output of {path} is the score? name one (--output), or several (--objective), of "
                f"{listed(outputs)}"
            )
        names = list(outputs)
    for name in names:
        if name not in outputs:
            raise NannError(f"{path} has no output {name!r}; its outputs are {listed(outputs)}")
        if tuple(outputs[name].shape[1:]) not in ((), (1,)):
            raise NannError(
                f"output {name} of {path} has shape {list(outputs[name].shape)}, a score must have [None] or "
                f"[None, 1]; its outputs are {listed(outputs)}"
            )
    return names


def _loaded(path: Path) -> Any:
    try:
        # Safe mode refuses archives that carry Python code.
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [""])[0]
        cure = ""
        if "ould not locate" in reason:
            cure = (
                "; it needs code of yours: export what model.export('folder') writes, which needs none, or have the "
                "classes registered by `nann --import MODULE export ...`"
            )
        raise NannError(f"{path} does not load: {reason}{cure}") from error


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
