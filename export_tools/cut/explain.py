"""Says in words where a ranker is cut."""

from collections.abc import Sequence

from export_tools.cut.choose import BOTH, ITEM, USER, Cut, layers, scopes
from export_tools.cut.graph import ANY, Graph

MOST_LAYERS = 12


def lines(graph: Graph, cut: Cut) -> list[str]:
    """Returns the lines that an export prints about a cut."""
    values = sum(graph.tensors[name].width for name in cut.items)
    width = sum(graph.tensors[name].width for name in cut.vectors)
    return [
        f"inputs of the item: {', '.join(_inputs(graph, 'item'))}; of the user: {', '.join(_inputs(graph, 'user'))}",
        f"an item is {values:,} values, {_listed(graph, cut.items)}: {cut.why}",
        f"a user is {_listed(graph, cut.users)}",
        f"the graph is built on {width:,} values, {_listed(graph, cut.vectors)}: {cut.why_vectors}",
    ]


def summary(graph: Graph, cut: Cut) -> str:
    """Returns everything about a cut as text: the inputs, the parts and what each of them is for."""
    counts = {
        side: sum(any(graph.tensors[one].by == by for one in made) for made in graph.made().values())
        for side, by in (("item", ITEM), ("user", USER), ("both", BOTH))
    }
    shown = [
        "inputs of the item",
        *(f"  {name} {graph.types[name].name}" for name in _inputs(graph, "item")),
        "inputs of the user",
        *(f"  {name} {graph.types[name].name}" for name in _inputs(graph, "user")),
        f"once per item, at export: {counts['item']} nodes, of which the scorer takes",
        *_tensors(graph, cut.items),
        f"  which is {cut.why}",
        f"once per request: {counts['user']} nodes, of which the scorer takes",
        *_tensors(graph, cut.users),
        f"for every item that is scored: {counts['both']} nodes",
        "the graph is built on",
        *_tensors(graph, cut.vectors),
        f"  which is {cut.why_vectors}",
    ]
    held = list(dict.fromkeys(layers(graph)))
    if held:
        more = f" and {len(held) - MOST_LAYERS} more" if len(held) > MOST_LAYERS else ""
        shown.append(f"--embedding takes one of the layers {', '.join(held[:MOST_LAYERS])}{more}")
    return "\n".join(shown)


def _inputs(graph: Graph, side: str) -> list[str]:
    return [name for name, tensor in graph.inputs.items() if graph.sides[tensor] == side]


def _tensors(graph: Graph, names: Sequence[str]) -> list[str]:
    return [f"  {_short(graph, name)} {graph.tensors[name].dtype.name} {_row(graph, name)}" for name in names]


def _listed(graph: Graph, names: Sequence[str]) -> str:
    shown = [f"{_short(graph, name)} {_row(graph, name)}" for name in names[:4]]
    return ", ".join(shown) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _row(graph: Graph, name: str) -> str:
    """Returns the shape of a tensor's row in words."""
    shape = graph.tensors[name].shape
    assert shape is not None
    return "[" + ", ".join("any" if extent == ANY else str(extent) for extent in shape[1:]) + "]"


def _short(graph: Graph, name: str) -> str:
    """Returns the input that a tensor is, or its layer, or its op where it is in none."""
    inputs = {tensor: each for each, tensor in graph.inputs.items()}
    return inputs.get(name) or (scopes(name) or [graph.nodes[name.rpartition(":")[0]].op])[-1]
