"""Finds the state that an exported model needs, from what its traced functions captured.

A SavedModel carries only the state that TensorFlow can reach from the object that is saved. It does not reach what a
model holds in a plain list, in a closure or in an object of another library, and Keras' own variables are saved but not
restored by a session (docs/tensorflow.md). The captures of the functions are exactly the state that they need, whoever
holds it.
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
    """Returns the variables, tables and assets that own the captures of `functions`, each once, in order of capture.

    Args:
      functions: traced functions, by the names that errors use for them.

    Raises:
      NannError: a capture has no owner, or it is of a kind that a SavedModel cannot carry.
    """
    found: dict[int, Any] = {}
    for name, function in functions.items():
        for tensor in function.captured_inputs:
            owner = _owner(name, tensor)
            if owner is not None:
                found.setdefault(id(owner), owner)
    return list(found.values())


def _owner(function: str, tensor: Any) -> Any:
    """Returns the object to save for a captured tensor; None for a plain value, which the graph itself carries."""
    if tensor.dtype == tf.string and tensor.shape.rank == 0:
        return _asset_of(tensor)
    if tensor.dtype not in (tf.resource, tf.variant):
        return None
    # In TensorFlow, a handle keeps a weak reference to its variable or table.
    holder = getattr(tensor, "_parent_trackable", None)
    if holder is None:
        raise NannError(
            f"`{function}` uses {_described(tensor)}, which cannot be exported: {_CARRIED}; read its values into a "
            "tf.Variable or a constant first, or make them a feature of the request"
        )
    owner = holder()
    if owner is None:
        raise NannError(
            f"`{function}` uses {_described(tensor)}, which no Python object holds any more; {_CARRIED}: keep the "
            "object as an attribute of the model"
        )
    return owner


def _asset_of(tensor: Any) -> Any:
    """Returns the asset whose path a tensor is. If it were not saved, the export would keep this machine's path."""
    for holder in gc.get_referrers(tensor):
        for one in (holder, *(gc.get_referrers(holder) if isinstance(holder, dict) else ())):
            if isinstance(one, tf.saved_model.Asset) and one.asset_path is tensor:
                return one
    return None


def _described(tensor: Any) -> str:
    """Describes a handle in words, such as "the IteratorResource AnonymousIterator0"."""
    text = repr(tensor)
    kind, name = (re.search(rf'{key}="([^"]*)"', text) for key in ("type", "name"))
    if kind is None:
        return f"a {tensor.dtype.name} tensor of shape {tensor.shape}, such as a data set"
    short = kind[1].split("::")[-1].split("<")[0]
    return f"the {short} {name[1]}" if name is not None and name[1] else f"a {short}"
