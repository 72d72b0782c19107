"""A model's `item` as a function of ids alone, which is what an index can be held against."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfserving_ext.progress import outcome

ItemFunction = Callable[[tf.Tensor], tf.Tensor]


def item_of_ids(item: Any) -> ItemFunction | None:
    """Embeddings [n, d] of int64 ids [n] by `item(features)`; None where there is no such function.

    It is called with its one feature, which is `item_id` where it does not say its features. One that wants more than
    ids cannot be asked; the log says so.
    """
    if not callable(item):
        return None
    spec = _spec_of(item)
    if isinstance(spec, tf.TensorSpec):
        return lambda ids: item(tf.cast(ids, spec.dtype))
    name, dtype = "item_id", tf.int64
    if spec is not None:
        if not isinstance(spec, Mapping) or len(spec) != 1:
            listed = ", ".join(spec) if isinstance(spec, Mapping) else repr(spec)
            outcome("export", f"`item` takes {listed}: without ids alone the index is not held against it")
            return None
        ((name, one),) = spec.items()
        dtype = one.dtype
    return lambda ids: item({name: tf.cast(ids, dtype)})


def item_of_signature(signature: Any) -> ItemFunction | None:
    """The same of a SavedModel's signature."""
    takes = signature.structured_input_signature[1]
    if len(takes) != 1:
        return None
    ((name, spec),) = takes.items()
    return lambda ids: next(iter(signature(**{name: tf.cast(ids, spec.dtype)}).values()))


def _spec_of(item: Any) -> Any:
    """What a tf.function, or a restored one, takes as its one argument; None where it does not say."""
    signature = getattr(item, "input_signature", None)
    for concrete in getattr(item, "concrete_functions", None) or []:
        signature = signature or concrete.structured_input_signature[0]
    return signature[0] if signature and len(signature) == 1 else None
