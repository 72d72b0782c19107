"""USearch with the model as its metric: the closest that a general library comes to a search under a neural metric.

It builds the same kind of HNSW graph as ours (by L2 over the item embeddings, with the paper's M and efConstruction)
and walks it one item at a time: at every step, USearch calls a function of two vectors, written in loops and compiled
by Numba, as its documentation shows. USearch chooses the entry to the graph; it cannot start at a user's history.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numba
import numpy as np
from usearch.index import CompiledMetric, Index, Matches, MetricKind, MetricSignature

from benchmarks.search.peers.peer import Workload
from tfserving_ext.models import NannAttention, UserTensors
from tfserving_ext.progress import progress

M = 32
EF_CONSTRUCTION = 40
CHUNK = 1 << 12
# The number of a case is passed as the first coordinate of its query, a float32, which is exact up to this number.
MAX_CASES = 1 << 24
SIGNATURE = "float32(CPointer(float32), CPointer(float32))"

# A layer: kernel float32 [in, out], bias [out], and the slope [out] of its PReLU, which is ones if it has no PReLU.
DenseLayer = tuple[np.ndarray, np.ndarray, np.ndarray]

# For each user: keys [N, L, K], values [N, L, D] and mask [N, L] of the attention; the tower's vector [N, D]; and for
# the matches, each behaviour's unit vector [N, M, D] and counts [N, M, C]. Parts that a model lacks are empty or zeros.
Users = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
# The centre [D] and stretch [D] applied to e_v before it is scaled to unit length, and how sharply likeness falls off.
Likeness = tuple[np.ndarray, np.ndarray, np.float32]


class UsearchNumba:
    """USearch's index of the items, with the model's score compiled by Numba as its metric. Implements `Peer`.

    Attributes:
      name: see `Peer`.
      settings: values of `expansion_search`, the `ef` of HNSW.
      metric: the negative score, as a C function of two float32 [dim]: a query, which is the number of a case followed
        by zeros, and an item.
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
        """Compiles the negative of the model's score of one pair.

        Args:
          model: the model.
          user: the user tensors of all cases, each [N, ...].

        Returns:
          A Numba `cfunc` float32 (float32* query, float32* item), where query[0] is the number of a user, 0 to N - 1,
          and item is [dim]. It may be called from several threads.

        Raises:
          ValueError: there are more users than a query can distinguish.
        """
        if len(user[0]) > MAX_CASES:
            raise ValueError(f"there are {len(user[0])} cases, allowed are {MAX_CASES}")
        layers = (*_dense_layers(model.query_network), *_dense_layers(model.score_network))
        return numba.cfunc(SIGNATURE)(self.metric_of(_users(model, user), _likeness(model), layers))

    @staticmethod
    def metric_of(users: Users, likeness: Likeness, layers: tuple[DenseLayer, ...]) -> Any:
        """Returns the metric as a Python function; `layers` holds those of the query, then those of the score."""
        keys, values, masks, vectors, units, counts = users
        center, stretch, sharpness = likeness
        dim = values.shape[2]
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
            inputs = np.zeros(2 * dim + counts.shape[2], np.float32)
            for place in range(keys.shape[1]):
                for i in range(dim):
                    inputs[i] += attention[place] * values[number, place, i]
            unit = (embedding - center) * stretch
            unit /= np.sqrt(np.float32((unit * unit).sum()))
            for place in range(units.shape[1]):
                cosine = np.float32(0)
                for i in range(dim):
                    cosine += units[number, place, i] * unit[i]
                gate = np.exp(sharpness * (cosine - np.float32(1)))
                for i in range(counts.shape[2]):
                    inputs[dim + i] += gate * counts[number, place, i]
            inputs[dim : len(inputs) - dim] = np.log1p(inputs[dim : len(inputs) - dim])
            inputs[len(inputs) - dim :] = embedding
            total = np.float32(0)
            for i in range(dim):
                total += vectors[number, i] * embedding[i]
            return -total - _dense(_dense(_dense(_dense(inputs, score_1), score_2), score_3), score_out)[0]

        return metric


def _users(model: NannAttention, user: UserTensors) -> Users:
    keys, values, masks, *others = (np.ascontiguousarray(tensor, np.float32) for tensor in user)
    users, dim = len(keys), model.item_dim
    vectors = others.pop(0) if model.config.pools else np.zeros([users, dim], np.float32)
    nothing = [np.zeros([users, 0, dim], np.float32), np.zeros([users, 0, 0], np.float32)]
    units, counts = others or nothing
    return keys, values, masks, vectors, units, counts


def _likeness(model: NannAttention) -> Likeness:
    if not model.config.matches:
        return np.zeros(model.item_dim, np.float32), np.ones(model.item_dim, np.float32), np.float32(1)
    norm = model.match_norm
    stretch = 1 / np.sqrt(norm.moving_variance.numpy() + np.float32(norm.epsilon))
    return norm.moving_mean.numpy(), stretch.astype(np.float32), np.float32(model.sharpness.numpy())


def _dense_layers(network: keras.Sequential) -> list[DenseLayer]:
    """Returns the layers of a network in the form that a metric reads."""
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
    """Applies a layer and its PReLU, [in] to [out]."""
    kernel, bias, slope = layer
    outputs = np.empty(len(bias), np.float32)
    for j in range(len(bias)):
        total = bias[j]
        for i in range(len(inputs)):
            total += inputs[i] * kernel[i, j]
        outputs[j] = total if total > 0 else slope[j] * total
    return outputs
