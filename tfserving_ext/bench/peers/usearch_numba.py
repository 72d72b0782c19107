"""USearch with the model as its metric: the nearest that a general library comes to a search under a neural metric.

The same HNSW graph as ours (by L2 over the item embeddings, M and efConstruction of the paper), walked one item at a
time: at every step USearch calls a function of two vectors, written in loops and compiled by Numba, as USearch's
documentation shows. The graph's entry is USearch's own; a user's history cannot be given to it.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numba
import numpy as np
from usearch.index import CompiledMetric, Index, Matches, MetricKind, MetricSignature

from tfserving_ext.bench.peers.contract import Workload
from tfserving_ext.models import NannAttention, UserTensors
from tfserving_ext.progress import progress

M = 32
EF_CONSTRUCTION = 40
CHUNK = 1 << 12
# A case's number travels as the first coordinate of its query, a float32: above this, neighbours become one.
MAX_CASES = 1 << 24
SIGNATURE = "float32(CPointer(float32), CPointer(float32))"

# A layer: kernel float32 [in, out], bias [out], and the slope [out] of its PReLU; ones where it has none.
DenseLayer = tuple[np.ndarray, np.ndarray, np.ndarray]


class UsearchNumba:
    """USearch's index over the items, with the model's score compiled by Numba as its metric. Follows `Peer`.

    Attributes:
      name: see `Peer`.
      settings: values of `expansion_search`, the `ef` of HNSW.
      metric: minus the score, as a C function of two float32 [dim]: the number of a case, then zeros; and an item.
    """

    name = "usearch"
    settings: Sequence[int] = (200, 400, 800, 1600, 3200)

    def __init__(self, workload: Workload) -> None:
        """Builds the graph and compiles the metric."""
        embeddings = workload.index.embeddings()
        self._item_ids, self._dim = workload.index.item_ids, workload.index.dim
        self._k, self._threads = workload.k, workload.threads
        self._index: Any = Index(
            ndim=self._dim, metric=MetricKind.L2sq, dtype="f32", connectivity=M, expansion_add=EF_CONSTRUCTION
        )
        with progress("usearch: adding items", len(embeddings)) as advance:
            for start in range(0, len(embeddings), CHUNK):
                rows = np.arange(start, min(start + CHUNK, len(embeddings)))
                self._index.add(rows, np.ascontiguousarray(embeddings[rows]), threads=self._threads)
                advance(len(rows))
        self.metric = self.compile_metric(workload.trained.model, workload.user)
        self._index.metric = CompiledMetric(self.metric.address, MetricKind.Unknown, MetricSignature.ArrayArray)

    def __call__(self, first: int, last: int, setting: Any) -> np.ndarray:
        """Answers the cases first to last - 1; see `Peer`."""
        self._index.expansion_search = setting
        queries = np.zeros([last - first, self._dim], np.float32)
        queries[:, 0] = np.arange(first, last)
        found = self._index.search(queries, self._k, threads=self._threads)
        matches = [found] if isinstance(found, Matches) else [found[i] for i in range(len(found))]
        answers = np.full([len(matches), self._k], -1, np.int64)
        for answer, match in zip(answers, matches, strict=True):
            answer[: len(match)] = self._item_ids[match.keys]
        return answers

    def compile_metric(self, model: NannAttention, user: UserTensors) -> Any:
        """Minus the model's score of one pair, compiled.

        Args:
          model: the model.
          user: its user tensors, [N, ...].

        Returns:
          A Numba `cfunc` float32 (float32* query, float32* item), where query[0] is the number of a user, 0 to N - 1,
          and item is [dim]. It may be called from several threads.

        Raises:
          ValueError: there are more users than a query can tell apart.
        """
        if len(user[0]) > MAX_CASES:
            raise ValueError(f"there are {len(user[0])} cases, allowed are {MAX_CASES}")
        arrays = tuple(np.ascontiguousarray(tensor, np.float32) for tensor in user)
        layers = (*_dense_layers(model.query_network), *_dense_layers(model.score_network))
        return numba.cfunc(SIGNATURE)(self.metric_of(model.item_dim, arrays, layers))

    @staticmethod
    def metric_of(dim: int, user: tuple[np.ndarray, ...], layers: tuple[DenseLayer, ...]) -> Any:
        """The metric as a Python function, of the user tensors and of the query's and the score's layers."""
        keys, values, masks = user
        scale = np.float32(keys.shape[2] ** -0.5)
        query_1, query_2, score_1, score_2, score_3, score_out = layers

        def metric(query: Any, item: Any) -> Any:
            number = int(query[0])
            embedding = numba.carray(item, dim)
            attention_query = _dense(_dense(embedding, query_1), query_2)
            logits = np.empty(keys.shape[1], np.float32)
            for place in range(keys.shape[1]):
                total = np.float32(0)
                for i in range(keys.shape[2]):
                    total += keys[number, place, i] * attention_query[i]
                logits[place] = total * scale + masks[number, place]
            attention = np.exp(logits - logits.max())
            attention /= attention.sum()
            inputs = np.zeros(2 * dim, np.float32)
            for place in range(keys.shape[1]):
                for i in range(dim):
                    inputs[i] += attention[place] * values[number, place, i]
            inputs[dim:] = embedding
            return -_dense(_dense(_dense(_dense(inputs, score_1), score_2), score_3), score_out)[0]

        return metric


def _dense_layers(network: keras.Sequential) -> list[DenseLayer]:
    """The layers of a network, as a metric reads them."""
    layers: list[DenseLayer] = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dense):
            kernel = layer.kernel.numpy()
            bias = layer.bias.numpy() if layer.use_bias else np.zeros(kernel.shape[1], np.float32)
            layers.append((kernel, bias, np.ones(kernel.shape[1], np.float32)))
        else:  # The activation of the layer before it.
            layers[-1] = (*layers[-1][:2], layer.alpha.numpy())
    return layers


@numba.njit
def _dense(inputs: Any, layer: Any) -> Any:
    """A layer and its PReLU, [in] to [out]."""
    kernel, bias, slope = layer
    outputs = np.empty(len(bias), np.float32)
    for j in range(len(bias)):
        total = bias[j]
        for i in range(len(inputs)):
            total += inputs[i] * kernel[i, j]
        outputs[j] = total if total > 0 else slope[j] * total
    return outputs
