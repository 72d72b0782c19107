"""Warm-up records: requests that TensorFlow Serving runs before a version takes traffic.

One `retrieve` for every batch size of the scorer's grid, and one request of every other signature. A record that fails
keeps the version from being served, so that a server without the ops says so at once.
"""

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export_tools.signatures import LEVEL_TOPN_LENGTH
from export_tools.sources import Source
from tfserving_ext import ops
from tfserving_ext.index.format import Index
from tfserving_ext.serving.warm_up import FILE as WARM_UP_FILE

EXAMPLE_HISTORY = 50
EXAMPLE_K = 200


@dataclasses.dataclass(frozen=True)
class Examples:
    """What warm-up requests are made of.

    Attributes:
      features: what a request of one user must carry, each [1, ...], but for the seeds.
      parallel: features with an entry, in the second dimension, for every seed.
      seeds: the input that takes the ids to start from.
      width: of the original's `comm_seq`; None where the model does not take it.
    """

    features: Mapping[str, np.ndarray]
    parallel: frozenset[str]
    seeds: str
    width: int | None

    @classmethod
    def of_source(cls, source: Source) -> "Examples":
        """Made-up requests for a model."""
        features = source.example()
        # What is of any length beside a history is as long as the history: its categories, its times.
        parallel = {name for name in features if source.seeds and source.features[name].shape[1:2].as_list() == [None]}
        width = source.sequence.width if source.sequence else None
        return cls(features, frozenset(parallel), source.seeds or "seeds", width)

    @classmethod
    def of_records(cls, records: Sequence[predict_pb2.PredictRequest], seeds: str) -> "Examples":
        """The requests that an export has, for other seeds."""
        features: dict[str, np.ndarray] = {}
        parallel: set[str] | None = None
        width = None
        for record in records:
            inputs = {name: tf.make_ndarray(value) for name, value in record.inputs.items()}
            if record.model_spec.signature_name == "retrieve" and seeds in inputs:
                features = {name: value for name, value in inputs.items() if name not in (seeds, "budget")}
                length = inputs[seeds].shape[1]
                same = {name for name, value in features.items() if value.ndim > 1 and value.shape[1] == length}
                parallel = same if parallel is None else parallel & same
            elif "comm_seq" in inputs and seeds not in inputs:
                width = inputs["comm_seq"].shape[1]
        return cls(features, frozenset(parallel or ()), seeds, width)

    def inputs(self, seeds: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs of `retrieve` for one user with `seeds`, int64 [s]."""
        made = {
            name: np.repeat(value[:, :1], len(seeds), axis=1) if name in self.parallel else value
            for name, value in self.features.items()
        }
        return {**made, self.seeds: seeds[None].astype(np.int64)}


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

    for size in ops.DEFAULT_BATCH_SIZES:
        # So many seeds are the search's first batch, and the budget ends it behind that.
        yield retrieve("retrieve", size, budget=np.int64(max(min(size, len(ids)), 1)))
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
