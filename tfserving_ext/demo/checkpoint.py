"""The demo's trained model, which is small enough to come with the package: `nann demo` uses it instead of training.

nann_attention.json   the name and sizes of the model, how it was trained, digests of the data that it was trained on,
                      and the SHA-256 of the weights
nann_attention.npz    the weights by their names in Keras; tables and matrices in half precision, vectors in float32

It does not contain the ids and categories of the items. These come from the data, which is converted first and must
have the same digests. This command makes it from the folder that `make demo TRAIN=1` writes:

    python -m tfserving_ext.demo.checkpoint demo
"""

import hashlib
import os
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.artifacts import atomic_file, read_json, sha256, write_json
from tfserving_ext.data.sequence_format import SPLITS
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.errors import NannError

FOLDER = Path(__file__).parent
NAME = "nann_attention"
FORMAT, FORMAT_VERSION = "nann-demo-checkpoint", 1
COMMAND = "python -m tfserving_ext.demo.checkpoint demo"
WAY_OUT = "train on your data with `make demo TRAIN=1` or `nann demo --train`"


def data_digests(sequences: Sequences) -> dict[str, str]:
    """Computes the SHA-256 of the item table, and of the users and histories of each split.

    They depend on the values alone, not on the files, which other versions of the format or of libraries may write
    differently.
    """

    def digest(*arrays: np.ndarray) -> str:
        whole = hashlib.sha256()
        for array in arrays:
            whole.update(len(array).to_bytes(8, "little") + np.ascontiguousarray(array, "<i8").tobytes())
        return whole.hexdigest()

    digests = {"items": digest(sequences.item_ids, sequences.category_ids, sequences.item_categories)}
    for place, split in enumerate(SPLITS):
        users = np.flatnonzero(sequences.user_splits == place)
        starts, ends = sequences.row_splits[users], sequences.row_splits[users + 1]
        rows = np.concatenate(
            [sequences.sequence_items[:0], *map(sequences.sequence_items.__getitem__, map(slice, starts, ends))]
        )
        digests[split] = digest(sequences.user_ids[users], ends - starts, rows)
    return digests


def facts(folder: Path = FOLDER) -> dict[str, Any]:
    """Reads the checkpoint's JSON.

    Raises:
      NannError: the file is missing or has another format.
    """
    path = folder / f"{NAME}.json"
    found = read_json(path)
    if not isinstance(found, dict) or (found.get("format"), found.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise NannError(f"{path} does not have the format {FORMAT!r} version {FORMAT_VERSION}; install nann again")
    return found


def restore(data: str | os.PathLike[str], target: str | os.PathLike[str], folder: Path = FOLDER) -> None:
    """Writes the checkpoint as a model's folder like those of `nann train`.

    Args:
      data: the demo's converted data.
      target: the model's folder, which is replaced if it exists.
      folder: the folder that contains the checkpoint.

    Raises:
      NannError: the checkpoint is damaged, is from another release, or was trained on other data.
    """
    from tfserving_ext.models import model_named
    from tfserving_ext.models.checkpoint import read_config, save_model

    known = facts(folder)
    sequences = Sequences.open(data)
    for name, found in data_digests(sequences).items():
        if found != known["data"].get(name):
            what = "the products" if name == "items" else f"the households of the {name} split, or their purchases,"
            raise NannError(
                f"{data}: {what} are not those that the demo's checkpoint was trained on (SHA-256 {found}, in the "
                f"checkpoint {known['data'].get(name)}); {WAY_OUT}"
            )
    weights = _weights(folder / f"{NAME}.npz", known["sha256"])
    kind = model_named(known["model"])
    config = read_config(kind.config_type, known["config"], folder / f"{NAME}.json")
    model = kind(sequences.item_ids, sequences.category_ids, None, config)
    variables = {variable.path: variable for variable in model.variables}
    if different := set(variables) ^ set(weights):
        raise NannError(f"the demo's checkpoint is from another release: {sorted(different)} differ; {WAY_OUT}")
    for name, variable in variables.items():
        if weights[name].shape != tuple(variable.shape):
            raise NannError(
                f"{name} of the demo's checkpoint has the shape {list(weights[name].shape)}, this release needs "
                f"{list(variable.shape)}; {WAY_OUT}"
            )
        variable.assign(weights[name].astype(variable.dtype))
    categories = sequences.category_ids[np.asarray(sequences.item_categories) - 1]
    made = {"checkpoint": {"sha256": known["sha256"], "stored": "float16"}}
    save_model(target, model, categories, known["training"] | made)


def _weights(path: Path, wanted: str) -> dict[str, np.ndarray]:
    try:
        found = sha256(path)
        if found != wanted:
            raise NannError(
                f"{path} is damaged: its SHA-256 is {found}, but {path.stem}.json has {wanted}; install nann again, or "
                f"{WAY_OUT}"
            )
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise NannError(f"{path} cannot be read: {error}; install nann again, or {WAY_OUT}") from error


def write(demo: str | os.PathLike[str], folder: Path = FOLDER) -> dict[str, Any]:
    """Makes the checkpoint from the folder of a demo that trained its model.

    Args:
      demo: the demo's folder.
      folder: the folder to write the checkpoint to.

    Returns:
      The content of its JSON file.

    Raises:
      NannError: there is no model, it came from a checkpoint itself, or it was trained on other data than the demo's.
    """
    from tfserving_ext.training import load_model

    data, trained = Path(demo) / "data", load_model(Path(demo) / "model")
    training = trained.manifest["training"]
    if "checkpoint" in training:
        raise NannError(f"{demo}/model comes from a checkpoint itself; train it with `make demo TRAIN=1`")
    if training.get("data_sha256") != sha256(data / "manifest.json"):
        raise NannError(f"{demo}/model was trained on other data than {data}; train it with `make demo TRAIN=1`")
    weights = {}
    for variable in trained.model.variables:
        values = np.asarray(variable)
        # Vectors are one per cent of all weights, and a variance may be too small for half precision.
        weights[variable.path] = values.astype(np.float16) if values.ndim > 1 else values
        if not np.isfinite(weights[variable.path]).all():
            raise NannError(f"{variable.path} of {demo}/model has {np.abs(values).max()}, too large for float16")
    with atomic_file(folder / f"{NAME}.npz") as new, new.open("wb") as file:
        np.savez_compressed(file, **weights)  # type: ignore[arg-type]
    known = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "command": COMMAND,
        "sha256": sha256(folder / f"{NAME}.npz"),
        **{name: trained.manifest[name] for name in ("model", "config", "training")},
        "data": data_digests(Sequences.open(data)),
    }
    write_json(folder / f"{NAME}.json", known)
    return known


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {COMMAND}")
    try:
        print(f"{NAME}.npz, SHA-256 {write(sys.argv[1])['sha256']}")
    except NannError as error:
        sys.exit(f"error: {error}")
