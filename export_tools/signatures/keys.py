"""Item ids that are strings in requests, where the model takes the numbers that they stand for."""

import dataclasses

import tensorflow as tf

from export_tools.sources import Source
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.models import UserTensors


def spelled(source: Source, index: MappedIndex) -> Source:
    """Returns a model whose seeds are strings in requests, if the ids of the index are.

    A model that takes strings itself, by a lookup of its own, is returned unchanged, and so is one without seeds among
    its features.

    Args:
      source: the model.
      index: the index, which knows the number of each string; unknown ones become -1, as padding does.
    """
    if not takes_numbers(source, index.has_keys):
        return source
    seeds = source.seeds
    assert seeds is not None
    spec = source.features[seeds]

    def user(features: dict[str, tf.Tensor]) -> UserTensors:
        return source.user({**features, seeds: tf.cast(index.numbers(features[seeds]), spec.dtype)})

    features = {**source.features, seeds: tf.TensorSpec(spec.shape, tf.string, spec.name)}
    return dataclasses.replace(source, user=user, features=features)


def takes_numbers(source: Source, keyed: bool) -> bool:
    """Returns whether an export maps the strings of a request's history to numbers for the model."""
    return keyed and source.seeds is not None and source.features[source.seeds].dtype != tf.string
