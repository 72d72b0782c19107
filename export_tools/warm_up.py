"""Warm-up records: requests that TensorFlow Serving runs before a version takes traffic.

One `retrieve` for every batch size of the scorer's grid, and one request of every other signature. A record that fails
keeps the version from being served, so that a server without the ops says so at once.
"""

import dataclasses
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export_tools.graphs.scorers import read_meta_graph
from export_tools.signatures import LEVEL_TOPN_LENGTH
from export_tools.sources import Source
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.serving.warm_up import FILE as WARM_UP_FILE

EXAMPLE_HISTORY = 50
EXAMPLE_K = 200


# Extent given to every unknown dimension of a made-up feature, but for the first, the batch.
EXAMPLE_LENGTH = 4


@dataclasses.dataclass(frozen=True)
class Examples:
    """What made-up requests are made of: warm-up records, and the users of `verify`.

    Attributes:
      features: what a request of one user must carry, each [1, ...], but for the seeds.
      parallel: features with an entry, in the second dimension, for every seed.
      seeds: the input that takes the ids to start from.
      dtype: of these ids.
      length: how many ids a request must carry; None for any number.
      width: of the original's `comm_seq`; None where the model does not take it.
    """

    features: Mapping[str, np.ndarray]
    parallel: frozenset[str]
    seeds: str
    dtype: np.dtype
    length: int | None
    width: int | None

    @classmethod
    def of_source(cls, source: Source) -> "Examples":
        """Made-up requests for a model."""
        required = {name: spec for name, spec in source.features.items() if name not in source.defaults}
        return cls._of(required, source.seeds, source.sequence.width if source.sequence else None)

    @classmethod
    def of_export(cls, folder: Path, seeds: str | None) -> "Examples":
        """Made-up requests for an export; `seeds` is the feature that holds them, None where the input `seeds` does.

        Raises:
          NannError: `folder` is no SavedModel, or has no signature `retrieve`.
        """
        signatures = read_meta_graph(folder).signature_def
        if "retrieve" not in signatures:
            raise NannError(f"{folder} has no signature 'retrieve', which exports have; it has {', '.join(signatures)}")
        retrieve, deployed = signatures["retrieve"], signatures["serving_default"].inputs
        required = {
            name: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.dtypes.as_dtype(info.dtype))
            for name, info in sorted(retrieve.inputs.items())
            if name not in retrieve.defaults
        }
        width = deployed["comm_seq"].tensor_shape.dim[1].size if "level_topn" in deployed else None
        return cls._of(required, seeds, width)

    @classmethod
    def _of(cls, required: Mapping[str, tf.TensorSpec], seeds: str | None, width: int | None) -> "Examples":
        features = {name: ones(spec) for name, spec in required.items() if name != seeds}
        # What is of any length beside a history is as long as the history: its categories, its times.
        parallel = {name for name in features if seeds and required[name].shape[1:2].as_list() == [None]}
        dtype = np.dtype(required[seeds].dtype.as_numpy_dtype if seeds else np.int64)
        length = required[seeds].shape[1] if seeds else None
        return cls(features, frozenset(parallel), seeds or "seeds", dtype, length, width)

    def inputs(self, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of `retrieve` for one user with `seeds`, int64 [s].

        Where the model takes another number of ids they are repeated or cut: an id twice starts no other search, and
        every model knows what to do with an item of its own, which of a mark for "none" nobody can tell.
        """
        if self.length is not None:
            seeds = np.resize(seeds, self.length) if len(seeds) else np.full(self.length, -1)
        made = {
            name: np.repeat(value[:, :1], len(seeds), axis=1) if name in self.parallel else value
            for name, value in self.features.items()
        }
        return {**made, self.seeds: seeds[None].astype(self.dtype)}


def ones(spec: tf.TensorSpec) -> np.ndarray:
    """A made-up feature of one user: ones, or texts of a one."""
    shape = [1, *(EXAMPLE_LENGTH if size is None else size for size in spec.shape[1:])]
    return np.full(shape, b"1", object) if spec.dtype == tf.string else np.ones(shape, spec.dtype.as_numpy_dtype)


def write_warm_up(folder: Path, examples: Examples, index: Index, signatures: Container[str]) -> int:
    """Writes the records into `folder`/assets.extra; returns how many.

    Args:
      folder: of the SavedModel.
      examples: what requests are made of.
      index: the one that is searched.
      signatures: names of those that the model has; an older export lacks some.
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
    ids = np.asarray(index.item_ids)

    def retrieve(signature: str, count: int, **inputs: np.generic) -> predict_pb2.PredictRequest:
        return _request(signature, {**examples.inputs(ids[:count]), **inputs})

    most = len(ids) if examples.length is None else min(examples.length, len(ids))
    for size in ops.DEFAULT_BATCH_SIZES:
        # So many seeds are the search's first batch, and the budget ends it behind that.
        first = min(size, most)
        if first in (size, len(ids)):
            yield retrieve("retrieve", first, budget=np.int64(max(first, 1)))
        else:  # Not so many fit into a request: its second batch is as large, where the seeds' neighbours are so many.
            yield retrieve("retrieve", first, budget=np.int64(first + size), frontier=np.int32(size))
        if size >= len(ids):
            break
    yield retrieve("retrieve", EXAMPLE_HISTORY)
    yield retrieve("retrieve_rounds", EXAMPLE_HISTORY)
    yield retrieve("retrieve_trace", EXAMPLE_HISTORY)
    if examples.width is None:
        yield retrieve("serving_default", EXAMPLE_HISTORY)
    else:
        level_topn = np.full(LEVEL_TOPN_LENGTH, max(min(len(ids), EXAMPLE_K), 1), np.int32)
        comm_seq = np.zeros([1, examples.width], np.float16)
        yield _request("serving_default", {"comm_seq": comm_seq, "level_topn": level_topn})


def _request(signature: str, inputs: Mapping[str, np.ndarray | np.generic]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request
