"""Loads the compiled op library, once."""

import functools
import json
from pathlib import Path
from types import ModuleType

import tensorflow as tf

FOLDER = Path(__file__).parent
REBUILD = "build it again with `pip install --force-reinstall --no-deps .`"


def check_version(built_for: str, installed: str) -> None:
    """Refuses a library of another TensorFlow minor version: its ABI would differ in ways that only crash later.

    Raises:
      ImportError: the minor versions differ.
    """
    if built_for.split(".")[:2] != installed.split(".")[:2]:
        raise ImportError(
            f"the op library was built for TensorFlow {built_for}, but TensorFlow {installed} is installed; {REBUILD}"
        )


@functools.cache
def load() -> ModuleType:
    """Loads the op library into this process and returns TensorFlow's generated op functions.

    Raises:
      ImportError: the library was not built, or for another TensorFlow minor version.
    """
    path = FOLDER / "_nann_ops.so"
    info = FOLDER / "build_info.json"
    if not path.exists() or not info.exists():
        raise ImportError(f"{path} is missing; {REBUILD}")
    check_version(json.loads(info.read_text())["tensorflow"], tf.__version__)
    return tf.load_op_library(str(path))
