"""Values for features that requests may leave out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.sources.source import Source
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors


def with_defaults(source: Source, values: Mapping[str, Any]) -> Source:
    """Returns the same model, whose requests may leave out some features.

    Args:
      source: the model.
      values: the value of one user, by feature: of the feature's extents, or one value for all of them. Numbers may be
        given as text.

    Raises:
      NannError: the model has no such feature, it holds the seeds, or the value does not fit its type or extents.
    """
    if not values:
        return source
    for name in values:
        if name not in source.features:
            raise NannError(
                f"a default was given for {name!r}, which is no feature of the model; allowed are "
                f"{', '.join(source.features)}"
            )
    defaults = {name: _default(name, source.features[name], value) for name, value in values.items()}
    required = [name for name in source.features if name not in {**source.defaults, **defaults}]

    def user(features: dict[str, tf.Tensor]) -> UserTensors:
        rows = [tf.shape(features[name])[0] for name in required or source.features]
        users = tf.reduce_max(tf.stack(rows))
        filled = dict(features)
        for name in defaults:
            extents = tf.shape(features[name])[1:]
            filled[name] = tf.broadcast_to(features[name], tf.concat([[users], extents], axis=0))
            filled[name].set_shape(source.features[name].shape)
        return source.user_tensors(filled)

    return dataclasses.replace(source, user=user, defaults={**source.defaults, **defaults})


def _default(name: str, spec: tf.TensorSpec, value: Any) -> tf.Tensor:
    """Returns the value of one user, [1, ...]."""
    wanted = spec.shape.as_list()[1:]
    expected = f"{spec.dtype.name} of the extents {wanted}"
    try:
        made = _typed(np.asarray(value), spec.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise NannError(f"the default of {name} is {value!r}; allowed is {expected}") from error
    if made.ndim == 0 and None not in wanted:
        made = np.full(wanted, made[()], made.dtype)
    if made.ndim != len(wanted) or any(w not in (None, g) for w, g in zip(wanted, made.shape, strict=True)):
        raise NannError(f"the default of {name} is {value!r}, of the extents {list(made.shape)}; allowed is {expected}")
    return tf.constant(made[None], spec.dtype)


def _typed(given: np.ndarray, dtype: tf.DType) -> np.ndarray:
    """Returns values of a type; raises ValueError if they would become others."""
    if dtype == tf.string:
        return np.vectorize(lambda one: one if isinstance(one, bytes) else str(one).encode(), otypes=[object])(given)
    if dtype.is_bool and given.dtype.kind != "b":
        raise ValueError("true or false is expected")
    if dtype.is_integer and given.dtype.kind not in "iuU":
        raise ValueError("a whole number is expected")
    made: np.ndarray = given.astype(dtype.as_numpy_dtype)
    if dtype.is_integer and given.dtype.kind != "U" and not np.array_equal(made, given):
        raise OverflowError("the number is too large")
    return made
