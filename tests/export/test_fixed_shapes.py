"""Models whose features have fixed extents, as those of most rankers have, are exported, checked and served.

First contact, line 16.
"""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, ExportOptions, SourceOptions, explain, export, inspect, reuse
from export_tools.verify import _check
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.loadtest import ModelSpec
from tfserving_ext.loadtest.inputs import fitted, make_inputs
from tfserving_ext.retrieval import BestFirst
from tfserving_ext.serving import Client, LocalServer, ServerOptions, smoke
from tfserving_ext.serving.models import ServingError, load_servable
from tfserving_ext.serving.warm_up import predict_requests

ITEMS, DIM = 300, 8
WIDE = Defaults(k=10, best_first=BestFirst(pool=ITEMS))
UNMEASURED = ExportOptions(measure=False)
TABLE = np.random.default_rng(5).normal(size=[ITEMS, DIM]).astype(np.float32)


class Pooled(tf.Module):
    """Scores by the dot product with the mean of the history's vectors; reads other features without using them."""

    def __init__(self, length, dtype, others=None):
        super().__init__()
        self.features = {"history": tf.TensorSpec([None, length], dtype), **(others or {})}
        self.seeds = "history"
        self.length = length
        self.table = tf.Variable(TABLE)

    def user(self, features):
        # This is the mean of each user's own ids only if the history has exactly this length.
        rows = tf.gather(self.table, tf.reshape(features["history"], [-1, self.length]))
        read = [tf.strings.length(f) if f.dtype == tf.string else f for f in features.values()]
        nothing = sum(tf.cast(tf.reduce_sum(f), tf.float32) for f in read) * 0
        return (tf.reduce_mean(rows, axis=1) + nothing,)

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)


def keras_archive(path):
    """A ranker with an embedding of 50 ids of its own."""
    history = keras.Input([50], dtype="int32", name="history")
    item = keras.Input([DIM], name="item_embedding")
    embedded = keras.layers.Embedding(ITEMS, DIM, name="table")(history)
    user = keras.layers.Reshape([DIM])(keras.layers.AveragePooling1D(50)(embedded))
    model = keras.Model([history, item], keras.layers.Dot(1)([user, item]))
    model.get_layer("table").set_weights([TABLE])
    model.save(path)
    return path


OTHERS = {
    "categories": tf.TensorSpec([None, 50], tf.int32),
    "times": tf.TensorSpec([None, None], tf.float32),
    "country": tf.TensorSpec([None], tf.string),
    "tags": tf.TensorSpec([None, 5], tf.string),
    "grid": tf.TensorSpec([None, 2, 3], tf.float32),
}
# For each model: its name, the number of ids it takes, and how it is made.
MODELS = {
    "beside_others": (50, lambda root: Pooled(50, tf.int64, OTHERS)),
    "short_of_int32": (3, lambda root: Pooled(3, tf.int32)),
    "longer_than_the_corpus": (400, lambda root: Pooled(400, tf.int64)),
    "keras": (50, lambda root: keras_archive(root / "ranker.keras")),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixed") / "index"
    build_index(np.arange(ITEMS), TABLE, folder, Hnsw(threads=1))
    return folder


@pytest.fixture(
    scope="module",
    params=[
        name if name != "longer_than_the_corpus" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS
    ],
)
def exported(request, index, tmp_path_factory):
    length, make = MODELS[request.param]
    root = tmp_path_factory.mktemp(request.param)
    path = export(make(root), index, root / request.param / "1", WIDE, SourceOptions(seeds="history"), UNMEASURED)
    return SimpleNamespace(name=request.param, length=length, path=path, servable=load_servable(path))


def request_of(exported, users, rng):
    """Returns histories of as many ids as the model takes, and ones for all other features."""
    spec = exported.servable.signature("retrieve").proto
    inputs = {}
    for name, info in spec.inputs.items():
        if name not in spec.defaults:
            shape = [users, *(exported.length if dim.size < 0 else dim.size for dim in info.tensor_shape.dim[1:])]
            dtype = tf.dtypes.as_dtype(info.dtype).as_numpy_dtype
            inputs[name] = np.full(shape, b"x", object) if dtype is object else np.ones(shape, dtype)
    inputs["history"] = rng.integers(ITEMS, size=[users, exported.length]).astype(inputs["history"].dtype)
    return inputs


def test_it_is_served_and_answers(exported):
    rng = np.random.default_rng(0)
    inputs = request_of(exported, 2, rng)
    scores = TABLE[inputs["history"]].mean(axis=1) @ TABLE.T
    with LocalServer({"m": exported.path.parent}, ServerOptions(grpc_port=0, rest_port=0)) as server:
        target = f"127.0.0.1:{server.grpc_port}"
        with Client(target, "m") as client:
            answer = client.predict("retrieve", inputs)
        assert smoke(target, "m")["item_ids"].shape == (1, 10)
    np.testing.assert_array_equal(np.sort(answer["item_ids"]), np.sort(np.argsort(-scores, axis=1)[:, :10]))


@pytest.mark.slow
def test_every_tool_knows_the_length(exported, index, tmp_path):
    checked = _check(exported.path)
    assert checked["coverage"] >= 0.9
    assert f"[?, {exported.length}]" in inspect(exported.path)["signatures"]["retrieve"]["inputs"]["history"]["type"]
    assert explain(exported.path).before is not None
    renewed = load_servable(reuse(exported.path, index, tmp_path / "2"))  # Loading runs its warm-up records.
    signature = renewed.signature("retrieve")
    for inputs in make_inputs(ModelSpec(name="m", signature="retrieve", requests=3), renewed.signature_defs, 0):
        assert signature.run(inputs)["num_results"].tolist() == [10]


def test_warm_up_grows_batches_beyond_the_length(exported):
    """A request cannot carry 256 ids if the model takes 3, but the warm-up must still run a batch of that size."""
    scored, most = [], min(exported.length, ITEMS)
    for record in predict_requests(exported.path):
        inputs = {name: tf.make_ndarray(value) for name, value in record.inputs.items()}
        answer = exported.servable.signature(record.model_spec.signature_name).run(inputs)
        if "budget" in inputs:
            scored.append(int(answer["items_scored"][0]))
    assert scored[:3] == [size if size <= most else most + size for size in (16, 32, 48)]
    assert max(scored) > ITEMS / 2


def test_another_length_is_refused(exported):
    inputs = request_of(exported, 2, np.random.default_rng(1))
    wrong = {**inputs, "history": inputs["history"][:, 1:]}
    words = rf"history must have the shape \[\?, {exported.length}\]; got.*\[2 {exported.length - 1}\]"
    for name in ("retrieve", "retrieve_trace", "retrieve_rounds", "serving_default"):
        with pytest.raises(ServingError, match=words):
            exported.servable.signature(name).run(wrong)
    with pytest.raises(ServingError, match=r"history must have the shape"):
        exported.servable.signature("retrieve").run({**inputs, "history": inputs["history"][0]})


def test_an_empty_list_of_exclusions_has_any_rank(exported):
    """`[]` is what many clients send for an empty list; a flat list that is not empty would be ambiguous."""
    inputs = request_of(exported, 2, np.random.default_rng(1))
    retrieve = exported.servable.signature("retrieve")
    wanted = retrieve.run({**inputs, "exclude": np.zeros([1, 0], np.int64)})["item_ids"]
    np.testing.assert_array_equal(retrieve.run({**inputs, "exclude": np.zeros([0], np.int64)})["item_ids"], wanted)
    with pytest.raises(ServingError, match=r"exclude must have the shape \[\?, \?\]; got.*\[1\]"):
        retrieve.run({**inputs, "exclude": np.zeros([1], np.int64)})


class One(Pooled):
    """A model traced for one user; given several, it would return the mean of all."""

    @tf.function(input_signature=[{"history": tf.TensorSpec([1, 50], tf.int64)}])
    def user(self, features):
        return (tf.reduce_mean(tf.gather(self.table, tf.reshape(features["history"], [-1])), axis=0)[None],)

    @tf.function(input_signature=[(tf.TensorSpec([1, DIM]),), tf.TensorSpec([1, None, DIM])])
    def score(self, user, items):
        return super().score(user, items)


@pytest.mark.parametrize("saved", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_batch_of_one_is_called_for_every_user(index, tmp_path, saved):
    model = One(50, tf.int64)
    del model.features
    if saved:
        tf.saved_model.save(model, str(tmp_path / "saved"))
    source = tmp_path / "saved" if saved else model
    retrieve = load_servable(
        export(source, index, tmp_path / "1", WIDE, SourceOptions(seeds="history"), UNMEASURED)
    ).signature("retrieve")
    histories = np.random.default_rng(7).integers(ITEMS, size=[3, 50])
    scores = TABLE[histories].mean(axis=1) @ TABLE.T
    answer = retrieve.run({"history": histories})
    np.testing.assert_array_equal(answer["item_ids"], np.argsort(-scores, axis=1)[:, :10])


def test_what_one_user_is_made_of_is_checked_as_ever(index, tmp_path):
    model = Pooled(50, tf.int64)
    model.features = {"history": tf.TensorSpec([1, 50], tf.int64)}
    model.user = lambda features: tf.zeros([1, DIM])
    with pytest.raises(NannError, match="it must return a tuple of tensors"):
        export(model, index, tmp_path / "1", WIDE)


def test_a_batch_of_another_size_is_refused(index, tmp_path):
    model = Pooled(50, tf.int64)
    model.features = {"history": tf.TensorSpec([4, 50], tf.int64)}
    with pytest.raises(NannError, match=r"history has shape \(4, 50\), it must begin with the batch, such as"):
        export(model, index, tmp_path / "1", WIDE)
    assert not (tmp_path / "1").exists()


def test_bench_cuts_and_repeats_real_histories():
    assert fitted(np.arange(5), None).tolist() == [0, 1, 2, 3, 4]
    assert fitted(np.arange(5), 3).tolist() == [2, 3, 4]
    assert fitted(np.arange(5), 7).tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert fitted(np.arange(0), 2).tolist() == [-1, -1]
