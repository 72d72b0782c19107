"""Loads the compiled op library, once."""

import ctypes
import functools
import inspect
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import tensorflow as tf

FOLDER = Path(__file__).parent
_NAME = "_nann_ops-tensorflow-"  # Followed by the minor version that it was built against; setup.py has the same name.

# The newest argument of each op function. A library that lacks it was built from earlier sources.
_NEWEST = {"nann_index_open": "keys", "nann_index_rows": "item_ids", "nann_surrogate_search": "caps"}


def library(folder: Path, version: str) -> Path:
    """Returns the path of the op library for a version of TensorFlow.

    The ABI changes with every minor version, and a library for another one would crash later instead of at once.

    Args:
      folder: the folder of the library.
      version: TensorFlow's version, such as "2.20.1".

    Raises:
      ImportError: there is no library, or only for other minor versions.
    """
    minor = ".".join(version.split(".")[:2])
    path = folder / f"{_NAME}{minor}.so"
    if path.exists():
        return path
    built = sorted(other.stem.removeprefix(_NAME) for other in folder.glob(f"{_NAME}*.so"))
    rebuild = (
        "build nann against the one that is installed, in its sources: pip install 'setuptools>=77' cmake ninja && pip "
        "uninstall -y tfserving-ext && pip install --no-build-isolation ."
    )
    if not built:
        raise ImportError(f"{path} is missing; in a clone run `make setup`; or {rebuild}")
    raise ImportError(
        f"the op library was built for TensorFlow {', '.join(built)}, but TensorFlow {version} is installed; either "
        f"install what it was built for: pip install 'tensorflow=={built[-1]}.*' "
        f"'tensorflow-serving-api=={built[-1]}.*'; or {rebuild}"
    )


def check_interface(ops: ModuleType, path: Path) -> None:
    """Checks that an op library was built from sources as new as this package's.

    Args:
      ops: TensorFlow's generated op functions of the library.
      path: the library, for the message.

    Raises:
      ImportError: an op function is missing, or has not the arguments that this package passes.
    """
    for name, argument in _NEWEST.items():
        function = getattr(ops, name, None)
        if function is None or argument not in inspect.signature(function).parameters:
            raise ImportError(
                f"{path} is older than the Python package: {name} of the library has no argument {argument!r}; build "
                f"it again, in a clone by `make setup`, elsewhere by installing the package anew"
            )


class Following(NamedTuple):
    """An index of this process that follows updates.

    Attributes:
      folder: the folder of its segments.
      sequence: the number of the last update that it has read.
      unindexed: how many items are new or have another embedding, which every search scores.
      stopped: whether something is wrong with the next update.
    """

    folder: str
    sequence: int
    unindexed: int
    stopped: bool


def followed() -> list[Following]:
    """Returns the indexes of this process that follow updates."""
    load()
    states = ctypes.CDLL(str(library(FOLDER, tf.__version__))).nann_delta_states
    states.restype = ctypes.c_int64
    size = 0
    while True:
        text = ctypes.create_string_buffer(size + 1)
        needed = states(text, ctypes.c_int64(size))
        if needed <= size:
            break
        size = needed
    lines = [line.split("\t") for line in text.raw[:needed].decode().splitlines()]
    return [Following(folder, int(last), int(new), stopped == "1") for folder, last, new, stopped in lines]


@functools.cache
def load() -> ModuleType:
    """Loads the op library into this process and returns TensorFlow's generated op functions.

    Raises:
      ImportError: the library was not built, was built for another minor version of TensorFlow, or is older than this
        package.
    """
    path = library(FOLDER, tf.__version__)
    ops = tf.load_op_library(str(path))
    check_interface(ops, path)
    return ops
