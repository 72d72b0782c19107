"""Reads from a model's graph which values its features may have: those that its own tables have a row for.

A feature is followed from the function's input through operations that pass its values on, to where it is looked up:
the vocabulary of StringLookup, IntegerLookup and every other lookup table of TensorFlow; the rows of the table that
Embedding, `tf.gather` or `tf.nn.embedding_lookup` take; and the width of `tf.one_hot`, bincounts and CategoryEncoding.
What is computed from a feature before, such as a hash or a bucket, takes any value. Control flow is not entered.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from export_tools.graphs.inlining import inlined
from tfserving_ext.serving.known_values import KnownValues

# Which of its inputs an operation passes on, all of them if None.
_PASSED: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("Identity", "Reshape", "ExpandDims", "Squeeze", "EnsureShape", "StopGradient"), (0,)),
    **dict.fromkeys(("Transpose", "Tile", "BroadcastTo", "Slice", "StridedSlice", "Snapshot", "Cast", "Unpack"), (0,)),
    **dict.fromkeys(("Pack", "ConcatV2", "IdentityN", "Split", "SplitV"), None),
    # Keras counts negative indices from the end: where(x < 0, x + rows, x).
    **dict.fromkeys(("SelectV2", "Select"), (1, 2)),
    "GatherV2": (0,),
    "Unique": (0,),
}
# Which input of an operation is an index, and which says how many of them there are.
_COUNTED = {"OneHot": (0, 1), "Bincount": (0, 1), "DenseBincount": (0, 1)}
_READS = ("Identity", "ReadVariableOp", "Cast", "StopGradient")


def read_known_values(function: Any, names: Sequence[str]) -> dict[str, KnownValues]:
    """Returns the values that a function's inputs may have, for those that its tables tell of.

    Args:
      function: a concrete function, whose first inputs are those that `names` names, in this order.
      names: the inputs' names.
    """
    graph = _Graph(function, len(names))
    found = {}
    for name, tensor in zip(names, function.inputs, strict=False):
        if tensor.dtype != tf.string and not (tensor.dtype.is_integer or tensor.dtype.is_floating):
            continue
        if (known := graph.known(tensor.name.partition(":")[0])) is None:
            continue
        if (tensor.dtype == tf.string) == (known.values.dtype == object):
            found[name] = known
    return found


class _Graph:
    """The inlined graph of a function, and the variables and tables that it captures."""

    def __init__(self, function: Any, count: int) -> None:
        graph_def = inlined(function)
        self._nodes = {node.name: node for node in graph_def.node}
        inner = (tensor.name.partition(":")[0] for tensor in function.inputs[count:])
        self._captured = dict(zip(inner, function.captured_inputs, strict=True))
        self._takers: dict[str, list[tuple[str, int]]] = {}
        for node in graph_def.node:
            for place, source in enumerate(_sources(node)):
                self._takers.setdefault(source, []).append((node.name, place))

    def known(self, start: str) -> KnownValues | None:
        """Returns the values that all look-ups of a node's values know; None if there is no look-up."""
        found: KnownValues | None = None
        seen, waiting = {start}, [start]
        while waiting:
            for name, place in self._takers.get(waiting.pop(), ()):
                node = self._nodes[name]
                here = self._looked_up(node, place)
                if here is not None:
                    found = here if found is None else found.both(here)
                elif node.op in _PASSED and name not in seen:
                    passed = _PASSED[node.op]
                    if passed is None or place in passed:
                        seen.add(name)
                        waiting.append(name)
        return found

    def _looked_up(self, node: Any, place: int) -> KnownValues | None:
        """Returns the values that a node knows for its input at `place`, if it looks them up."""
        sources = _sources(node)
        if node.op == "LookupTableFindV2" and place == 1:
            return self._vocabulary(node)
        if node.op == "ResourceGather" and place == 1:
            return _range(self._rows(sources[0]))
        if node.op == "GatherV2" and place == 1 and self._constant(sources[2]) == 0:
            return _range(self._rows(sources[0]))
        if node.op in _COUNTED and place == _COUNTED[node.op][0]:
            return _range(self._constant(sources[_COUNTED[node.op][1]]))
        return None

    def _vocabulary(self, node: Any) -> KnownValues | None:
        """Returns the keys of the table in which a node looks up."""
        held = self._captured.get(self._origin(_sources(node)[0]))
        if held is None:
            return None
        try:
            keys, _ = tf.raw_ops.LookupTableExportV2(
                table_handle=held, Tkeys=node.attr["Tin"].type, Tvalues=node.attr["Tout"].type
            )
        except tf.errors.OpError:
            return None  # Not every kind of table lists its keys.
        return KnownValues.of_vocabulary(keys.numpy())

    def _rows(self, name: str) -> int | None:
        """Returns the extent of the first axis of a variable or constant."""
        origin = self._origin(name)
        held = self._captured.get(origin)
        if held is not None:
            shape = tf.raw_ops.VariableShape(input=held) if held.dtype == tf.resource else tf.shape(held)
            return int(shape[0]) if len(shape) else None
        value = self._value(origin)
        return None if value is None or not value.ndim else len(value)

    def _origin(self, name: str) -> str:
        """Returns the node whose value a node hands on."""
        while name in self._nodes and self._nodes[name].op in _READS:
            name = _sources(self._nodes[name])[0]
        return name

    def _constant(self, name: str) -> int | None:
        value = self._value(self._origin(name))
        return None if value is None or value.size != 1 else int(value.ravel()[0])

    def _value(self, name: str) -> np.ndarray | None:
        node = self._nodes.get(name)
        if node is not None and node.op == "Const":
            return tf.make_ndarray(node.attr["value"].tensor)
        held = self._captured.get(name)
        return None if held is None or held.dtype in (tf.resource, tf.variant) else held.numpy()


def _range(below: int | None) -> KnownValues | None:
    return KnownValues.of_range(below) if below is not None and below > 0 else None


def _sources(node: Any) -> list[str]:
    return [one.partition(":")[0] for one in node.input if not one.startswith("^")]
