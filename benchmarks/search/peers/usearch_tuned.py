"""USearch with a metric tuned by hand: the same layers, in loops that LLVM turns into vector instructions.

Few users would write one for their model; it shows how the library's walk compares with ours once the metric is fast.
"""

from typing import Any

import numba
import numpy as np

from benchmarks.search.peers.usearch_numba import DenseLayer, Likeness, UsearchNumba, Users


class UsearchTuned(UsearchNumba):
    """`UsearchNumba` with the tuned metric. Implements `Peer`."""

    name = "usearch_tuned"

    @staticmethod
    def metric_of(users: Users, likeness: Likeness, layers: tuple[DenseLayer, ...]) -> Any:
        """See `UsearchNumba.metric_of`."""
        keys, values, masks, vectors, units, counts = users
        center, stretch, sharpness = likeness
        dim, seen = values.shape[2], values.shape[2] + counts.shape[2]
        scale = np.float32(keys.shape[2] ** -0.5)
        query_1, query_2, score_1, score_2, score_3, score_out = layers

        def metric(query: Any, item: Any) -> Any:
            number = int(query[0])
            embedding = numba.carray(item, dim)
            attention_query = _dense(_dense(embedding, query_1), query_2)
            attention = _softmax(_dot_rows(keys[number], attention_query, scale, masks[number]))
            inputs = np.empty(seen + dim, np.float32)
            _add_product(attention, values[number], np.zeros(dim, np.float32), inputs[:dim])
            gates = _gates(units[number], _unit(embedding, center, stretch), sharpness)
            _add_product(gates, counts[number], np.zeros(seen - dim, np.float32), inputs[dim:seen])
            inputs[dim:seen] = np.log1p(inputs[dim:seen])
            inputs[seen:] = embedding
            product = _dot(vectors[number], embedding)
            return -product - _dense(_dense(_dense(_dense(inputs, score_1), score_2), score_3), score_out)[0]

        return metric


# The following functions are compiled. Inner loops run over contiguous outputs, and sums may be taken in any order.


@numba.njit(fastmath=True)
def _add_product(inputs: Any, kernel: Any, bias: Any, outputs: Any) -> None:
    """Computes outputs [out] = inputs [in] x kernel [in, out] + bias, four inputs at a time to load sums less often."""
    outputs[:] = bias
    whole = len(inputs) // 4 * 4
    for i in range(0, whole, 4):
        a, b, c, d = inputs[i], inputs[i + 1], inputs[i + 2], inputs[i + 3]
        for j in range(len(outputs)):
            outputs[j] += a * kernel[i, j] + b * kernel[i + 1, j] + c * kernel[i + 2, j] + d * kernel[i + 3, j]
    for i in range(whole, len(inputs)):
        for j in range(len(outputs)):
            outputs[j] += inputs[i] * kernel[i, j]


@numba.njit(fastmath=True)
def _dense(inputs: Any, layer: Any) -> Any:
    """Applies a layer and its PReLU, [in] to [out]."""
    kernel, bias, slope = layer
    outputs = np.empty(len(bias), np.float32)
    _add_product(inputs, kernel, bias, outputs)
    for j in range(len(outputs)):
        outputs[j] = max(outputs[j], np.float32(0)) + slope[j] * min(outputs[j], np.float32(0))
    return outputs


@numba.njit(fastmath=True)
def _dot_rows(rows: Any, vector: Any, scale: Any, bias: Any) -> Any:
    """Computes rows [n, d] x vector [d] x scale + bias [n]."""
    outputs = np.empty(len(rows), np.float32)
    for i in range(len(rows)):
        total = np.float32(0)
        for j in range(len(vector)):
            total += rows[i, j] * vector[j]
        outputs[i] = total * scale + bias[i]
    return outputs


@numba.njit(fastmath=True)
def _dot(one: Any, other: Any) -> Any:
    total = np.float32(0)
    for i in range(len(one)):
        total += one[i] * other[i]
    return total


@numba.njit(fastmath=True)
def _unit(embedding: Any, center: Any, stretch: Any) -> Any:
    """Returns the embedding, centred and stretched, at unit length."""
    moved = (embedding - center) * stretch
    return moved / np.sqrt(_dot(moved, moved))


@numba.njit(fastmath=True)
def _gates(units: Any, unit: Any, sharpness: Any) -> Any:
    """Returns the likeness of each of `units` [n, d] to `unit` [d]."""
    return np.exp(_dot_rows(units, unit, sharpness, np.full(len(units), -sharpness)))


@numba.njit(fastmath=True)
def _softmax(logits: Any) -> Any:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
