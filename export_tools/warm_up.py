"""Warm-up records: requests that TensorFlow Serving runs before a version takes traffic.

There is a `retrieve` for every batch size in the scorer's grid, one more with a typical history, and one request for
every other signature. A record that fails keeps the version from being served, so that a server without the ops reports
this at once.
"""

import dataclasses
import itertools
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export_tools.graphs.scorers import read_meta_graph
from export_tools.signatures import LEVEL_TOPN_LENGTH
from export_tools.sources import Source
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.index.format import Index
from tfserving_ext.index.item_keys import NO_KEY
from tfserving_ext.serving.known_values import KnownValues, known_values
from tfserving_ext.serving.warm_up import FILE as WARM_UP_FILE

EXAMPLE_HISTORY = 50
EXAMPLE_K = 200
# Extent given to every unknown dimension of a made-up feature except the first, the batch.
EXAMPLE_LENGTH = 4


@dataclasses.dataclass(frozen=True)
class Examples:
    """The parts from which example requests are made, for the warm-up records and for the users of `verify`.

    Attributes:
      features: specs of the inputs that a request of one user must carry, except the seeds.
      known: the values that the model knows, by feature; others are ones, or the text "1".
      parallel: names of the features that have an entry for every seed in their second dimension.
      seeds: name of the input that takes the ids from which the search starts.
      dtype: type of these ids; object for strings.
      length: how many ids a request must carry; None for any number.
      width: width of `comm_seq`, the input of alibaba/nann; None if the model does not take it.
    """

    features: Mapping[str, tf.TensorSpec]
    known: Mapping[str, KnownValues]
    parallel: frozenset[str]
    seeds: str
    dtype: np.dtype
    length: int | None
    width: int | None

    @classmethod
    def of_source(cls, source: Source, id_dtype: tf.DType = tf.int64) -> "Examples":
        """Returns example requests for a model; `id_dtype` is the type of ids in `seeds`, if no feature holds them."""
        required = {name: spec for name, spec in source.features.items() if name not in source.defaults}
        width = source.sequence.width if source.sequence else None
        return cls._from_specs(required, source.known, source.seeds, width, id_dtype)

    @classmethod
    def of_export(cls, folder: Path, seeds: str | None) -> "Examples":
        """Returns example requests for an export.

        Args:
          folder: the SavedModel's folder.
          seeds: the feature that holds the seeds; None if the input `seeds` does.

        Raises:
          NannError: `folder` is not a SavedModel, or has no signature `retrieve`.
        """
        signatures = read_meta_graph(folder).signature_def
        if "retrieve" not in signatures:
            raise NannError(
                f"{folder} has no signature 'retrieve', which every export has; it has {', '.join(signatures)}"
            )
        retrieve, deployed = signatures["retrieve"], signatures["serving_default"].inputs
        required = {
            name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.dtypes.as_dtype(info.dtype))
            for name, info in sorted(retrieve.inputs.items())
            if name not in retrieve.defaults
        }
        width = deployed["comm_seq"].tensor_shape.dim[1].size if "level_topn" in deployed else None
        id_dtype = tf.int64 if seeds else tf.dtypes.as_dtype(retrieve.inputs["seeds"].dtype)
        return cls._from_specs(required, known_values(folder), seeds, width, id_dtype)

    @classmethod
    def _from_specs(
        cls,
        required: Mapping[str, tf.TensorSpec],
        known: Mapping[str, KnownValues],
        seeds: str | None,
        width: int | None,
        id_dtype: tf.DType,
    ) -> "Examples":
        features = {name: spec for name, spec in required.items() if name != seeds}
        # Beside a history, features of any length are taken to be as long as it: its categories, its times.
        parallel = {name for name in features if seeds and required[name].shape[1:2].as_list() == [None]}
        dtype = np.dtype((required[seeds].dtype if seeds else id_dtype).as_numpy_dtype)
        length = required[seeds].shape[1] if seeds else None
        return cls(features, known, frozenset(parallel), seeds or "seeds", dtype, length, width)

    @property
    def padding(self) -> int | str:
        """The id that stands for no item."""
        return NO_KEY if self.dtype == object else NO_ITEM

    def seeds_of(self, index: Index, rows: Any) -> np.ndarray:
        """Returns the ids of items as these requests have them: strings, or integers [m]."""
        return index.ids(rows) if self.dtype == object else np.asarray(index.item_ids)[rows]

    def inputs(self, seeds: np.ndarray, user: int = 0) -> dict[str, np.ndarray]:
        """Returns the inputs of `retrieve` for one user with `seeds`, of the type that `seeds_of` returns, [s].

        Users with another number `user` have other values, of those that the model knows.

        If the model takes another number of ids, they are repeated or cut: repeating an id does not change the search,
        and every model can handle its own items. An id that means "none" would be better, but it is not known here.
        """
        if self.length is not None:
            seeds = np.resize(seeds, self.length) if len(seeds) else np.full(self.length, self.padding)
        random = np.random.default_rng(user)
        made = {}
        for name, spec in sorted(self.features.items()):
            shape = [1, *(EXAMPLE_LENGTH if size is None else size for size in spec.shape[1:])]
            if name in self.parallel:
                shape[1] = len(seeds)
            made[name] = example(spec.dtype, shape, self.known.get(name), random)
        return {**made, self.seeds: seeds[None].astype(self.dtype)}


def example(dtype: tf.DType, shape: list[int], known: KnownValues | None, random: np.random.Generator) -> np.ndarray:
    """Returns an example of a feature: values that the model knows or, if none are known, ones, or the text "1"."""
    if known is not None:
        return known.draw(shape, random).astype(dtype.as_numpy_dtype)
    return np.full(shape, b"1", object) if dtype == tf.string else np.ones(shape, dtype.as_numpy_dtype)


def write_warm_up(folder: Path, examples: Examples, index: Index, signatures: Container[str]) -> int:
    """Writes the warm-up records into `folder`/assets.extra; returns how many.

    Args:
      folder: the SavedModel's folder.
      examples: the parts of the requests.
      index: the index that the model searches.
      signatures: names of the model's signatures; an older export lacks some.
    """
    count = 0
    with tf.io.TFRecordWriter(str(folder / WARM_UP_FILE)) as writer:
        for request in _requests(examples, index):
            if request.model_spec.signature_name not in signatures:
                continue
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString(deterministic=True))
            count += 1
    return count


def _requests(examples: Examples, index: Index) -> Iterator[predict_pb2.PredictRequest]:
    items = len(index.item_ids)
    ids = examples.seeds_of(index, slice(max(*ops.DEFAULT_BATCH_SIZES, EXAMPLE_HISTORY)))

    users = itertools.count()

    def retrieve(signature: str, count: int, **inputs: np.generic) -> predict_pb2.PredictRequest:
        return _request(signature, {**examples.inputs(ids[:count], next(users)), **inputs})

    most = items if examples.length is None else min(examples.length, items)
    for size in ops.DEFAULT_BATCH_SIZES:
        # The seeds are the search's first batch, and the budget ends the search after it.
        first = min(size, most)
        if first in (size, items):
            yield retrieve("retrieve", first, budget=np.int64(max(first, 1)))
        else:  # A request holds fewer seeds: let the second batch be so large, if the seeds have as many neighbours.
            # Best-first scores the neighbours of `frontier` items in a batch, the surrogate search a quarter of k.
            wide = {"frontier": np.int32(size), "k": np.int32(min(4 * size, max(items, 1)))}
            yield retrieve("retrieve", first, budget=np.int64(first + size), **wide)
        if size >= items:
            break
    yield retrieve("retrieve", EXAMPLE_HISTORY)
    yield retrieve("retrieve_best_first", EXAMPLE_HISTORY)
    yield retrieve("retrieve_rounds", EXAMPLE_HISTORY)
    yield retrieve("retrieve_surrogate", EXAMPLE_HISTORY)
    yield retrieve("retrieve_trace", EXAMPLE_HISTORY)
    if examples.width is None:
        yield retrieve("serving_default", EXAMPLE_HISTORY)
    else:
        level_topn = np.full(LEVEL_TOPN_LENGTH, max(min(items, EXAMPLE_K), 1), np.int32)
        comm_seq = np.zeros([1, examples.width], np.float16)
        yield _request("serving_default", {"comm_seq": comm_seq, "level_topn": level_topn})


def _request(signature: str, inputs: Mapping[str, np.ndarray | np.generic]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request
