"""Checks an exported model under a server's conditions: a fresh process, another directory, a read-only file system.

The process is fresh because a model may depend on what its exporter left behind: registered ops, open resources, files.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export_tools.manifest import FILE, check_files, exported_index, read_manifest
from tfserving_ext.errors import NannError
from tfserving_ext.index.reach import unreachable_items
from tfserving_ext.local_paths import check_local
from tfserving_ext.serving.known_values import KnownValues, known_values

EXAMPLE_LENGTH = 4  # Extent given to every unknown dimension of an input that has no default.
SAMPLE_USERS = 3
SAMPLE_HISTORY = 20
MOST_LOST = 0.01  # If a larger part of the items cannot be reached, the graph explains a coverage that is too low.
# Made-up users get a lower coverage than real ones; one below this means a graph built from other embeddings.
LEAST_COVERAGE = 0.5


def verify(saved_model: str | os.PathLike[str], least_coverage: float = LEAST_COVERAGE) -> dict[str, Any]:
    """Checks a SavedModel; one that `nann export` did not write is only loaded and run.

    The checksums of all files are compared with the manifest's. Then, in a fresh process, in another directory and,
    where the kernel allows it, with the model on a read-only file system, every warm-up record is replayed and every
    signature run, and for a few made-up users the answers of `retrieve` are compared with brute force by the exported
    scorer. A coverage that was asked for at export is that of real users: made-up ones cannot tell whether it is found,
    as their histories, of an item and its neighbours, begin the search elsewhere. `nann evaluate --coverage` can.

    Example:
      >>> sorted(nann.verify("models/nann/1")["signatures"])[:3]
      ['retrieve', 'retrieve_best_first', 'retrieve_rounds']

    Args:
      saved_model: the folder of a SavedModel.
      least_coverage: the least mean coverage to accept, 0 to 1.

    Returns:
      A dict with `signatures`, the shape and type of each output, per signature; `warm_up_records`, how many there are;
      and `read_only`, whether the file system was read-only. If `nann export` wrote the model, also `files`, how many
      were checked, and `coverage`, the mean over the sample users, against brute force.

    Raises:
      NannError: the folder is not a SavedModel, is damaged or does not load, a request fails, an item's embedding or a
        score is not the model's, or the coverage is below `least_coverage`.
    """
    check_local(saved_model)
    path = Path(saved_model).resolve()
    if not (path / "saved_model.pb").exists():
        raise NannError(f"{saved_model} is not a SavedModel: it has no saved_model.pb; make one with `nann export`")
    found: dict[str, Any] = {}
    if (path / FILE).exists():
        manifest = read_manifest(path)
        check_files(path, manifest)
        found["files"] = len(manifest["files"])
    read_only = _read_only(path)
    run = subprocess.run(
        [*read_only, sys.executable, "-m", "export_tools.verify", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if run.returncode != 0:
        reason = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit status {run.returncode}"
        raise NannError(f"{saved_model} does not serve: {reason}")
    found |= {"read_only": bool(read_only), **json.loads(run.stdout.strip().splitlines()[-1])}
    if found.get("coverage", 1) < least_coverage:
        raise NannError(
            f"{saved_model}: retrieve finds {found['coverage']:.3f} of what brute force finds, at least "
            f"{least_coverage} is wanted; {_reason(path)}"
        )
    return found


def _reason(path: Path) -> str:
    """Says why an export's search may find little: its graph, or else the embeddings that the graph was built from."""
    manifest = read_manifest(path)
    with exported_index(path, manifest) as index:
        lost, items = len(unreachable_items(index)), len(index.item_ids)
    if lost > items * MOST_LOST:
        return (
            f"{lost:,} of {items:,} items are met by no walk from the entry points: build the graph anew with "
            "`nann index`, which links them, and export again"
        )
    return "was the index built from this model's embeddings?"


def _read_only(path: Path) -> list[str]:
    """Returns the prefix that runs a command with `path` mounted read-only; empty where the kernel forbids it."""
    if (unshare := shutil.which("unshare")) is None:
        return []
    mount = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    command = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(path)]
    return command if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0 else []


def _check(path: Path) -> dict[str, Any]:
    """Loads and runs the model; called in the fresh process."""
    from tfserving_ext.serving.models import load_servable  # The same loading as the server's.
    from tfserving_ext.serving.tensors import parse_tensor
    from tfserving_ext.serving.warm_up import predict_requests

    servable = load_servable(path)
    outputs: dict[str, Any] = {}
    records = predict_requests(path)
    for record in records:
        name = record.model_spec.signature_name or "serving_default"
        inputs = {key: parse_tensor(value) for key, value in record.inputs.items()}
        outputs[name] = servable.signature(name).run(inputs)
    for name, signature in servable.signatures.items():
        if name not in outputs:
            outputs[name] = signature.run(_made_up(signature, known_values(path)))
    found: dict[str, Any] = {"warm_up_records": len(records), "signatures": _shapes(outputs)}
    if (path / FILE).exists():
        found["coverage"] = _coverage(path, servable)
    return found


def _made_up(signature: Any, known: Mapping[str, KnownValues]) -> dict[str, np.ndarray]:
    """Returns inputs for a signature: its defaults, else values that the model knows, else ones.

    A width or a k of zero would rightly be refused.
    """
    import tensorflow as tf

    from export_tools.warm_up import example

    inputs, random = dict(signature.defaults), np.random.default_rng(0)
    for key, info in signature.proto.inputs.items():
        shape = [EXAMPLE_LENGTH if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
        inputs.setdefault(key, example(tf.dtypes.as_dtype(info.dtype), shape, known.get(key), random))
    return inputs


def _shapes(outputs: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    return {
        name: {key: {"shape": list(value.shape), "dtype": value.dtype.name} for key, value in found.items()}
        for name, found in outputs.items()
    }


def _coverage(path: Path, servable: Any) -> float:
    """Measures the coverage of `retrieve` against brute force by the exported scorer, over a few made-up users.

    Raises:
      NannError: a returned score is not the scorer's.
    """
    from export_tools.exact import ExactAnswers
    from export_tools.items import check_sample
    from export_tools.warm_up import Examples
    from tfserving_ext.retrieval import coverage

    manifest = read_manifest(path)
    k = manifest["defaults"]["k"]
    covered = []
    with exported_index(path, manifest) as index:
        k = min(k, len(index.item_ids))
        exact = ExactAnswers(path, index)
        check_sample(path, index, getattr(exact.loaded, "fold", None))
        examples = Examples.of_export(path, manifest["seeds"])
        rng = np.random.default_rng(0)
        for _ in range(SAMPLE_USERS if k else 0):
            # A history of similar items, as real users have: an item and its neighbours in the graph.
            start = int(rng.integers(len(index.item_ids)))
            layer = index.layers[0]
            near = layer.neighbors[layer.row_splits[start] : layer.row_splits[start + 1]][: SAMPLE_HISTORY - 1]
            history = examples.seeds_of(index, [start, *near])
            inputs = {**examples.inputs(history), "k": np.int32(k)}
            answer = servable.signature("retrieve").run(inputs)
            found = exact.search(inputs, servable.signature("retrieve").defaults, k)
            covered.append(coverage(answer["item_ids"], found.item_ids.numpy())[0])
            scores = dict(zip(found.item_ids[0].numpy().tolist(), found.scores[0].numpy().tolist(), strict=True))
            count = int(answer["num_results"][0]) if "num_results" in answer else k  # An older export gives no count.
            for item, score in zip(answer["item_ids"][0][:count].tolist(), answer["scores"][0].tolist(), strict=False):
                # Scores in an answer are finite, even where the scorer's are not.
                wanted = float(np.clip(scores.get(item, score), np.finfo(np.float32).min, np.finfo(np.float32).max))
                if not np.isclose(score, wanted, rtol=1e-3, atol=1e-4):
                    raise NannError(f"retrieve gives item {item} the score {score}, the exported scorer {wanted}")
    return float(np.mean(covered)) if covered else 1.0


if __name__ == "__main__":
    try:
        print(json.dumps(_check(Path(sys.argv[1]))))
    except Exception as error:
        # The parent process shows the last line.
        print(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", file=sys.stderr)
        sys.exit(1)
