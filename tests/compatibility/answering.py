"""Answers of the kept models: `python -m tests.compatibility.answering FOLDER REQUESTS` prints them as JSON.

FOLDER holds SavedModels, REQUESTS is a JSON file: a list of {"model", "signature", "inputs"}. Every request is answered
twice, as `tf.saved_model.load` gives the model and in a session, as servers run it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import tfserving_ext.ops  # noqa: F401 - registers the ops.

# These outputs are times, which differ from run to run.
TIMES = ("search_us", "scorer_us", "gather_us", "merge_us", "user_us", "walk_us")


def answers(folder: Path, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a dict per request, with the outputs by name, except times, under "loaded" and under "session"."""
    found = []
    for request in requests:
        path, signature = str(folder / request["model"]), request["signature"]
        loaded = tf.saved_model.load(path)
        function = loaded.signatures[signature]
        specs = function.structured_input_signature[1]
        inputs = {name: np.array(value, specs[name].dtype.as_numpy_dtype) for name, value in request["inputs"].items()}
        by_load = function(**{name: tf.constant(value) for name, value in inputs.items()})
        by_session = _in_session(path, signature, inputs)
        found.append(
            {
                "loaded": _plain({name: tensor.numpy() for name, tensor in by_load.items()}),
                "session": _plain(by_session),
            }
        )
    return found


def _in_session(path: str, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        described = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def[signature]
        feed = {described.inputs[name].name: value for name, value in inputs.items()}
        return session.run({name: info.name for name, info in described.outputs.items()}, feed)


def _plain(outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: np.asarray(value).tolist() for name, value in sorted(outputs.items()) if name not in TIMES}


if __name__ == "__main__":
    print(json.dumps(answers(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))))
