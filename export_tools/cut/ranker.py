"""Opens a ranker as it is: a function from user features and raw item features to a score per row."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.known_values import read_known_values
from export_tools.sources.functional import Functional, score_outputs
from export_tools.sources.objectives import stacked
from export_tools.sources.source import check_dense
from tfserving_ext.artifacts import sha256
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local
from tfserving_ext.serving.known_values import KnownValues

_KINDS = "a Keras archive of a functional model (.keras), or a SavedModel with one serving signature, such as \
model.export('folder') writes"


@dataclasses.dataclass(frozen=True)
class Ranker:
    """A ranker as it is.

    Attributes:
      path: its file or folder.
      kind: "keras" or "saved_model".
      specs: its inputs by name, each [None, ...], with a row per pair of a user and an item.
      call: computes its score, [rows] or [rows, 1], from its inputs by name; of T objectives, [rows, T].
      output: the name of the score, or the names of the objectives.
      tracked: what has to live as long as the graph.
      files: SHA-256 of every file that was read, by name.
    """

    path: Path
    kind: str
    specs: Mapping[str, tf.TensorSpec]
    call: Callable[[Mapping[str, tf.Tensor]], tf.Tensor]
    output: str
    tracked: Any
    files: Mapping[str, str]

    def filled(self, rows: int, length: int, value: int) -> dict[str, np.ndarray]:
        """Returns all inputs of some rows, filled with one value each; extents of any length have `length`.

        Where the model's tables know values, that is the first of them for a `value` of 0, and the last for another.
        """
        made: dict[str, np.ndarray] = {}
        for name, spec in self.specs.items():
            shape = [rows, *(length if size is None else size for size in spec.shape[1:])]
            one: Any = (str(value) if value else "") if spec.dtype == tf.string else value
            if (known := self.known.get(name)) is not None:
                one = known.values[-1 if value else 0]
            made[name] = np.full(shape, one, spec.dtype.as_numpy_dtype)
        return made

    @functools.cached_property
    def known(self) -> dict[str, KnownValues]:
        """The values that the model's own tables know, by input."""
        return read_known_values(self.traced(), list(self.specs))

    def traced(self) -> Any:
        """Returns a concrete function that takes the inputs in the order of `specs` and returns the score."""

        def rank(*values: tf.Tensor) -> tf.Tensor:
            return self.call(dict(zip(self.specs, values, strict=True)))

        return tf.function(rank, autograph=False).get_concrete_function(*self.specs.values())


def open_ranker(path: Path, output: str | Sequence[str] = "") -> Ranker:
    """Opens a ranker.

    Args:
      path: a .keras archive, or a SavedModel's folder.
      output: the output that is the score, if there are several; with several names, those of all objectives.

    Raises:
      NannError: there is no such model, it does not load, or its inputs or outputs are not those of a ranker.
    """
    check_local(path)
    if path.suffix == ".keras" and path.exists():
        return _archive(path, output)
    if (path / "saved_model.pb").exists():
        return _saved_model(path, output)
    raise NannError(f"{path} is not a ranker that can be cut by a table of items; allowed is {_KINDS}")


def _archive(path: Path, output: str | Sequence[str]) -> Ranker:
    model = Functional.load(path)
    names = score_outputs(path, model.outputs, output)
    specs = {each: model.spec(each) for each in model.inputs}
    files = {path.name: sha256(path)}
    return Ranker(
        path, "keras", specs, lambda values: _scores(model(values), names, output), ", ".join(names), model, files
    )


def _saved_model(folder: Path, output: str | Sequence[str]) -> Ranker:
    try:
        loaded = tf.saved_model.load(str(folder))
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise NannError(f"{folder} does not load: {type(error).__name__}: {reason}") from error
    names = list(loaded.signatures)
    name = "serving_default" if "serving_default" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise NannError(
            f"{folder} has the signatures {', '.join(names) or 'none'}; a ranker has one, or one called "
            "'serving_default'"
        )
    specs, outputs, call = _served(loaded, loaded.signatures[name])
    for each, spec in specs.items():
        check_dense(each, spec)
        if not spec.shape.rank or spec.shape[0] is not None:
            raise NannError(
                f"input {each} of {folder} has shape {spec.shape}; it must have a row per pair of a user and an item, "
                "[None, ...]: save the model anew with a batch of any size"
            )
    scores = score_outputs(folder, outputs, output)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Ranker(
        folder,
        "saved_model",
        {each: tf.TensorSpec(spec.shape, spec.dtype) for each, spec in sorted(specs.items())},
        lambda values: _scores(call(values), scores, output),
        ", ".join(scores),
        loaded,
        {path.relative_to(folder).as_posix(): sha256(path) for path in files},
    )


def _scores(found: Mapping[str, Any], names: Sequence[str], output: str | Sequence[str]) -> tf.Tensor:
    """Returns the score of every row, or the scores by all objectives, [rows, T]."""
    if isinstance(output, str):
        return found[names[0]]
    return stacked({name: tf.reshape(found[name], [-1]) for name in names}, output)


def _served(loaded: Any, signature: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Returns the inputs and outputs of a signature by name, and what calls it with a dict.

    `model.export` calls the inputs of a subclassed model args_0 and so on; its function `serve` knows their keys.
    """
    for concrete in getattr(getattr(loaded, "serve", None), "concrete_functions", ()):
        arguments, _ = concrete.structured_input_signature
        given = concrete.structured_outputs
        if len(arguments) == 1 and isinstance(arguments[0], Mapping) and isinstance(given, (tf.TensorSpec, Mapping)):
            outputs = given if isinstance(given, Mapping) else {"output_0": given}

            def call(values: Mapping[str, tf.Tensor]) -> Any:
                found = loaded.serve(dict(values))
                return found if isinstance(found, Mapping) else {"output_0": found}

            return dict(arguments[0]), dict(outputs), call
    outputs = dict(sorted(signature.structured_outputs.items()))
    return signature.structured_input_signature[1], outputs, lambda values: signature(**values)
