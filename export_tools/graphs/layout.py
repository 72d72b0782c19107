"""Lays out a graph in layers, one below the other, so that edges point down and cross little.

Existing packages draw a scorer twice as wide: in grandalf and fast-sugiyama no node can give way to another, as the
user's nodes here give way to the spine of item nodes, and networkx does not reduce crossings.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

NODE_WIDTH, NODE_HEIGHT = 178.0, 38.0
LAYER_GAP, GAP = 34.0, 14.0
BEND_WIDTH = 10.0  # Room for an edge that passes through a layer.
ORDER_SWEEPS, PLACE_SWEEPS = 12, 60
SPINE = 20.0  # Weight of a spine node's wish for a place; another node's is 1.

# (node, layer): the node itself in its own layer; in a lower layer, the bend where edges from it pass through.
_Key = tuple[str, int]
Point = tuple[float, float]


class Layout(NamedTuple):
    """The positions of all nodes and edges, in pixels.

    Attributes:
      places: the top left corner of every node.
      bends: for every edge, (source, target), the points at the tops of the layers that it passes through.
      width: of the whole drawing.
      height: of the whole drawing.
    """

    places: dict[str, Point]
    bends: dict[tuple[str, str], list[Point]]
    width: float
    height: float


def layered(inputs: Mapping[str, Sequence[str]], late: Collection[str]) -> Layout:
    """Lays out an acyclic graph.

    Args:
      inputs: the inputs of every node, by node. A node comes after all its inputs.
      late: nodes to place as close above their consumers as possible; others are placed right below their inputs.

    Returns:
      The positions.
    """
    layer = _layers(inputs, late)
    above: dict[_Key, list[_Key]] = {(name, layer[name]): [] for name in inputs}
    below: dict[_Key, list[_Key]] = {(name, layer[name]): [] for name in inputs}
    for name, sources in inputs.items():
        for source in dict.fromkeys(sources):
            lower = (name, layer[name])
            for passed in range(layer[name] - 1, layer[source], -1):
                known = (source, passed) in above
                above.setdefault((source, passed), [])
                below.setdefault((source, passed), []).append(lower)
                above[lower].append((source, passed))
                if known:  # Edges that leave the same node share their bends.
                    break
                lower = (source, passed)
            else:
                below[source, layer[source]].append(lower)
                above[lower].append((source, layer[source]))
    rows: list[list[_Key]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for key in above:
        rows[key[1]].append(key)
    _order(rows, above, below)
    widths = {key: NODE_WIDTH if layer[key[0]] == key[1] else BEND_WIDTH for key in above}
    centre = _place(rows, above, below, widths, late)
    left = min((x - widths[key] / 2 for key, x in centre.items()), default=0.0)
    right = max((x + widths[key] / 2 for key, x in centre.items()), default=0.0)

    def top(row: int) -> float:
        return row * (NODE_HEIGHT + LAYER_GAP)

    return Layout(
        {name: (centre[name, row] - left - NODE_WIDTH / 2, top(row)) for name, row in layer.items()},
        {
            (source, name): [(centre[source, row] - left, top(row)) for row in range(layer[source] + 1, layer[name])]
            for name, sources in inputs.items()
            for source in sources
        },
        right - left,
        max(top(len(rows)) - LAYER_GAP, 0.0),
    )


def _layers(inputs: Mapping[str, Sequence[str]], late: Collection[str]) -> dict[str, int]:
    layer: dict[str, int] = {}
    for name, sources in inputs.items():
        layer[name] = 1 + max((layer[source] for source in sources), default=-1)
    lowest: dict[str, int] = {}
    for name in reversed(list(inputs)):
        if name in late and name in lowest:
            layer[name] = lowest[name]
        for source in inputs[name]:
            lowest[source] = min(lowest.get(source, layer[name] - 1), layer[name] - 1)
    return layer


def _order(rows: list[list[_Key]], above: Mapping[_Key, Sequence[_Key]], below: Mapping[_Key, Sequence[_Key]]) -> None:
    """Sorts every layer by the mean place of the neighbours in the adjacent layer, sweeping down and up in turn."""
    place = {key: float(index) for row in rows for index, key in enumerate(row)}
    for sweep in range(ORDER_SWEEPS):
        neighbours = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = {key: _mean([place[each] for each in neighbours[key]], place[key]) for key in row}
            row.sort(key=wanted.__getitem__)
            # Places are counted from the middle of the layer, so that short layers do not pull the others to the left.
            for index, key in enumerate(row):
                place[key] = index - (len(row) - 1) / 2


def _place(
    rows: Sequence[Sequence[_Key]],
    above: Mapping[_Key, Sequence[_Key]],
    below: Mapping[_Key, Sequence[_Key]],
    widths: Mapping[_Key, float],
    late: Collection[str],
) -> dict[_Key, float]:
    """Returns the x of every centre: as near as possible to its neighbours' mean, in order and without overlap.

    Nodes that are not late form the spine: only their neighbours in the spine count for them, and the late nodes give
    way to them.
    """
    centre: dict[_Key, float] = dict.fromkeys(above, 0.0)
    near = {key: [*above[key], *below[key]] for key in above}
    for key in near:
        if key[0] not in late:
            near[key] = [each for each in near[key] if each[0] not in late]
    for sweep in range(PLACE_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            offsets = [0.0]
            for left, right in itertools.pairwise(row):
                offsets.append(offsets[-1] + (widths[left] + widths[right]) / 2 + GAP)
            wanted = [
                (_mean([centre[each] for each in near[key]], centre[key]) - offset, 1.0 if key[0] in late else SPINE)
                for key, offset in zip(row, offsets, strict=True)
            ]
            for key, offset, found in zip(row, offsets, _increasing(wanted), strict=True):
                centre[key] = found + offset
    return centre


def _increasing(wanted: Sequence[tuple[float, float]]) -> list[float]:
    """Returns the non-decreasing sequence nearest to `wanted`, pairs of value and weight, in weighted least squares."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in wanted:
        total, count = value * weight, 1
        while blocks and blocks[-1][0] / blocks[-1][1] >= total / weight:
            total, weight, count = total + blocks[-1][0], weight + blocks[-1][1], count + blocks[-1][2]
            blocks.pop()
        blocks.append((total, weight, count))
    return [total / weight for total, weight, count in blocks for _ in range(count)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
