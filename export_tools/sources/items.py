"""Turns a model's `item` into a function of ids alone, so that an index can be compared with it."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfserving_ext.progress import outcome

ItemFunction = Callable[[tf.Tensor], tf.Tensor]


def item_of_ids(item: Any) -> ItemFunction | None:
    """Returns a function from ids [n] to embeddings [n, d] that calls `item(features)`; None if there is none.

    `item` is called with its one feature, which is taken to be `item_id` if it does not declare any. An `item` that
    takes more than ids cannot be called, and the log says so.
    """
    if not callable(item):
        return None
    spec = _spec_of(item)
    if isinstance(spec, tf.TensorSpec):
        return lambda ids: item(_cast(ids, spec.dtype))
    name, dtype = "item_id", None
    if spec is not None:
        if not isinstance(spec, Mapping) or len(spec) != 1:
            listed = ", ".join(spec) if isinstance(spec, Mapping) else repr(spec)
            outcome("export", f"`item` takes {listed}: the index is not compared with it, as it takes more than ids")
            return None
        ((name, one),) = spec.items()
        dtype = one.dtype
    return lambda ids: item({name: _cast(ids, dtype)})


def item_of_signature(signature: Any) -> ItemFunction | None:
    """Returns the same function for the signature `item` of a SavedModel; None if it takes more than one input."""
    takes = signature.structured_input_signature[1]
    if len(takes) != 1:
        return None
    ((name, spec),) = takes.items()
    return lambda ids: next(iter(signature(**{name: _cast(ids, spec.dtype)}).values()))


def _cast(ids: tf.Tensor, dtype: tf.DType | None) -> tf.Tensor:
    """Returns ids as `item` takes them: integers of `dtype`, or strings unchanged.

    Raises:
      TypeError: the ids are strings and `item` takes integers, or the other way.
    """
    if dtype is None or ids.dtype == dtype:
        return ids
    if tf.string in (ids.dtype, dtype):
        raise TypeError(f"`item` takes {dtype.name}, ids are {ids.dtype.name}")
    return tf.cast(ids, dtype)


def _spec_of(item: Any) -> Any:
    """Returns the spec of the one argument of a tf.function, restored or not; None if it has none."""
    signature = getattr(item, "input_signature", None)
    for concrete in getattr(item, "concrete_functions", None) or []:
        signature = signature or concrete.structured_input_signature[0]
    return signature[0] if signature and len(signature) == 1 else None
