"""The graph of a ranker's call, in one piece, and what is known of its tensors."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from export_tools.graphs.inlining import inlined

# A tensor's extents, with `BATCH` for one that is the number of rows and `ANY` for one that requests decide.
BATCH, ANY = -2, -1
# Two runs tell which extents are what: the first numbers are of rows, the second the lengths of extents of any length.
PROBES = ((3, 4), (5, 7))
_NOT_FETCHED = (tf.resource, tf.variant)


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What is known of a tensor.

    Attributes:
      dtype: its type.
      shape: its extents; None for a tensor that cannot be read, such as the handle of a variable.
      by: the inputs that it depends on, "user", "item" or both; empty for weights, constants and numbers of rows.
    """

    dtype: tf.DType
    shape: tuple[int, ...] | None
    by: frozenset[str]

    @property
    def rows(self) -> bool:
        """Whether it has a row of fixed or any extents for each row of the inputs."""
        return self.shape is not None and self.shape[:1] == (BATCH,) and BATCH not in self.shape[1:]

    @property
    def width(self) -> int:
        """Values in a row."""
        assert self.shape is not None
        return int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def fixed(self) -> bool:
        """Whether all rows have the same extents in every request."""
        return self.rows and self.shape is not None and ANY not in self.shape


class Graph:
    """The nodes from which a ranker's score is computed, with all functions inlined.

    Attributes:
      nodes: the nodes by name, inputs first.
      inputs: the tensor of each input by its name.
      types: the type of each input by its name.
      sides: "user" or "item", by the tensor of the input.
      output: the tensor of the score.
      tensors: what is known of every tensor, by name; see `inspect`.
      counts: the shapes of tensors that have a row of fixed extents per row of the inputs, with these extents. Such a
        shape depends on the number of rows alone.
    """

    def __init__(self, function: Any, inputs: Mapping[str, tf.TensorSpec], sides: Mapping[str, str]) -> None:
        """Inlines a function.

        Args:
          function: a concrete function of one tensor for each of `inputs`, which returns the score.
          inputs: specs of its inputs by name, in its order.
          sides: "user" or "item", by the name of the input.
        """
        graph_def = inlined(function)
        self.function = function  # It keeps the variables alive.
        self._library = graph_def.library
        self.types = {name: spec.dtype for name, spec in inputs.items()}
        self.inputs = {name: _full(tensor.name) for name, tensor in zip(inputs, function.inputs, strict=False)}
        self.sides = {self.inputs[name]: side for name, side in sides.items()}
        captured = zip(function.inputs[len(inputs) :], function.captured_inputs, strict=True)
        self._captured = {_full(inner.name): outer for inner, outer in captured}
        self.output = _full(function.outputs[0].name)
        self.nodes = _sorted(graph_def, self.output)
        self.tensors: dict[str, Tensor] = {}
        self.counts: dict[str, tuple[int, ...]] = {}

    def sources(self, name: str) -> list[str]:
        """Returns the tensors that a node takes."""
        return [_full(one) for one in self.nodes[name].input if not one.startswith("^")]

    def inspect(self, examples: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Runs all nodes for each of `PROBES` with the inputs of `examples`, and fills in `tensors` and `counts`."""
        everything = dict.fromkeys([*(one for name in self.nodes for one in self.sources(name)), self.output])
        types = self._types(everything)
        read = [name for name, dtype in types.items() if dtype not in _NOT_FETCHED]
        runs = [self._shapes(read, example) for example in examples]
        found = {name: _shape([run[name] for run in runs]) for name in read}
        by: dict[str, frozenset[str]] = {name: frozenset([side]) for name, side in self.sides.items()}
        for name, node in self.nodes.items():
            sources = self.sources(name)
            if node.op == "Shape" and (shape := found.get(sources[0])) and shape[0] == BATCH and ANY not in shape:
                self.counts[f"{name}:0"] = shape
                sources = []
            depends = frozenset[str]().union(*(by.get(one, frozenset()) for one in sources))
            by |= {one: by.get(one, depends) for one in types if one.rpartition(":")[0] == name}
        self.tensors = {
            name: Tensor(dtype, found.get(name), by.get(name, frozenset())) for name, dtype in types.items()
        }

    def _shapes(self, tensors: Sequence[str], example: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
        """Returns the shapes that tensors have for the inputs of an example."""
        values = {self.inputs[name]: tf.constant(value, self.types[name]) for name, value in example.items()}

        @tf.function(autograph=False)
        def shapes() -> list[tf.Tensor]:
            return [tf.shape(one, tf.int64) for one in self.compute(tensors, values)]

        return {name: tuple(shape.numpy().tolist()) for name, shape in zip(tensors, shapes(), strict=True)}

    def consumers(self) -> dict[str, list[str]]:
        """Returns the nodes that take each tensor."""
        found: dict[str, list[str]] = {}
        for name in self.nodes:
            for one in self.sources(name):
                found.setdefault(one, []).append(name)
        return found

    def made(self) -> dict[str, list[str]]:
        """Returns the tensors that each node makes."""
        found: dict[str, list[str]] = {}
        for tensor in self.tensors:
            found.setdefault(tensor.rpartition(":")[0], []).append(tensor)
        return found

    def needed(self, wanted: Iterable[str], given: Iterable[str]) -> tuple[set[str], set[str]]:
        """Returns the nodes that compute the tensors `wanted`, and those of `given` from which they do."""
        known = {*given, *self._captured, *self.counts}
        nodes: set[str] = set()
        used: set[str] = set()
        open_ = list(wanted)
        while open_:
            tensor = open_.pop()
            name = tensor.rpartition(":")[0]
            if tensor in known:
                used.add(tensor)
            elif name not in nodes:
                nodes.add(name)
                open_ += self.sources(name)
        return nodes, used

    def compute(self, wanted: Sequence[str], given: Mapping[str, tf.Tensor], rows: Any = None) -> list[tf.Tensor]:
        """Adds the nodes that compute tensors to the function that is being traced.

        Args:
          wanted: names of the tensors to return.
          given: values of tensors by name; nothing behind them is computed.
          rows: the number of rows.
        """
        names, used = self.needed(wanted, given)
        part = graph_pb2.GraphDef(library=self._library)
        part.versions.producer = tf.version.GRAPH_DEF_VERSION
        part.node.extend(_bare(node) for name, node in self.nodes.items() if name in names)
        values = {name: self._value(name, given, rows) for name in used}
        taken = {one for name in names for one in self.sources(name)}
        mapped = {name: value for name, value in values.items() if name in taken}
        inside = [name for name in wanted if name not in values]
        computed = tf.graph_util.import_graph_def(part, mapped, return_elements=inside, name="ranker") if inside else []
        for name, tensor in zip(inside, computed, strict=True):
            if (known := self.tensors.get(name)) and known.shape is not None:
                tensor.set_shape([None if extent < 0 else extent for extent in known.shape])
        return [{**values, **dict(zip(inside, computed, strict=True))}[name] for name in wanted]

    def _value(self, name: str, given: Mapping[str, tf.Tensor], rows: Any) -> Any:
        if name in given or name in self._captured:
            held = given[name] if name in given else self._captured[name]
            return tf.compat.v1.get_default_graph().capture(held)
        dtype = self.tensors[name].dtype
        return tf.concat([[tf.cast(rows, dtype)], tf.constant(self.counts[name][1:], dtype)], axis=0)

    def _types(self, tensors: Iterable[str]) -> dict[str, tf.DType]:
        graph = tf.Graph()
        with graph.as_default():
            whole = graph_pb2.GraphDef(library=self._library)
            whole.versions.producer = tf.version.GRAPH_DEF_VERSION
            whole.node.extend(map(_bare, self.nodes.values()))
            tf.graph_util.import_graph_def(whole, name="")
        return {name: graph.get_tensor_by_name(name).dtype for name in tensors}


def _full(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _bare(node: node_def_pb2.NodeDef) -> node_def_pb2.NodeDef:
    """Returns a node without what ties it to others that may not be there: control edges, places, devices."""
    bare = node_def_pb2.NodeDef()
    bare.CopyFrom(node)
    del bare.input[:]
    bare.input.extend(one for one in node.input if not one.startswith("^"))
    bare.device = ""
    bare.attr.pop("_class", None)
    return bare


def _sorted(graph_def: Any, output: str) -> dict[str, node_def_pb2.NodeDef]:
    """Returns the nodes behind a tensor, inputs first."""
    held = {node.name: node for node in graph_def.node}
    done: dict[str, node_def_pb2.NodeDef] = {}
    stack = [(output.rpartition(":")[0], False)]
    while stack:
        name, ready = stack.pop()
        if ready:
            done[name] = held[name]
        elif name not in done:
            stack.append((name, True))
            sources = (one.partition(":")[0] for one in held[name].input if not one.startswith("^"))
            stack += [(one, False) for one in sources if one not in done]
    return done


def _shape(runs: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Returns the extents of a tensor from those in each of `PROBES`."""
    if len({len(shape) for shape in runs}) != 1:
        return None
    rows = tuple(probe[0] for probe in PROBES)
    return tuple(BATCH if each == rows else each[0] if len(set(each)) == 1 else ANY for each in zip(*runs, strict=True))
