"""Errors for features that no request can carry, and for classes given in place of objects, say what to do."""

import sys

import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, ExportOptions, export
from export_tools.sources import open_source
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.serving.models import load_servable

DIM = 8
TABLE = np.random.default_rng(0).normal(size=(50, DIM)).astype(np.float32)


class Pooled(tf.Module):
    """Scores by the mean of the vectors of a ragged, sparse or dense history."""

    def __init__(self, spec, ragged):
        super().__init__()
        self.features = {"history": spec}
        self.ragged = ragged

    def user(self, features):
        return (tf.reduce_mean(tf.ragged.map_flat_values(lambda ids: tf.gather(TABLE, ids), self.ragged(features)), 1),)

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (tf.RaggedTensorSpec([None, None], tf.int64), "'history' is a RaggedTensorSpec, int64 (None, None)"),
        (tf.SparseTensorSpec([None, 30], tf.string), "'history' is a SparseTensorSpec, string (None, 30)"),
        (tf.data.DatasetSpec(tf.TensorSpec([])), "allowed is a tf.TensorSpec"),
        ({"inner": tf.TensorSpec([None])}, "allowed is a tf.TensorSpec"),
        (tf.TensorSpec([None], tf.variant), "allowed is a tf.TensorSpec"),
    ],
)
def test_features_that_are_not_dense_are_refused(spec, words):
    """If they became dense silently, the answers would change. First contact, line 17."""
    with pytest.raises(NannError) as error:
        open_source(Pooled(spec, None))
    assert words in str(error.value)


def test_a_restored_model_with_a_ragged_feature_is_refused(tmp_path):
    """The features are then those of the SavedModel's function. First contact, line 17."""
    model = Pooled(tf.RaggedTensorSpec([None, None], tf.int64), lambda features: features["history"])
    saved = tf.Module()
    saved.user = tf.function(model.user, input_signature=[model.features])
    saved.score = tf.function(
        model.score, input_signature=[(tf.TensorSpec([None, DIM]),), tf.TensorSpec([None, None, DIM])]
    )
    tf.saved_model.save(saved, str(tmp_path / "saved"))
    with pytest.raises(NannError, match="'history' is a RaggedTensorSpec"):
        open_source(tmp_path / "saved")


@pytest.mark.medium
def test_the_cure_for_a_ragged_feature_gives_the_same_answers(tmp_path):
    """The test writes what the error advises, and serves the model. First contact, line 17."""
    ragged = tf.ragged.constant([[3, 4, 9], [7], [1, 2]], tf.int64)
    model = Pooled(tf.RaggedTensorSpec([None, None], tf.int64), lambda features: features["history"])
    wanted = model.user({"history": ragged})[0].numpy() @ TABLE.T
    with pytest.raises(NannError) as error:
        open_source(model)
    spec, code = str(error.value).split("take ")[1].split(" and convert it itself: ")
    dense = Pooled(eval(spec, {"tf": tf}), eval(f"lambda features: {code}", {"tf": tf}))
    build_index(np.arange(50), TABLE, tmp_path / "index", Hnsw(threads=1))
    target = export(dense, tmp_path / "index", tmp_path / "1", Defaults(k=50), options=ExportOptions(rewrite=False))
    request = {"history": ragged.to_tensor(-1).numpy(), "pool": np.int32(50)}
    found = load_servable(target).signature("retrieve").run(request)
    np.testing.assert_allclose(found["scores"], -np.sort(-wanted, axis=1), rtol=1e-4, atol=1e-5)


def test_users_that_are_not_dense_are_refused():
    """First contact, line 17."""
    model = Pooled(tf.TensorSpec([None, None], tf.int64), tf.RaggedTensor.from_tensor)
    model.user = lambda features: (tf.RaggedTensor.from_tensor(features["history"]),)
    with pytest.raises(NannError, match="`user` returned a RaggedTensor at place 0"):
        open_source(model).user_tensors({"history": tf.constant([[1, 2]], tf.int64)})


MODULE = """
import tensorflow as tf
class Dot(tf.Module):
    features = {"vector": tf.TensorSpec([None, 8], tf.float32)}
    def user(self, features):
        return (features["vector"],)
    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)
class Sized(Dot):
    def __init__(self, width, depth, *, scale, name=None):
        super().__init__(name)
class Broken(Dot):
    def __init__(self):
        raise RuntimeError("no weights here")
def sized(width):
    return Dot()
made = Dot()
"""


def test_a_class_is_called_and_the_error_for_one_that_takes_arguments_lists_them(tmp_path, monkeypatch):
    """First contact, line 19."""
    (tmp_path / "some_models.py").write_text(MODULE)
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('not today')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("Dot", "made"):
        source = open_source(f"some_models:{name}")
        assert source.description == {"class": "some_models.Dot"}
        vector = tf.constant(TABLE[:1])
        scores = source.score(source.user_tensors({"vector": vector}), TABLE[None])
        np.testing.assert_allclose(scores, TABLE[:1] @ TABLE.T, rtol=1e-4, atol=1e-5)
    for text, words in (
        ("some_models:Sized", r"some_models:Sized takes arguments, width, depth, scale; .* return Sized\(...\)"),
        ("some_models:sized", "some_models:sized takes arguments, width;"),
        ("some_models:Broken", "some_models:Broken failed: RuntimeError: no weights here"),
        ("broken_module:Model", "cannot import broken_module:Model: RuntimeError: not today"),
    ):
        with pytest.raises(NannError, match=words):
            open_source(text)
    with pytest.raises(NannError, match=r"Pooled is a class; give an instance of it, Pooled\(\)"):
        open_source(Pooled)
