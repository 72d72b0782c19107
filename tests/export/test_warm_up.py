"""Warm-up records are in TensorFlow Serving's format, and cover every batch size that the scorer is called with."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from export_tools import Defaults, export, inspect, reuse
from tests.export.sources import SIGNATURES
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.serving.models import load_servable
from tfserving_ext.serving.warm_up import MAX_RECORDS, predict_requests, read_warm_up


class Dot(tf.Module):
    """Scores by a dot product; its index is large enough for all batch sizes of the grid."""

    features = {"vector": tf.TensorSpec([None, 8], tf.float32), "tags": tf.TensorSpec([None, None], tf.string)}  # noqa: RUF012

    def user(self, features):
        return (features["vector"] + tf.cast(tf.shape(features["tags"])[1], tf.float32),)

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("dot")
    vectors = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    build_index(np.arange(5000) * 3, vectors, root / "index", Hnsw(threads=1))
    return export(Dot(), root / "index", root / "models" / "1", Defaults(k=10))


def test_every_batch_size_is_warmed_up(exported):
    servable = load_servable(exported)
    scored = []
    for request in predict_requests(exported):
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        answer = servable.signature(request.model_spec.signature_name).run(inputs)
        if "budget" in inputs:
            scored.append(int(answer["items_scored"][0]))
    assert scored == list(ops.DEFAULT_BATCH_SIZES)


def test_every_signature_is_warmed_up(exported):
    names = {request.model_spec.signature_name for request in predict_requests(exported)}
    assert names == set(inspect(exported)["signatures"]) == SIGNATURES


def test_a_small_index_needs_fewer(world):
    sizes = [
        int(tf.make_ndarray(request.inputs["budget"]))
        for request in predict_requests(world.saved_model)
        if "budget" in request.inputs
    ]
    items = len(world.sequences.item_ids)
    assert sizes == [*(size for size in ops.DEFAULT_BATCH_SIZES if size < items), items]


def test_a_history_s_other_features_are_as_long_as_it(world, tmp_path):
    class Timed(Dot):
        features = {"history": tf.TensorSpec([None, None], tf.int64), "times": tf.TensorSpec([None, None], tf.float32)}  # noqa: RUF012
        seeds = "history"

        def user(self, features):
            return (tf.cast(features["history"], tf.float32)[:, :1] * features["times"][:, :1] * tf.ones([1, 64]),)

    target = export(Timed(), world.index, tmp_path / "1", Defaults(k=5))
    lengths = set()
    for request in predict_requests(reuse(target, world.index, tmp_path / "2")):
        history, times = (tf.make_ndarray(request.inputs[name]) for name in ("history", "times"))
        assert history.shape == times.shape
        lengths.add(history.shape[1])
    assert len(lengths) > 5


def write_records(folder, logs):
    (folder / "assets.extra").mkdir()
    (folder / "saved_model.pb").touch()
    with tf.io.TFRecordWriter(str(folder / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log)


def test_records_of_others_are_bounded_and_checked(tmp_path):
    many = prediction_log_pb2.PredictionLog()
    many.predict_log.request.model_spec.name = "x"
    write_records(tmp_path, [many.SerializeToString()] * (MAX_RECORDS + 1))
    with pytest.raises(NannError, match="more than 1000 records"):
        read_warm_up(tmp_path)
    (tmp_path / "broken").mkdir()
    write_records(tmp_path / "broken", [b"\xff\xff"])
    with pytest.raises(NannError, match="record 0 is damaged"):
        read_warm_up(tmp_path / "broken")


def test_records_of_other_methods_are_left_to_tensorflow_serving(tmp_path):
    write_records(tmp_path, [prediction_log_pb2.PredictionLog(classify_log={}).SerializeToString()])
    assert len(read_warm_up(tmp_path)) == 1
    assert predict_requests(tmp_path) == []
