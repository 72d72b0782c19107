"""The source of a SavedModel with `user` and `score`, such as `tf.saved_model.save` of a tf.Module writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export_tools.manifest import FILE, read_manifest
from export_tools.sources.items import item_of_ids, item_of_signature
from export_tools.sources.objectives import scores_of
from export_tools.sources.source import Source, any_batch, batched, check_dense
from tfserving_ext.artifacts import sha256
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors


def saved_model_source(folder: Path, seeds: str | None, output: str | Sequence[str] = "") -> Source:
    """Makes the source of a SavedModel whose object has the functions `user` and `score`, or signatures of these names.

    As functions they are those of `tfserving_ext.models.RetrievalModel`. As signatures, `user` returns the user tensors
    by name, and `score` takes them by the same names and the items as `items`.

    Args:
      folder: the SavedModel's folder.
      seeds: the feature that holds the user's own item ids; by default, that of a model that `nann export` wrote.
      output: the key of the scores, if the function `score` returns a dict of several outputs; several for objectives.

    Raises:
      NannError: the SavedModel does not load, or has no such functions.
    """
    try:
        loaded = tf.saved_model.load(str(folder))
    except (tf.errors.OpError, OSError, ValueError, KeyError) as error:
        raise NannError(f"{folder} does not load: {(str(error).splitlines() or [''])[0]}") from error
    if callable(getattr(loaded, "user", None)) and callable(getattr(loaded, "score", None)):
        user, score, features = loaded.user, loaded.score, _features(folder, loaded.user)
        item = item_of_ids(getattr(loaded, "item", None))
    elif {"user", "score"} <= set(loaded.signatures):
        user, score, features = _from_signatures(loaded)
        item = item_of_signature(loaded.signatures["item"]) if "item" in loaded.signatures else None
    else:
        raise NannError(
            f"{folder} has neither functions nor signatures `user` and `score`; its signatures are "
            f"{', '.join(sorted(loaded.signatures)) or 'none'}"
        )
    for name, spec in features.items():
        check_dense(name, spec)
    own_seeds, defaults, objectives = _of_export(folder, features)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return Source(
        kind="saved_model",
        user=any_batch(user, features),
        score=lambda tensors, items: scores_of(score(tensors, items), output),
        features={name: batched(spec) for name, spec in features.items()},
        defaults=defaults,
        seeds=seeds or own_seeds,
        tracked=loaded,
        item=item,
        objectives=objectives,
        inputs={path.relative_to(folder).as_posix(): sha256(path) for path in files},
    )


def _of_export(
    folder: Path, features: Mapping[str, tf.TensorSpec]
) -> tuple[str | None, dict[str, tf.Tensor], tuple[str, ...]]:
    """Returns seeds, defaults of features, and objectives of a model that `nann export` wrote; none of any other."""
    if not (folder / FILE).exists():
        return None, {}, ()
    graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0]
    held = graph.signature_def["retrieve"].defaults
    defaults = {name: tf.constant(tf.make_ndarray(held[name])) for name in features if name in held}
    manifest = read_manifest(folder)
    return manifest["seeds"], defaults, tuple(manifest.get("source", {}).get("description", {}).get("objectives", ()))


def _features(folder: Path, user: Any) -> dict[str, tf.TensorSpec]:
    """Returns the features that a restored function takes as a dict, its first argument."""
    for concrete in getattr(user, "concrete_functions", []):
        arguments, _ = concrete.structured_input_signature
        if arguments and isinstance(arguments[0], dict):
            return dict(arguments[0])
    raise NannError(
        f"`user` of {folder} was not traced with a dict of features; give it an input signature and save again"
    )


def _from_signatures(loaded: Any) -> tuple[Any, Any, dict[str, tf.TensorSpec]]:
    user_signature, score_signature = loaded.signatures["user"], loaded.signatures["score"]
    names = sorted(user_signature.structured_outputs)

    def user(features: dict[str, tf.Tensor]) -> UserTensors:
        found = user_signature(**features)
        return tuple(found[name] for name in names)

    def score(tensors: UserTensors, items: tf.Tensor) -> dict[str, tf.Tensor]:
        return score_signature(**dict(zip(names, tensors, strict=True)), items=items)

    wanted = {*names, "items"}
    taken = set(score_signature.structured_input_signature[1])
    if taken != wanted:
        raise NannError(
            f"signature score takes {sorted(taken)}, it must take the outputs of user, and items: {sorted(wanted)}"
        )
    return user, score, dict(user_signature.structured_input_signature[1])
