"""A graph and its layers as compressed sparse rows, and operations on these rows."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROWS_AT_ONCE = 1 << 14


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer's edges: the neighbours of item i are `neighbors[row_splits[i]:row_splits[i + 1]]`.

    Attributes:
      row_splits: int64 [n + 1].
      neighbors: int32 [row_splits[n]].
    """

    row_splits: np.ndarray
    neighbors: np.ndarray


class Graph(NamedTuple):
    """A graph over n items.

    Attributes:
      entry_points: int32 [e], dense indices of the start layer's items.
      layers: the layers below the start layer, ground layer first.
    """

    entry_points: np.ndarray
    layers: Sequence[Layer]


def places(layer: Layer, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places in `neighbors` of the links of `items`, item after item, and each item's number of links.

    Args:
      layer: the layer.
      items: int [m], dense indices.

    Returns:
      int64 [sum of degrees] places, and int64 [m] degrees.
    """
    first = np.asarray(layer.row_splits[items])
    degrees = np.asarray(layer.row_splits[items + 1]) - first
    # For each link: where its item's links begin in `neighbors`, minus the number of links of the items before.
    return np.repeat(first - (np.cumsum(degrees) - degrees), degrees) + np.arange(degrees.sum()), degrees


def with_links(layer: Layer, sources: np.ndarray, targets: np.ndarray) -> Layer:
    """Returns the layer with an added link from each of `sources` to its element of `targets`, after existing links."""
    order = np.argsort(sources, kind="stable")
    sources, targets = sources[order], targets[order]
    neighbors = np.insert(layer.neighbors, layer.row_splits[sources + 1], targets)
    more = np.bincount(sources + 1, minlength=len(layer.row_splits))
    return Layer(layer.row_splits + np.cumsum(more), neighbors)
