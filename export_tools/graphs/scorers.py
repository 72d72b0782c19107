"""Finds the scorers in a SavedModel, the model's own and the one its searches run, by reading only the protos."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from tfserving_ext.errors import NannError
from tfserving_ext.ops._library import load

Library = Mapping[str, function_pb2.FunctionDef]
CALLS = ("PartitionedCall", "StatefulPartitionedCall")
MAX_STEPS = 64  # Most nodes to follow from the use of a variable's handle back to the op that makes it.

SEARCHES = ("Nann>BestFirstSearch", "Nann>RoundsSearch", "Nann>DeployedSearch", "Nann>SurrogateSearch")


class Argument(NamedTuple):
    """An argument of a scorer or of a part of one.

    Attributes:
      kind: "user", "prepared", "item", or "model" for a captured tensor.
      name: the variable's name if it is a variable, else "user 0", "items" and so on.
      dtype: the type as a DataType enum; for a variable, the type of its values.
      shape: [1, ...] for tensors of users and items, with -1 for an extent that is not fixed; None if the rank is
        unknown.
      variable: whether it is a variable's handle.
    """

    kind: str
    name: str
    dtype: int
    shape: tuple[int, ...] | None
    variable: bool = False


class Part(NamedTuple):
    """A function of a scorer.

    Attributes:
      function: its name in the library.
      arguments: its arguments, in order.
    """

    function: str
    arguments: list[Argument]


class Scorers(NamedTuple):
    """The scorers that a SavedModel holds.

    Attributes:
      original: the function `score` (user..., items, captured...), or None.
      searched: what the search runs per batch, (user..., prepared..., items or rows, captured...), or None.
      prepare: what it runs once per user, (user..., captured...), or None.
      fold: the function `fold` (items, captured...), or None.
      library: all functions, by name.
    """

    original: Part | None
    searched: Part | None
    prepare: Part | None
    fold: Part | None
    library: Library


def read_meta_graph(saved_model: str | os.PathLike[str]) -> Any:
    """Reads the first MetaGraphDef of a SavedModel.

    Raises:
      NannError: the folder is not a SavedModel, or it is damaged.
    """
    path = Path(saved_model) / "saved_model.pb"
    if not path.exists():
        raise NannError(f"{path.parent} is not a SavedModel: it has no saved_model.pb; make one with `nann export`")
    try:
        graphs = saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs
    except DecodeError as error:
        raise NannError(f"{path} is damaged: {error}") from error
    if not graphs:
        raise NannError(f"{path} holds no graph")
    return graphs[0]


def read_scorers(meta_graph: Any) -> Scorers:
    """Finds the scorers in a MetaGraphDef.

    Raises:
      NannError: there is no scorer, or the functions contradict each other.
    """
    load()  # Registers the search ops, so that their inputs can be looked up.
    library = {function.signature.name: function for function in meta_graph.graph_def.library.function}
    objects = meta_graph.object_graph_def
    named = {name: _function_of(objects, name, library) for name in ("score", "fold")}
    original = fold = None
    if named["score"] is not None:
        original = _part(*named["score"], _user_and_items)
    if named["fold"] is not None:
        fold = _part(*named["fold"], lambda own: ["item"] if len(own) == 1 else None)
    searched, prepare = _searched(meta_graph.graph_def, library)
    if original is None and searched is None:
        raise NannError("it has no scorer: neither a function `score` of user tensors and items nor a search op")
    return Scorers(original, searched, prepare, fold, library)


def _part(
    function: function_pb2.FunctionDef,
    captured: Sequence[Argument],
    kinds: Callable[[Sequence[Argument]], list[str] | None],
) -> Part | None:
    """Returns a function with its arguments; None if `kinds` does not recognise its own ones, before `captured`."""
    count = len(function.signature.input_arg) - len(captured)
    if count < 0:
        raise NannError(f"function {function.signature.name} captures more than it takes")
    own = [_argument(function, index) for index in range(count)]
    found = kinds(own)
    if found is None:
        return None
    named = [
        one._replace(kind=kind, name="items" if kind == "item" else f"{kind} {found[:index].count(kind)}")
        for index, (one, kind) in enumerate(zip(own, found, strict=True))
    ]
    # The object graph does not give the type of a captured constant, such as the default value of a lookup table.
    taken = function.signature.input_arg[count:]
    typed = [
        one if one.variable else one._replace(dtype=given.type) for one, given in zip(captured, taken, strict=True)
    ]
    return Part(function.signature.name, [*named, *typed])


def _user_and_items(own: Sequence[Argument]) -> list[str] | None:
    items = own[-1] if own else None
    if items is None or items.dtype != tf.float32.as_datatype_enum or items.shape is None or len(items.shape) != 3:
        return None
    return ["user"] * (len(own) - 1) + ["item"] if len(own) > 1 and items.shape[2] > 0 else None


def _argument(function: function_pb2.FunctionDef, index: int) -> Argument:
    """Returns an argument, traced for one user, whose kind and name are still to be filled in."""
    given = function.signature.input_arg[index]
    shape: tuple[int, ...] | None = None
    attributes = function.arg_attr[index].attr if index in function.arg_attr else {}
    if "_output_shapes" in attributes and attributes["_output_shapes"].list.shape:
        shape = _extents(attributes["_output_shapes"].list.shape[0])
    return Argument("", given.name, given.type, (1, *shape[1:]) if shape else shape)


def _extents(shape: Any) -> tuple[int, ...] | None:
    return None if shape.unknown_rank else tuple(dim.size for dim in shape.dim)


def _function_of(objects: Any, name: str, library: Library) -> tuple[function_pb2.FunctionDef, list[Argument]] | None:
    """Returns a function that is saved beside the signatures and its captured arguments; None if there is none."""
    children = {child.local_name: child.node_id for child in objects.nodes[0].children} if objects.nodes else {}
    try:
        concrete = list(objects.nodes[children[name]].function.concrete_functions)
        function = library[concrete[0]]
        bound = objects.concrete_functions[concrete[0]].bound_inputs
        return function, [_captured(objects.nodes[node], number) for number, node in enumerate(bound)]
    except (KeyError, IndexError):
        return None


def _captured(held: Any, number: int) -> Argument:
    if held.WhichOneof("kind") == "variable":
        name = held.variable.name or f"variable {number}"
        return Argument("model", name, held.variable.dtype, _extents(held.variable.shape), variable=True)
    return Argument("model", f"captured {number}", tf.resource.as_datatype_enum, None)


def _searched(graph_def: Any, library: Library) -> tuple[Part | None, Part | None]:
    """Returns the functions that the first search in the graph runs per batch and per user; None for what it lacks."""
    found = _first_search(graph_def, library)
    if found is None:
        return None, None
    search, body = found
    users = len(search.attr["Tuser"].list.type)
    types = search.attr["Tcaptured"].list.type
    inputs = [tensor for tensor in search.input if not tensor.startswith("^")][_inputs_before_user(search.op) + users :]
    if len(inputs) != len(types):
        raise NannError(f"{search.name} has {len(inputs)} captured tensors, but types for {len(types)}")
    captured = [
        _source(body, tensor, dtype, number) for number, (tensor, dtype) in enumerate(zip(inputs, types, strict=True))
    ]

    def kinds(own: Sequence[Argument]) -> list[str] | None:
        prepared = len(own) - users - 1
        return None if prepared < 0 else ["user"] * users + ["prepared"] * prepared + ["item"]

    name = search.attr["scorer"].list.func[0].name
    function = library.get(name)
    if function is None:
        raise NannError(f"{search.name} scores with {name!r}, which is not in its library")
    scorer, prepare = _part(function, captured, kinds), None
    if scorer is None:
        raise NannError(f"{search.name} scores with {function.signature.name}, which takes too few tensors")
    for each in search.attr["prepare"].list.func if "prepare" in search.attr else ():
        if each.name not in library:
            raise NannError(f"{search.name} prepares with {each.name!r}, which is not in its library")
        prepare = _part(library[each.name], captured, lambda own: ["user"] * len(own))
    return scorer, prepare


def _scores(node: node_def_pb2.NodeDef) -> bool:
    """Returns whether a node is a search whose scorer is a function; a search under a metric has none to read."""
    return node.op in SEARCHES and "scorer" in node.attr and len(node.attr["scorer"].list.func) > 0


def _inputs_before_user(op: str) -> int:
    return [argument.name for argument in op_def_registry.get(op).input_arg].index("user")


class _Body(NamedTuple):
    """The nodes of the graph, or of a function that a node in another body calls.

    Attributes:
      nodes: the nodes, by name.
      given: for each argument of the function, by name, the tensor of `caller` that is passed.
      caller: the body that calls this one; None for the graph itself.
    """

    nodes: Mapping[str, node_def_pb2.NodeDef]
    given: Mapping[str, str]
    caller: "_Body | None"


def _first_search(graph_def: Any, library: Library) -> tuple[node_def_pb2.NodeDef, _Body] | None:
    """Finds a search that the graph runs, with its body; searches in loops and in functions not called do not count."""
    bodies, seen = [_Body({node.name: node for node in graph_def.node}, {}, None)], set()
    for body in bodies:
        for node in body.nodes.values():
            if _scores(node):
                return node, body
            name = node.attr["f"].func.name if node.op in CALLS else node.op
            if name in library and name not in seen:
                seen.add(name)
                names = [argument.name for argument in library[name].signature.input_arg]
                nodes = {inner.name: inner for inner in library[name].node_def}
                bodies.append(_Body(nodes, dict(zip(names, node.input, strict=False)), body))
    return None


def _source(body: _Body | None, tensor: str, dtype: int, number: int) -> Argument:
    """Follows a captured tensor to where it comes from, in most cases a variable."""
    node = None
    for _ in range(MAX_STEPS):
        name = tensor.partition(":")[0]
        node = None if body is None else body.nodes.get(name)
        if node is not None and node.op == "Identity":
            tensor = node.input[0]
        elif node is None and body is not None and name in body.given:
            tensor, body = body.given[name], body.caller
        else:
            break
    if node is None or node.op != "VarHandleOp":
        return Argument("model", f"captured {number}", dtype, None)
    name = node.attr["shared_name"].s.decode(errors="replace") if "shared_name" in node.attr else ""
    return Argument("model", name or node.name, node.attr["dtype"].type, _extents(node.attr["shape"].shape), True)
