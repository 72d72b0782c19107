"""Functions of a SavedModel as graphs without calls, read from the protos: nothing is loaded, nothing is run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

from tfserving_ext.errors import NannError

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
# A stranger's functions may call themselves, or each two of the next.
MAX_DEPTH = 50
MAX_NODES = 100_000

Library = Mapping[str, function_pb2.FunctionDef]


class Flat(NamedTuple):
    """A function's body; arguments are `_Arg` nodes, results `_Retval` nodes.

    Attributes:
      nodes: with inputs named as in a GraphDef: "node", "node:1", "^node".
      controls: names of the nodes that have run when the function has.
    """

    nodes: list[node_def_pb2.NodeDef]
    controls: list[str]


def split(tensor: str) -> tuple[str, int]:
    """("node", 1) of "node:1"; the output of a control input is -1."""
    if tensor.startswith("^"):
        return tensor[1:], -1
    name, _, output = tensor.partition(":")
    return name, int(output or 0)


def flat_function(function: function_pb2.FunctionDef, library: Library, depth: int = 0) -> Flat:
    """The body of a function with all that it calls inlined, but for what XLA is to compile.

    Raises:
      NannError: an op is not known here, or the functions call each other without end.
    """
    names: dict[str, str] = {}
    body: list[node_def_pb2.NodeDef] = []
    for index, argument in enumerate(function.signature.input_arg):
        node = node_def_pb2.NodeDef(name=argument.name, op="_Arg")
        node.attr["T"].type = argument.type
        node.attr["index"].i = index
        names[argument.name] = argument.name
        body.append(node)
    for node in function.node_def:
        body.append(node_def_pb2.NodeDef())
        body[-1].CopyFrom(node)
        if "_output_shapes" in node.attr:  # They are to be inferred anew, for one user.
            del body[-1].attr["_output_shapes"]
        for nested, output in _outputs(node, library):
            names[nested] = f"{node.name}:{output}" if output else node.name
    for index, result in enumerate(function.signature.output_arg):
        node = node_def_pb2.NodeDef(name=f"nann_result_{index}", op="_Retval", input=[function.ret[result.name]])
        node.attr["T"].type = result.type
        node.attr["index"].i = index
        body.append(node)
    for node in body:
        inputs = [tensor if tensor.startswith("^") else names.get(tensor, "") for tensor in node.input]
        if "" in inputs:
            missing = node.input[inputs.index("")]
            raise NannError(f"function {function.signature.name}: {node.name} takes {missing}, which nothing computes")
        node.input[:] = inputs
    nodes, renamed = _inlined(body, library, depth)
    return Flat(nodes, [name for wait in function.control_ret.values() for name in renamed.get(wait, [wait])])


def flat_graph(nodes: Iterable[node_def_pb2.NodeDef], library: Library) -> list[node_def_pb2.NodeDef]:
    """The nodes of a graph with all that it calls inlined.

    Raises:
      NannError: see `flat_function`.
    """
    copies = graph_pb2.GraphDef(node=nodes).node  # Inlining renames inputs.
    return _inlined(copies, library, 0)[0]


def _inlined(
    body: Iterable[node_def_pb2.NodeDef], library: Library, depth: int
) -> tuple[list[node_def_pb2.NodeDef], dict[str, list[str]]]:
    """Nodes, and for every call that went away the nodes that whoever waits for it waits for now."""
    if depth > MAX_DEPTH:
        raise NannError(f"its functions call each other more than {MAX_DEPTH} deep")
    nodes: list[node_def_pb2.NodeDef] = []
    stands_for: dict[tuple[str, int], str] = {}
    waits: dict[str, list[str]] = {}
    for node in body:
        callee = _callee(node, library)
        if callee is None:
            nodes.append(node)
            continue
        inner = flat_function(callee, library, depth + 1)
        given = [tensor for tensor in node.input if not tensor.startswith("^")]
        controls = [tensor for tensor in node.input if tensor.startswith("^")]
        if len(given) != len(callee.signature.input_arg):
            raise NannError(f"{node.name} calls {callee.signature.name} with {len(given)} tensors")
        for copy in inner.nodes:
            if copy.op == "_Arg":
                stands_for[f"{node.name}/{copy.name}", 0] = given[copy.attr["index"].i]
                continue
            copy.input[:] = [_prefixed(node.name, tensor) for tensor in copy.input]
            if copy.op == "_Retval":
                stands_for[node.name, copy.attr["index"].i] = copy.input[0]
                continue
            copy.name = f"{node.name}/{copy.name}"
            copy.input.extend(controls)
            nodes.append(copy)
        waits[node.name] = [f"{node.name}/{name}" for name in inner.controls]
        if len(nodes) > MAX_NODES:
            raise NannError(f"its functions make more than {MAX_NODES:,} nodes")
    for node in nodes:
        tensors, controls = [], []
        for tensor in node.input:
            if tensor.startswith("^"):
                controls += [f"^{name}" for name in waits.get(tensor[1:], [tensor[1:]])]
                continue
            while split(tensor) in stands_for:
                tensor = stands_for[split(tensor)]
            tensors.append(tensor)
        # An argument that was waited for has gone with its function: it is there from the beginning.
        node.input[:] = tensors + [name for name in dict.fromkeys(controls) if (name[1:], 0) not in stands_for]
    return nodes, waits


def _callee(node: node_def_pb2.NodeDef, library: Library) -> function_pb2.FunctionDef | None:
    name = node.attr["f"].func.name if node.op in CALLS else node.op
    found = library.get(name)
    if found is None or any(
        "_XlaMustCompile" in attr and attr["_XlaMustCompile"].b for attr in (node.attr, found.attr)
    ):
        return None
    return found


def _outputs(node: node_def_pb2.NodeDef, library: Library) -> list[tuple[str, int]]:
    """Names that a function gives the outputs of a node, "node:output:0", with their numbers."""
    called = library.get(node.op)
    definition = called.signature if called is not None else op_def_registry.get(node.op)
    if definition is None:
        raise NannError(f"{node.name} is a {node.op}, an op that this TensorFlow does not know")
    names = []
    for argument in definition.output_arg:
        count = 1
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        names += [f"{node.name}:{argument.name}:{number}" for number in range(count)]
    return [(name, output) for output, name in enumerate(names)]


def _prefixed(prefix: str, tensor: str) -> str:
    return f"^{prefix}/{tensor[1:]}" if tensor.startswith("^") else f"{prefix}/{tensor}"


def used_functions(nodes: Iterable[node_def_pb2.NodeDef], library: Library) -> list[function_pb2.FunctionDef]:
    """The functions that nodes name, such as bodies of loops, and those that these name."""
    found: dict[str, function_pb2.FunctionDef] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        for value in node.attr.values():
            for name in (node.op, value.func.name, *(each.name for each in value.list.func)):
                if name in library and name not in found:
                    found[name] = library[name]
                    waiting += library[name].node_def
    return list(found.values())


def as_function(graph: graph_pb2.GraphDef, specs: Sequence[tf.TensorSpec]) -> Any:
    """The concrete function whose arguments and results are the `_Arg` and `_Retval` nodes of `graph`."""
    body = graph_pb2.GraphDef(versions=graph.versions, library=graph.library)
    arguments, results = {}, {}
    for node in graph.node:
        if node.op == "_Arg":
            arguments[node.name] = node.attr["index"].i
        elif node.op == "_Retval":
            results[node.attr["index"].i] = node.input[0]
        else:
            body.node.add().CopyFrom(node)
    used = {split(tensor)[0] for node in body.node for tensor in node.input}
    wanted = [split(tensor) for _, tensor in sorted(results.items())]

    def function(*tensors: tf.Tensor) -> list[tf.Tensor]:
        mapped = {name: tensors[index] for name, index in arguments.items() if name in used}
        computed = [f"{name}:{output}" for name, output in wanted if name not in arguments]
        found = iter(tf.graph_util.import_graph_def(body, input_map=mapped, return_elements=computed, name=""))
        return [tensors[arguments[name]] if name in arguments else next(found) for name, _ in wanted]

    traced: Callable[..., Any] = function
    return tf.function(traced, autograph=False).get_concrete_function(*specs)
