"""Loads a SavedModel in a fresh process and runs every signature once.

A fresh process, because a model can lean on what its exporter left behind: registered ops, open resources, files.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tfserving_ext.errors import NannError

EXAMPLE_LENGTH = 4  # Extent given to every unknown dimension of an input that has no default.


def verify(saved_model: str | os.PathLike[str]) -> dict[str, Any]:
    """Loads `saved_model` in a fresh process and runs every signature once, on ones and defaults.

    Returns:
      Per signature, the shape and type of each output.

    Raises:
      NannError: the folder is no SavedModel, it does not load, or a signature fails.
    """
    path = Path(saved_model).resolve()
    if not (path / "saved_model.pb").exists():
        raise NannError(f"{saved_model} is not a SavedModel: it has no saved_model.pb; make one with `nann export`")
    run = subprocess.run(
        [sys.executable, "-m", "export_tools.verify", str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if run.returncode != 0:
        reason = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit status {run.returncode}"
        raise NannError(f"{saved_model} does not serve: {reason}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def _run_signatures(path: str) -> dict[str, Any]:
    import numpy as np
    import tensorflow as tf

    from tfserving_ext.serving.models import load_servable  # The same loading as the server's.

    servable = load_servable(path)
    outputs: dict[str, Any] = {}
    for name, signature in servable.signatures.items():
        inputs = dict(signature.defaults)
        for key, info in signature.proto.inputs.items():
            shape = [EXAMPLE_LENGTH if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]
            # Ones: a width or a k of zero would rightly be refused.
            inputs.setdefault(key, np.ones(shape, tf.dtypes.as_dtype(info.dtype).as_numpy_dtype))
        result = signature.run(inputs)
        outputs[name] = {key: {"shape": list(value.shape), "dtype": value.dtype.name} for key, value in result.items()}
    return outputs


if __name__ == "__main__":
    try:
        print(json.dumps(_run_signatures(sys.argv[1])))
    except Exception as error:
        # The last line is what the parent shows.
        print(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}", file=sys.stderr)
        sys.exit(1)
