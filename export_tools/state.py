"""The state that an exported model needs, found by what its traced functions captured.

A SavedModel carries what hangs on the object that is saved. What a model holds in a plain list, in a closure or in an
object of another library hangs on nothing that TensorFlow walks, and Keras' own variables are saved but not restored
by a session (docs/tensorflow.md). What the functions captured is exactly what they need, whatever holds it.
"""

import gc
import re
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from tfserving_ext.errors import NannError

_CARRIED = "a SavedModel carries variables, lookup tables and files (tf.saved_model.Asset)"


def captured_state(functions: Mapping[str, ConcreteFunction]) -> list[Any]:
    """What owns the captures of `functions`: variables, tables, assets; each once, in the order of the captures.

    Args:
      functions: traced functions, by the names that errors give them.

    Raises:
      NannError: nothing owns a capture, or it is of a kind that no SavedModel can carry.
    """
    found: dict[int, Any] = {}
    for name, function in functions.items():
        for tensor in function.captured_inputs:
            owner = _owner(name, tensor)
            if owner is not None:
                found.setdefault(id(owner), owner)
    return list(found.values())


def _owner(function: str, tensor: Any) -> Any:
    """What has to be saved for a captured tensor; None for a plain value, which the graph itself carries."""
    if tensor.dtype == tf.string and tensor.shape.rank == 0:
        return _asset_of(tensor)
    if tensor.dtype not in (tf.resource, tf.variant):
        return None
    # TensorFlow has handles remember their variable or table, weakly.
    holder = getattr(tensor, "_parent_trackable", None)
    if holder is None:
        raise NannError(
            f"`{function}` uses {_described(tensor)}, which cannot be exported: {_CARRIED}; read what it gives into a "
            "tf.Variable or a constant before, or let it be a feature of the request"
        )
    owner = holder()
    if owner is None:
        raise NannError(
            f"`{function}` uses {_described(tensor)}, which no Python object holds any more; {_CARRIED}: keep it as an "
            "attribute of the model"
        )
    return owner


def _asset_of(tensor: Any) -> Any:
    """The asset whose path this is: left untracked, an export would keep the path that it had on this machine."""
    for holder in gc.get_referrers(tensor):
        for one in (holder, *(gc.get_referrers(holder) if isinstance(holder, dict) else ())):
            if isinstance(one, tf.saved_model.Asset) and one.asset_path is tensor:
                return one
    return None


def _described(tensor: Any) -> str:
    """A handle in words, such as "the IteratorResource AnonymousIterator0"."""
    text = repr(tensor)
    kind, name = (re.search(rf'{key}="([^"]*)"', text) for key in ("type", "name"))
    if kind is None:
        return f"a {tensor.dtype.name} tensor of shape {tensor.shape}, such as a data set"
    short = kind[1].split("::")[-1].split("<")[0]
    return f"the {short} {name[1]}" if name is not None and name[1] else f"a {short}"
