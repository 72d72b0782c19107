"""Chooses where a ranker's graph is cut: what the scorer takes of an item, and what it takes of a user."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

import tensorflow as tf

from export_tools.cut.flow import INFINITE, minimum_cut
from export_tools.cut.graph import Graph, Tensor
from tfserving_ext.errors import NannError

# Rows of so many values, or of twice as many as the narrowest have, are taken as late as they can be computed.
WIDE = 64
MOST_VALUES = 1 << 14
# What carrying whole numbers or text costs besides the width: these say nothing to a graph of neighbours.
_OF_INTEGERS, _OF_TEXT = 256, 4096
_DIGITS = 3
BOTH = frozenset(["user", "item"])
USER, ITEM = frozenset(["user"]), frozenset(["item"])


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a ranker is cut.

    Attributes:
      items: the tensors, each with a row per item, that the scorer takes of an item.
      users: the tensors, each with a row per user, that it takes of a user.
      vectors: the tensors of floats that the graph is built on.
      why: why these are the items' tensors, and
      why_vectors: why the graph is built on those, in words.
    """

    items: Sequence[str]
    users: Sequence[str]
    vectors: Sequence[str]
    why: str
    why_vectors: str


def choose(graph: Graph, embedding: str = "") -> Cut:
    """Cuts a graph whose tensors are known.

    Args:
      graph: the graph.
      embedding: the layer whose output the graph of neighbours is built on; "" to choose.

    Raises:
      NannError: the score does not depend on both sides; an item's text or the like would have to reach the scorer; or
        there is no such layer, or it gives no floats of the item alone.
    """
    by = graph.tensors[graph.output].by
    for side, other in (("item", "user"), ("user", "item")):
        if side not in by:
            names = ", ".join(name for name, tensor in graph.inputs.items() if graph.sides[tensor] == side)
            raise NannError(
                f"the score does not depend on any input of the {side} ({names}), so that every {side} would get the "
                f"same from it; allowed is a model whose score depends on the {side} and on the {other}"
            )
    last, narrow = _last(graph), _narrowest(graph)
    if last is None and narrow is None:
        raise NannError(_blocked(graph))
    width = None if last is None else _width(graph, last)
    most = max(WIDE, 0 if narrow is None else 2 * _width(graph, narrow))
    if last is not None and width is not None and (narrow is None or width <= most):
        items, why = last, "what the score takes of an item, as late as it depends on the item alone"
    else:
        assert narrow is not None
        later = "no numbers" if width is None else f"{width:,} values"
        items, why = (
            narrow,
            f"the fewest values from which the rest is computed; where the item meets the user there are {later}",
        )
    if _width(graph, items) > MOST_VALUES:
        raise NannError(
            f"the score takes {_width(graph, items):,} values of each item, allowed are {MOST_VALUES:,}: compute fewer "
            "of the item before it meets the user"
        )
    carried = _in_order(graph, items)
    vectors, why_vectors = _vectors(graph, carried, embedding)
    return Cut(carried, _users(graph, carried), vectors, why, why_vectors)


def _last(graph: Graph) -> set[str] | None:
    """Returns the last tensors with a row per item before the user's are met; None if there are none."""
    found: set[str] = set()
    open_, seen = _met(graph, ITEM), set[str]()
    while open_:
        tensor = open_.pop()
        if tensor in seen or graph.tensors[tensor].by != ITEM:
            continue
        seen.add(tensor)
        if _carried(graph.tensors[tensor]):
            found.add(tensor)
        elif tensor in graph.sides:
            return None
        else:
            open_ += graph.sources(tensor.rpartition(":")[0])
    return found


def _narrowest(graph: Graph) -> set[str] | None:
    """Returns the tensors with a row per item that have the fewest values together; None if there are none."""
    of_items = [name for name, tensor in graph.tensors.items() if tensor.by == ITEM]
    made = graph.made()
    edges = [
        (tensor, result)
        for name in graph.nodes
        for tensor in graph.sources(name)
        for result in made.get(name, ())
        if graph.tensors[tensor].by == graph.tensors[result].by == ITEM
    ]
    costs = {name: _cost(graph.tensors[name]) for name in of_items}
    inputs = [tensor for tensor, side in graph.sides.items() if side == "item" and tensor in costs]
    return minimum_cut(edges, costs, inputs, _met(graph, ITEM))


def _met(graph: Graph, side: frozenset[str]) -> list[str]:
    """Returns the tensors of one side that nodes take which depend on both."""
    made = graph.made()
    return list(
        dict.fromkeys(
            tensor
            for name in graph.nodes
            if any(graph.tensors[one].by == BOTH for one in made.get(name, ()))
            for tensor in graph.sources(name)
            if graph.tensors[tensor].by == side
        )
    )


def _users(graph: Graph, items: Sequence[str]) -> list[str]:
    """Returns the last tensors with a row per user from which, and from the items', the score is computed."""
    found, open_, seen = set[str](), [graph.output], {*items, *graph.counts}
    while open_:
        tensor = open_.pop()
        if tensor in seen or tensor not in graph.tensors:
            continue
        seen.add(tensor)
        known = graph.tensors[tensor]
        if known.by == USER and (tensor in graph.sides or (known.rows and known.dtype != tf.string)):
            found.add(tensor)
        elif tensor.rpartition(":")[0] in graph.nodes:
            open_ += graph.sources(tensor.rpartition(":")[0])
    return _in_order(graph, found)


def _vectors(graph: Graph, items: Sequence[str], embedding: str) -> tuple[list[str], str]:
    """Returns the tensors that the graph is built on, and why."""
    if embedding:
        return [_of_layer(graph, embedding)], f"--embedding {embedding}"
    floats = [name for name in items if graph.tensors[name].dtype.is_floating]
    if len(floats) == len(items):
        return floats, "all that the scorer takes of an item"
    others = [name for name in items if name not in floats]
    first = _first_floats(graph, others)
    if not floats and not first:
        raise NannError(
            "the score takes no floats of an item, nor computes any from its ids, so that there is nothing to build "
            "the graph on: embed the items in the model, or name a layer that does (--embedding LAYER)"
        )
    why = "what the scorer takes of an item" if floats else "no row has floats"
    return _in_order(
        graph, {*floats, *first}
    ), f"{why}; for whole numbers and text, the first floats computed from them"


def _first_floats(graph: Graph, tensors: Iterable[str]) -> set[str]:
    """Returns the first tensors of floats, with a row per item, that are computed from others.

    They may depend on the user, too, as where ids of the item and of a history are looked up in one table. For one and
    the same user, they differ by the item alone.
    """
    made, takers = graph.made(), graph.consumers()
    found, open_, seen = set[str](), list(tensors), set[str]()
    while open_:
        tensor = open_.pop()
        for result in (one for node in takers.get(tensor, ()) for one in made.get(node, ())):
            if result in seen:
                continue
            seen.add(result)
            known = graph.tensors[result]
            if known.dtype.is_floating and known.rows and known.width <= MOST_VALUES:
                found.add(result)
            elif not known.dtype.is_floating or not known.rows:
                open_.append(result)
    return found - {graph.output}


def layers(graph: Graph) -> dict[str, str]:
    """Returns the last tensor of floats that depends on the item alone, with a row per item, of every layer."""
    found: dict[str, str] = {}
    for name, tensor in graph.tensors.items():
        if tensor.by == ITEM and tensor.fixed and tensor.dtype.is_floating and tensor.width:
            found |= dict.fromkeys(scopes(name), name)
    return found


def scopes(tensor: str) -> list[str]:
    """Returns the layers that a tensor's name has, the innermost last."""
    return [part for part in tensor.split("/")[:-1] if not re.match(r"(Stateful)?PartitionedCall", part)]


def _of_layer(graph: Graph, layer: str) -> str:
    """Returns the output of a layer. In a graph, its name may have a number that tells one call from others."""
    known = layers(graph)
    found = [layer] if layer in known else [each for each in known if re.sub(r"(_\d+)+$", "", each) == layer]
    if len(found) == 1:
        return known[found[0]]
    raise NannError(
        f"--embedding is {layer!r}, which is {'more than one layer' if found else 'no layer'} with floats of the item "
        f"alone; allowed are {', '.join(found or known) or 'none'}"
    )


def _carried(tensor: Tensor) -> bool:
    """Returns whether a row of the index can hold a tensor's row."""
    kind = tensor.dtype
    held = kind.is_floating or kind.is_integer or kind.is_bool or kind == tf.string
    return held and tensor.fixed and 0 < tensor.width <= MOST_VALUES


def _cost(tensor: Tensor) -> int:
    if not _carried(tensor):
        return INFINITE
    if tensor.dtype == tf.string:
        return _OF_TEXT + tensor.width
    return tensor.width if tensor.dtype.is_floating else _OF_INTEGERS + _DIGITS * tensor.width


def _width(graph: Graph, tensors: Iterable[str]) -> int:
    return sum(graph.tensors[name].width for name in tensors)


def _in_order(graph: Graph, tensors: Iterable[str]) -> list[str]:
    place = {name: number for number, name in enumerate(graph.tensors)}
    return sorted(tensors, key=place.__getitem__)


def _blocked(graph: Graph) -> str:
    """Says which input of the item meets the user before it can be carried."""
    met = [tensor for tensor in _met(graph, ITEM) if not _carried(graph.tensors[tensor])]
    shown = ", ".join(f"{name} ({graph.tensors[name].dtype.name})" for name in met[:3]) or "a tensor"
    return (
        f"what the item alone decides cannot be told from the rest: {shown} meets the user's inputs, and a row of the "
        "index holds numbers only; embed or encode the item's inputs before they meet the user's"
    )
