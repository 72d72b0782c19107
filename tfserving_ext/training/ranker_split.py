"""A functional Keras model in two parts: up to the vectors of the item, and from them on to the outputs."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from export_tools.cut.choose import WIDE
from export_tools.cut.flow import minimum_cut
from export_tools.sources.functional import Functional
from tfserving_ext.errors import NannError

_ITEM = frozenset(["item"])


class RankerSplit:
    """Computes a functional model in two parts; the second can be computed again from other vectors of the item.

    Attributes:
      layers: the names of the layers that compute the vectors.
    """

    def __init__(self, model: Functional, item_inputs: Collection[str], layer: str = "") -> None:
        """Splits the model.

        Args:
          model: the model.
          item_inputs: its inputs that are the item's; all others are the user's.
          layer: the layer whose output is the item's vector; "" for the floats of the item where they meet the user's,
            or earlier if there are far fewer, as `export` chooses. They may be outputs of several layers.

        Raises:
          NannError: there is no such layer, or it does not compute floats of the item alone; or there are none.
        """
        self._model = model.model
        self._nodes = _in_order(self._model)
        sides = {id(tensor): {"item" if name in item_inputs else "user"} for name, tensor in model.inputs.items()}
        by = {key: frozenset(side) for key, side in sides.items()}
        for node in self._nodes:
            depends = frozenset[str]().union(*(by[id(one)] for one in node.input_tensors))
            by |= dict.fromkeys(map(id, node.outputs), depends)
        self._cut = _of_layer(self._nodes, by, layer) if layer else _where_they_meet(self._nodes, by)
        self.layers = [tensor._keras_history.operation.name for tensor in self._cut]
        behind = set(map(id, self._cut))
        for node in self._nodes:
            if any(id(one) in behind for one in node.input_tensors):
                behind |= set(map(id, node.outputs))
        if behind.isdisjoint(map(id, keras.tree.flatten(self._model.output))):
            raise NannError(f"the layer {layer!r} does not reach the outputs of the model")
        self._behind = [node for node in self._nodes if any(id(one) in behind for one in node.input_tensors)]
        self._before = [node for node in self._nodes if node not in self._behind]

    def before(self, inputs: Any) -> tuple[dict[int, Any], tf.Tensor]:
        """Computes the first part, in training.

        Args:
          inputs: the inputs of a batch, as the model takes them.

        Returns:
          What is computed, which `outputs` takes, and the item's vectors, float32 [B, dim], joined if they are several.
        """
        flat = self._model._standardize_inputs(inputs)
        values = {id(tensor): value for tensor, value in zip(self._model.inputs, flat, strict=True)}
        _run(self._before, values)
        rows = [tf.reshape(tf.cast(values[id(one)], tf.float32), [-1, _width(one)]) for one in self._cut]
        return values, tf.concat(rows, axis=1)

    def outputs(self, values: dict[int, Any], items: tf.Tensor) -> Any:
        """Computes the outputs, in training, as the model returns them.

        Args:
          values: what `before` returned.
          items: the item's vectors, float32 [B, dim].
        """
        values, begin = dict(values), 0
        for one in self._cut:
            end, before = begin + _width(one), values[id(one)]
            given = tf.cast(tf.reshape(items[:, begin:end], tf.shape(before)), before.dtype)
            given.set_shape(before.shape)
            mask = getattr(before, "_keras_mask", None)
            if mask is not None:
                given._keras_mask = mask
            values[id(one)], begin = given, end
        _run(self._behind, values)
        found = keras.tree.map_structure(lambda one: values[id(one)], self._model.output)
        return found[0] if isinstance(found, (list, tuple)) and len(found) == 1 else found


def _in_order(model: Any) -> list[Any]:
    """Returns the calls of layers and operations of which a functional model consists, inputs first."""
    depths = model._nodes_by_depth
    return [node for depth in sorted(depths, reverse=True) for node in depths[depth] if not node.is_input]


def _run(nodes: Iterable[Any], values: dict[int, Any]) -> None:
    """Computes what nodes make, in training, into `values`, by the identity of the symbolic tensors."""
    for node in nodes:
        args, kwargs = node.arguments.fill_in(values)
        if getattr(node.operation, "_call_has_training_arg", False):
            kwargs = {**kwargs, "training": True}
        made = node.operation(*args, **kwargs)
        values.update(zip(map(id, node.outputs), keras.tree.flatten(made), strict=True))


def _width(tensor: Any) -> int:
    return math.prod(tensor.shape[1:])


def _perturbed(tensor: Any) -> bool:
    """Returns whether a tensor can be a vector of the item: floats with the same extents in every row."""
    return "float" in tensor.dtype and None not in tensor.shape[1:] and len(tensor.shape) > 1


def _of_items(nodes: Iterable[Any], by: dict[int, frozenset[str]]) -> dict[str, list[Any]]:
    """Returns, by the name of the layer, the floats that it computes of the item alone."""
    found: dict[str, list[Any]] = {}
    for node in nodes:
        for tensor in node.outputs:
            if by[id(tensor)] == _ITEM and _perturbed(tensor):
                found.setdefault(node.operation.name, []).append(tensor)
    return found


def _of_layer(nodes: Sequence[Any], by: dict[int, frozenset[str]], layer: str) -> list[Any]:
    known = _of_items(nodes, by)
    if len(known.get(layer, [])) != 1:
        count = len(known.get(layer, []))
        raise NannError(
            f"the item's vector is to be the output of the layer {layer!r}, which "
            f"{f'has {count} outputs' if count else 'computes no floats'} of the item alone; allowed are "
            f"{', '.join(name for name, tensors in known.items() if len(tensors) == 1) or 'none'}"
        )
    return known[layer]


def _where_they_meet(nodes: Sequence[Any], by: dict[int, frozenset[str]]) -> list[Any]:
    """Returns the floats of the item where they meet the user's, or the fewest before, as `export_tools.cut.choose`.

    Unlike there, raw inputs are not among them, since a step would move a price by what is much for an embedding.
    """
    tensors = {str(id(one)): one for tensors in _of_items(nodes, by).values() for one in tensors}
    edges, met, begins = [], set[str](), set(tensors)
    for node in nodes:
        taken = [key for one in node.input_tensors if (key := str(id(one))) in tensors]
        made = [str(id(one)) for one in node.outputs]
        if any(by[int(key)] == _ITEM for key in made):
            edges += [(one, other) for one in taken for other in made if other in tensors]
            # A tensor begins paths if some of it is computed from what is no vector, such as ids.
            if taken and len(taken) == len(node.input_tensors):
                begins -= set(made)
        else:
            met |= set(taken)
    costs = {key: _width(one) for key, one in tensors.items()}
    cut = minimum_cut(edges, costs, begins, met) if met else None
    if not cut:
        raise NannError(
            "the model computes no floats of the item alone that meet the user's inputs, so that there is nothing to "
            "move: embed or encode the item's inputs before they meet the user's"
        )
    width = sum(costs[key] for key in met)
    chosen = met if width <= max(WIDE, 2 * sum(costs[key] for key in cut)) else cut
    return [one for key, one in tensors.items() if key in chosen]
