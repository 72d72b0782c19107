"""What of a scorer's graph counts, as the passes see it (grappler_passes/scorer_graph.cc)."""

from collections.abc import Mapping, Sequence

from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

from export_tools.graphs.flat import split

# Ops that TensorFlow calls stateful because they read what others write; nothing in a scorer writes.
READERS = (
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VariableShape",
    "LookupTableFindV2",
    "LookupTableSizeV2",
    "PartitionedCall",
    "Placeholder",
    "VarHandleOp",
)
COPIES = ("Identity", "StopGradient", "PreventGradient")


def pruned(graph: graph_pb2.GraphDef, results: Sequence[str]) -> tuple[list[node_def_pb2.NodeDef], list[str]]:
    """What the results or a side effect need, inputs first, without copies and idle waiting; and the results."""
    nodes = {node.name: node for node in graph.node}
    order = _inputs_first(nodes, list(nodes))
    # Waiting for a node matters where that, or something that it is computed from, has an effect.
    effects: dict[str, set[str]] = {}
    for name in order:
        effects[name] = {name} if has_effect(nodes[name]) else set()
        effects[name].update(*(effects[split(tensor)[0]] for tensor in nodes[name].input))
    waited: set[str] = set()
    for node in nodes.values():
        controls = {name for tensor in node.input if tensor.startswith("^") for name in effects[tensor[1:]]}
        node.input[:] = [tensor for tensor in node.input if not tensor.startswith("^")]
        node.input.extend(f"^{name}" for name in sorted(controls))
        waited |= controls
    stands_for: dict[str, str] = {}
    for name in order:
        node = nodes[name]
        node.input[:] = [stands_for.get(tensor, tensor) for tensor in node.input]
        if node.op in COPIES and name not in waited and len(node.input) == 1:
            stands_for[name] = node.input[0]
    results = [stands_for.get(tensor, tensor) for tensor in results]
    wanted = [split(tensor)[0] for tensor in results] + [name for name in order if has_effect(nodes[name])]
    return [nodes[name] for name in _inputs_first(nodes, wanted)], results


def _inputs_first(nodes: Mapping[str, node_def_pb2.NodeDef], wanted: Sequence[str]) -> list[str]:
    """Names of the wanted nodes and of all that they need; a cycle, of loops as sessions run them, is a ValueError."""
    state: dict[str, bool] = {}  # Whether a node is done.
    order: list[str] = []
    waiting = [(name, False) for name in reversed(wanted)]
    while waiting:
        name, done = waiting.pop()
        if done:
            state[name] = True
            order.append(name)
        elif name not in state:
            state[name] = False
            waiting.append((name, True))
            for source in reversed([split(tensor)[0] for tensor in nodes[name].input]):
                if state.get(source) is False:
                    raise ValueError(f"{name} is computed from itself")
                waiting.append((source, False))
    return order


def has_effect(node: node_def_pb2.NodeDef) -> bool:
    """Whether running it could be noticed but for its outputs."""
    definition = op_def_registry.get(node.op)
    stateful = definition is not None and definition.is_stateful
    return stateful and node.op not in READERS
