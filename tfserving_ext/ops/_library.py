"""Loads the compiled op library, once."""

import functools
from pathlib import Path
from types import ModuleType

import tensorflow as tf

FOLDER = Path(__file__).parent
_NAME = "_nann_ops-tensorflow-"  # And the minor version that it was built against; setup.py says so too.


def library(folder: Path, version: str) -> Path:
    """The op library for a TensorFlow; its ABI is another one in each minor version, which would only crash later.

    Args:
      folder: where the library lies.
      version: TensorFlow's, such as "2.20.1".

    Raises:
      ImportError: there is none, or only of other minor versions.
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


@functools.cache
def load() -> ModuleType:
    """Loads the op library into this process and returns TensorFlow's generated op functions.

    Raises:
      ImportError: the library was not built, or for another TensorFlow minor version.
    """
    return tf.load_op_library(str(library(FOLDER, tf.__version__)))
