"""What each node of a scorer costs: its shapes with the number of items left open, and its multiply-adds."""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, versions_pb2

from export_tools.graphs.flat import Library, split, used_functions
from export_tools.graphs.prune import has_effect, pruned
from export_tools.graphs.scorers import Argument, Part
from tfserving_ext.errors import NannError

# Shapes are inferred for this many items, a prime that no model is as wide as, so that all are static: as the passes
# do it (grappler_passes/scorer_graph.h).
ITEMS = 1_000_003
USER, ITEM = 1, 2

Shape = tuple[int, ...]


class Edge(NamedTuple):
    """What a node takes of another: `source` is its name, `shape` for people."""

    source: str
    shape: str


class Node(NamedTuple):
    """A node of a scorer, as it is shown.

    Attributes:
      name: unique in the graph.
      label: for people.
      op: TensorFlow's; "argument" and "result" for what goes in and comes out.
      inputs: from other nodes that are shown.
      weights: variables and constants among the inputs, for people.
      shape: of the first output, as "[n, 128]".
      depends: "weights", "user", "item" or "both": what it is computed from.
      runs: "batch", "request" or "export", that is once per item.
      multiply_adds: of matrix products; per item where it depends on items, else per user.
      elements: of the outputs, likewise.
      known: False for a product whose shapes are not known, such as behind a loop; its multiply-adds are left out.
    """

    name: str
    label: str
    op: str
    inputs: tuple[Edge, ...]
    weights: tuple[str, ...]
    shape: str
    depends: str
    runs: str
    multiply_adds: float
    elements: float
    known: bool = True

    @property
    def of_items(self) -> bool:
        """Whether the costs are per item."""
        return self.depends in ("item", "both")

    @property
    def computes(self) -> bool:
        """Whether it is an op, and not an argument or a result."""
        return self.op not in ("argument", "result")


class _Merged:
    """Parts of a scorer as one graph: what one prepares or folds is what another takes."""

    def __init__(self) -> None:
        self.graph = graph_pb2.GraphDef(versions=versions_pb2.VersionDef(producer=tf.version.GRAPH_DEF_VERSION))
        self.arguments: dict[str, Argument] = {}
        self.runs: dict[str, str] = {}
        self._made: dict[tuple[str, str], str] = {}

    def add(self, prefix: str, runs: str, part: Part, given: Mapping[str, str]) -> list[str]:
        """Adds a part; `given` are tensors for arguments, by their names. Returns the results' tensors."""
        renamed, results = {}, {}
        for node in part.nodes:
            if node.op == "_Arg":
                argument = part.arguments[node.attr["index"].i]
                name = argument.name
                if argument.kind == "model":  # Many variables may have the same name.
                    name = f"{prefix} {node.attr['index'].i}"
                    renamed[node.name] = self._argument(argument, name)
                else:
                    renamed[node.name] = given.get(name) or self._argument(argument, name)
        for node in part.nodes:
            if node.op == "_Arg":
                continue
            inputs = []
            for tensor in node.input:
                name, output = split(tensor)
                if output < 0:
                    inputs += [] if name in renamed else [f"^{prefix}/{name}"]
                else:
                    inputs.append(renamed.get(name) or f"{prefix}/{name}" + (f":{output}" if output else ""))
            if node.op == "_Retval":
                results[node.attr["index"].i] = inputs[0]
                continue
            copy = self.graph.node.add()
            copy.CopyFrom(node)
            copy.name, copy.device = f"{prefix}/{node.name}", ""
            copy.input[:] = inputs
            for stale in ("_class", "_output_shapes"):  # Names of nodes, and shapes of other arguments.
                if stale in copy.attr:
                    del copy.attr[stale]
            self.runs[copy.name] = runs
        return [results[index] for index in sorted(results)]

    def _argument(self, argument: Argument, name: str) -> str:
        key = (argument.kind, name)
        if key not in self._made:
            name = f"argument_{len(self._made)}"
            self._made[key], self.arguments[name] = name, argument
            node = self.graph.node.add(name=name, op="VarHandleOp" if argument.variable else "Placeholder")
            node.attr["dtype"].type = argument.dtype
            if argument.shape is None:
                node.attr["shape"].shape.unknown_rank = True
            elif not argument.shape:  # A scalar's has no extent to add, by which it would be there.
                node.attr["shape"].shape.SetInParent()
            for place, extent in enumerate(argument.shape or ()):
                many = argument.kind == "item" and place == 1
                node.attr["shape"].shape.dim.add().size = ITEMS if many else extent
        return self._made[key]


def costed(library: Library, score: Part, prepare: Part | None = None, fold: Part | None = None) -> list[Node]:
    """The nodes of a scorer, inputs first, with what each costs.

    Args:
      library: of functions that nodes name.
      score: (user..., prepared..., items or rows, captured...) -> scores; what runs per batch.
      prepare: (user..., captured...) -> prepared..., in the order of `score`.
      fold: (items, captured...) -> rows.

    Raises:
      NannError: shapes contradict each other, or the graph cannot be read.
    """
    merged = _Merged()
    given: dict[str, str] = {}
    if prepare is not None:
        for number, tensor in enumerate(merged.add("prepare", "request", prepare, {})):
            given[f"prepared {number}"] = tensor
    if fold is not None:
        given["items"] = merged.add("fold", "export", fold, {})[0]
    results = merged.add("score", "batch", score, given)
    merged.graph.library.function.extend(used_functions(merged.graph.node, library))
    try:
        return _nodes(merged, results)
    except (ValueError, KeyError, IndexError, tf.errors.OpError) as error:
        raise NannError(f"the scorer's graph cannot be read: {(str(error).splitlines() or [''])[0]}") from error


def _nodes(merged: _Merged, results: Sequence[str]) -> list[Node]:
    ordered, results = pruned(merged.graph, results)
    shapes = _shapes(merged.graph)
    depends: dict[str, int] = {}
    found: list[Node] = []
    hidden: dict[str, str] = {}  # Constants and variables: in a label of what takes them, not nodes of their own.
    for node in ordered:
        sources = [split(tensor) for tensor in node.input]
        depends[node.name] = _own_dependence(node, merged.arguments.get(node.name))
        for name, _ in sources:
            depends[node.name] |= depends[name]
        variable = merged.arguments.get(sources[0][0] if node.op == "ReadVariableOp" else node.name)
        out = shapes[node.name]
        if node.op == "Const":
            hidden[node.name] = f"constant {shown(out[0])}"
            continue
        if variable is not None and variable.kind == "model":
            hidden[node.name] = f"{variable.name} {shown(variable.shape)}"
            continue
        items = bool(depends[node.name] & ITEM)
        takes = [shapes[name][output] for name, output in sources if output >= 0]
        product = node.op in ("MatMul", "_FusedMatMul", "Einsum") or node.op.startswith("BatchMatMul")
        known = all(shape is not None and min(shape, default=0) >= 0 for shape in (*takes, *out))
        multiply_adds = _multiply_adds(node, takes, out) if product and known else 0.0
        elements = float(sum(_size(shape) for shape in out))
        found.append(
            Node(
                name=node.name,
                label=_label(node.name) or merged.arguments[node.name].name,
                op="argument" if node.name in merged.arguments else node.op,
                inputs=tuple(
                    Edge(name, shown(shapes[name][output]) if output >= 0 else "control")
                    for name, output in sources
                    if name not in hidden
                ),
                weights=tuple(dict.fromkeys(hidden[name] for name, _ in sources if name in hidden)),
                shape=shown(out[0]) if out else "",
                depends=("weights", "user", "item", "both")[depends[node.name]],
                runs=merged.runs.get(node.name, "request"),
                multiply_adds=multiply_adds / ITEMS if items else multiply_adds,
                elements=round(elements / ITEMS, 3) if items else elements,  # A shape has none per item.
                known=known or not product,
            )
        )
    for number, tensor in enumerate(results):
        name, output = split(tensor)
        shape, kind = shown(shapes[name][output]), ("weights", "user", "item", "both")[depends[name]]
        edges = () if name in hidden else (Edge(name, shape),)
        label = "scores" if len(results) == 1 else f"result {number}"
        found.append(Node(f"result_{number}", label, "result", edges, (), shape, kind, "batch", 0, 0))
    return found


def _label(name: str) -> str:
    """A node's name as the model has it: without the part that it was in, and calls that were inlined."""
    return re.sub(r"(^|/)(Stateful)?PartitionedCall(_\d+)?(?=/)", "", name.partition("/")[2]).lstrip("/")


def _own_dependence(node: node_def_pb2.NodeDef, argument: Argument | None) -> int:
    if argument is not None:
        return {"user": USER, "item": ITEM, "prepared": USER}.get(argument.kind, 0)
    # What has an effect, or looks at a shape, must run as often as it did.
    return USER | ITEM if has_effect(node) or node.op in ("Shape", "Size") else 0


def _shapes(graph: graph_pb2.GraphDef) -> dict[str, list[Shape | None]]:
    with tf.Graph().as_default() as imported:
        tf.graph_util.import_graph_def(graph, name="")
        return {
            operation.name: [
                None if tensor.shape.rank is None else tuple(-1 if e is None else e for e in tensor.shape)
                for tensor in operation.outputs
            ]
            for operation in imported.get_operations()
        }


def _multiply_adds(node: node_def_pb2.NodeDef, inputs: Sequence[Shape | None], out: Sequence[Shape | None]) -> float:
    """Multiply-adds of a product of known shapes."""
    if node.op == "Einsum":
        return _of_einsum(node.attr["equation"].s.decode(), inputs)
    left = inputs[0] if inputs else None
    if left is None or len(left) < 2:
        return 0.0
    transposed = node.attr["adj_x" if node.op.startswith("Batch") else "transpose_a"].b
    return float(_size(out[0]) * left[-2 if transposed else -1])


def _of_einsum(equation: str, inputs: Sequence[Shape | None]) -> float:
    """All extents that the terms name, multiplied; dimensions behind an ellipsis are those of the longest."""
    extents: dict[str, int] = {}
    for term, shape in zip(equation.partition("->")[0].replace(" ", "").split(","), inputs, strict=False):
        if shape is None:
            return 0.0
        before, ellipsis, after = term.partition("...")
        unnamed = len(shape) - len(before) - len(after) if ellipsis else 0
        labels = [*before, *(f"...{unnamed - place}" for place in range(unnamed)), *after]
        for label, extent in zip(labels, shape, strict=False):
            extents[label] = max(extents.get(label, 1), extent)
    product = 1
    for label, extent in extents.items():
        product *= extent if label[0] in string.ascii_letters + "." else 1
    return float(product)


def _size(shape: Shape | None) -> int:
    size = 1 if shape is not None else 0
    for extent in shape or ():
        size *= max(extent, 0)
    return size


def shown(shape: Iterable[Any] | None) -> str:
    """A shape for people: n is the number of items, ? what is not known."""
    if shape is None:
        return "[?]"
    return f"[{', '.join(_extent(extent) for extent in shape)}]"


def _extent(extent: int) -> str:
    if extent < 0:
        return "?"
    if extent == 0 or extent % ITEMS:
        return str(extent)
    return "n" if extent == ITEMS else f"{extent // ITEMS}n"
