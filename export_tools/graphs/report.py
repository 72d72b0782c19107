"""The nodes of a scorer and the cost of each, as the reader of scorers in `grappler_passes/` reports them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from export_tools.graphs.scorers import Argument, Library, Part
from tfserving_ext.errors import NannError
from tfserving_ext.ops._library import load
from tfserving_ext.ops._scorer import PassReport, pass_reports

# When the nodes of each part run. A node's name begins with that of its part (grappler_passes/scorer_report.h).
RUNS = {"fold": "export", "prepare": "request", "score": "batch"}


class Edge(NamedTuple):
    """An input of a node.

    Attributes:
      source: name of the node whose output it is.
      shape: the output's shape as text, or "control".
    """

    source: str
    shape: str


class Node(NamedTuple):
    """A node of a scorer, as it is shown.

    Attributes:
      name: unique in the graph.
      label: a readable name.
      op: the TensorFlow op; "argument" and "result" for the scorer's inputs and outputs.
      inputs: the inputs that come from other nodes shown.
      weights: the variables and constants among the inputs, as readable text.
      shape: shape of the first output, such as "[n, 128]".
      depends: what the node is computed from: "weights", "user", "item" or "both".
      runs: when it runs: for every "batch", once per "request", or at "export", once per item.
      multiply_adds: multiply-adds of matrix products, per item if the node depends on items, else per user.
      elements: number of elements in the outputs, per item or user likewise.
      known: False for a product whose shapes are unknown, such as after a loop; its multiply-adds are then 0.
      added_by: the pass that added the node; "" for a node of the model itself.
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
    added_by: str = ""

    @property
    def of_items(self) -> bool:
        """Whether the costs are per item."""
        return self.depends in ("item", "both")

    @property
    def computes(self) -> bool:
        """Whether it is an op, and not an argument or a result."""
        return self.op not in ("argument", "result")


class _Calls:
    """Builds a graph that calls the parts of a scorer, one part taking what another prepares or folds."""

    def __init__(self, library: Library) -> None:
        self.graph = graph_pb2.GraphDef()
        self.graph.versions.producer = tf.version.GRAPH_DEF_VERSION
        self.graph.library.function.extend(library.values())
        self.arguments: dict[str, Argument] = {}
        self._made: dict[str, str] = {}
        self._library = library

    def call(self, name: str, part: Part, given: Mapping[str, str]) -> list[str]:
        """Adds a call of a part and returns the names of its results; `given` maps argument names to tensors."""
        inputs = [given.get(one.name) or self._argument(one) for one in part.arguments]
        self.graph.node.add(name=name, op=part.function, input=inputs)
        return [f"{name}:{number}" for number in range(len(self._results(part)))]

    def finish(self, score: Part, given: Mapping[str, str]) -> None:
        """Adds a call of `score`, the part whose results are the scorer's."""
        results = zip(self._results(score), self.call("score", score, given), strict=True)
        for number, (result, tensor) in enumerate(results):
            node = self.graph.node.add(name=f"result_{number}", op="_Retval", input=[tensor])
            node.attr["T"].type = result.type
            node.attr["index"].i = number

    def _results(self, part: Part) -> Sequence[Any]:
        return self._library[part.function].signature.output_arg

    def _argument(self, argument: Argument) -> str:
        # Parts share the user's tensors and the items. Variables are not shared, as several may have the same name.
        shared = argument.name if argument.kind != "model" else None
        name = self._made.get(shared) if shared else None
        if name is None:
            name = f"argument_{len(self.arguments)}"
            self.arguments[name] = argument
            if shared:
                self._made[shared] = name
            node = self.graph.node.add(name=name, op="VarHandleOp" if argument.variable else "Placeholder")
            node.attr["_kind"].s = {"prepared": "user"}.get(argument.kind, argument.kind).encode()
            node.attr["dtype"].type = argument.dtype
            shape = node.attr["shape"].shape
            shape.unknown_rank = argument.shape is None
            for extent in argument.shape or ():
                shape.dim.add().size = extent
        return name


def described(library: Library, score: Part, prepare: Part | None = None, fold: Part | None = None) -> list[Node]:
    """Returns the nodes of a scorer, inputs first, with the cost of each.

    Args:
      library: all functions, by name.
      score: (user..., prepared..., items or rows, captured...) -> scores; runs for every batch.
      prepare: (user..., captured...) -> prepared..., in the order in which `score` takes them.
      fold: (items, captured...) -> rows.

    Raises:
      NannError: shapes contradict each other, or the graph cannot be read.
    """
    calls = _Calls(library)
    given: dict[str, str] = {}
    if prepare is not None:
        given |= {f"prepared {number}": tensor for number, tensor in enumerate(calls.call("prepare", prepare, {}))}
    if fold is not None:
        given["items"] = calls.call("fold", fold, {})[0]
    calls.finish(score, given)
    try:
        made = load().nann_describe_scorer(calls=calls.graph.SerializeToString())
    except tf.errors.OpError as error:
        raise NannError(f"the scorer's graph cannot be read: {(str(error).splitlines() or [''])[0]}") from error
    return _nodes(made, calls.arguments)


def rewritten(library: Library, score: Part, fold_items: bool) -> tuple[tuple[PassReport, ...], list[Node]]:
    """Runs the passes on a scorer; returns what each of them did, and the nodes of the rewritten scorer.

    Raises:
      tf.errors.OpError: the scorer cannot be rewritten.
    """
    calls = _Calls(library)
    calls.finish(score, {})
    made = load().nann_describe_scorer(calls=calls.graph.SerializeToString(), rewrite=True, fold_items=fold_items)
    return pass_reports(made), _nodes(made, calls.arguments, "score/")


def _nodes(made: Any, arguments: Mapping[str, Argument], scope: str = "") -> list[Node]:
    """Makes the nodes to show; the model's own name of a node follows that of its part and `scope`."""
    nodes = graph_pb2.GraphDef.FromString(made.nodes.numpy()).node
    shapes = {node.name: [shape.decode() for shape in node.attr["shapes"].list.s] for node in nodes}
    hidden: dict[str, str] = {}  # Constants and variables: listed as weights of their consumers, not shown as nodes.
    found: list[Node] = []
    results = [node.name for node in nodes if node.op == "_Retval"]
    for node, (multiply_adds, elements) in zip(nodes, made.costs.numpy().tolist(), strict=True):
        sources = [_split(tensor) for tensor in node.input]
        weight = _weight(node, arguments, shapes)
        if weight:
            hidden[node.name] = weight
            continue
        shown = [
            Edge(name, shapes[name][output] if output >= 0 else "control")
            for name, output in sources
            if name not in hidden
        ]
        part, _, name = node.name.removeprefix("Func/").partition("/")  # Inputs of inlined calls are named "Func/...".
        own, op, runs, label = shapes[node.name], node.op, RUNS.get(part, "batch"), _label(name.removeprefix(scope))
        if node.op == "_Arg":
            op, label, runs = "argument", arguments[node.name].name, "request"
        elif node.op == "_Retval":
            op, label = "result", "scores" if len(results) == 1 else node.name.replace("_", " ")
            own = [shapes[name][output] for name, output in sources]
        found.append(
            Node(
                name=node.name,
                label=label,
                op=op,
                inputs=tuple(shown),
                weights=tuple(dict.fromkeys(hidden[name] for name, _ in sources if name in hidden)),
                shape=own[0] if own else "",
                depends=node.attr["depends"].s.decode(),
                runs=runs,
                multiply_adds=0.0 if math.isnan(multiply_adds) else multiply_adds,
                elements=round(elements, 3),  # A node that gives a shape has close to none per item.
                known=not math.isnan(multiply_adds),
                added_by=node.attr["pass"].s.decode(),
            )
        )
    return sorted(found, key=lambda node: node.op == "result")


def _weight(
    node: node_def_pb2.NodeDef, arguments: Mapping[str, Argument], shapes: Mapping[str, Sequence[str]]
) -> str | None:
    """Returns a readable name for a constant, a variable or the read of one; None for any other node."""
    if node.op == "Const":
        return f"constant {shapes[node.name][0]}"
    argument = arguments.get(_split(node.input[0])[0] if node.op == "ReadVariableOp" else node.name)
    if argument is None or argument.kind != "model":
        return None
    if argument.shape is None:
        return f"{argument.name} [?]"
    return f"{argument.name} [{', '.join('?' if extent < 0 else str(extent) for extent in argument.shape)}]"


def _split(tensor: str) -> tuple[str, int]:
    """Splits "node:1" into ("node", 1); a control input gets output -1."""
    if tensor.startswith("^"):
        return tensor[1:], -1
    name, _, output = tensor.partition(":")
    return name, int(output or 0)


def _label(name: str) -> str:
    """Returns a node's name as the model gave it, without the names of inlined calls."""
    return re.sub(r"(^|/)(Stateful)?PartitionedCall(_\d+)?(?=/)", "", name).lstrip("/")
