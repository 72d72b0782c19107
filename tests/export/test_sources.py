"""Every kind of model is exported, moved and verified in a fresh process, and answers with its own scorer's scores."""

import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, SourceOptions, export, verify
from export_tools.sources.module import import_module_source
from tests.export.moving import move_and_verify
from tests.export.sources import DIM, SIGNATURES, Ranker, keras_ranker
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.retrieval import BestFirst, Rounds
from tfserving_ext.serving.models import ServingError, load_servable

WIDE = Defaults(k=10, best_first=BestFirst(pool=600))  # The pool holds the whole corpus, so that nothing is cut off.


@pytest.fixture(scope="module")
def index(world):
    return Index.open(world.index)


def top(index, scores, k):
    """Returns the ids of the best items by scores [B, n]."""
    return np.asarray(index.item_ids)[np.argsort(-scores, axis=1, kind="stable")[:, :k]]


def numpy_ranker(model, history, index):
    """Computes the scores [B, n] of `Ranker` in NumPy."""
    ids, table = np.asarray(index.item_ids), index.embeddings()
    rows = np.clip(np.searchsorted(ids, history), 0, len(ids) - 1)
    users = (table[rows] * (ids[rows] == history)[..., None]).sum(axis=1)
    both = np.concatenate([np.repeat(users[:, None], len(ids), 1), np.repeat(table[None], len(users), 0)], axis=-1)
    return (np.maximum(both @ model.hidden.numpy(), 0) @ model.out.numpy())[..., 0]


HISTORY_ROWS = np.array([[5, 17, 200], [0, 299, 44]])


def check_ranker(servable, model, index):
    history = np.asarray(index.item_ids)[HISTORY_ROWS]
    history[1, 0] = 7  # This id is not an item.
    scores = numpy_ranker(model, history, index)
    answer = servable.signature("retrieve").run({"item_history": history})
    np.testing.assert_array_equal(answer["item_ids"], top(index, scores, 10))
    np.testing.assert_allclose(answer["scores"], -np.sort(-scores, axis=1)[:, :10], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_module(world, index, tmp_path):
    model = Ranker(index)
    servable, found = move_and_verify(export(model, world.index, tmp_path / "1", WIDE), tmp_path)
    assert set(found["signatures"]) == SIGNATURES
    check_ranker(servable, model, index)


@pytest.mark.slow
def test_a_saved_model_with_functions(world, index, tmp_path):
    model = Ranker(index)
    tf.saved_model.save(model, str(tmp_path / "ranker"))
    exported = export(
        tmp_path / "ranker", world.index, tmp_path / "1", WIDE, source=SourceOptions(seeds="item_history")
    )
    shutil.rmtree(tmp_path / "ranker")
    servable, _ = move_and_verify(exported, tmp_path)
    check_ranker(servable, model, index)


@pytest.mark.slow
def test_a_saved_model_with_signatures(world, index, tmp_path):
    model = Ranker(index)

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64)])
    def user(item_history):
        return {"mean": model.user({"item_history": item_history})[0]}

    @tf.function(input_signature=[tf.TensorSpec([None, DIM]), tf.TensorSpec([None, None, DIM])])
    def score(mean, items):
        return {"scores": model.score((mean,), items)}

    module = tf.Module()
    module.variables_of = [model.ids, model.table, model.hidden, model.out]
    tf.saved_model.save(module, str(tmp_path / "ranker"), signatures={"user": user, "score": score})
    servable, _ = move_and_verify(
        export(tmp_path / "ranker", world.index, tmp_path / "1", WIDE, source=SourceOptions(seeds="item_history")),
        tmp_path,
    )
    check_ranker(servable, model, index)


@pytest.mark.slow
def test_an_export_can_be_exported_again(world, tmp_path):
    again = export(world.saved_model, world.index, tmp_path / "1", WIDE)
    servable, _ = move_and_verify(again, tmp_path)
    first = load_servable(world.saved_model)
    history = np.asarray(Index.open(world.index).item_ids)[HISTORY_ROWS]
    request = {"item_history": history, "k": np.int32(10), "pool": np.int32(600)}
    expected = first.signature("retrieve").run(request)
    np.testing.assert_array_equal(servable.signature("retrieve").run(request)["item_ids"], expected["item_ids"])


@pytest.mark.slow
def test_a_keras_archive(world, index, tmp_path):
    model = keras_ranker(world, tmp_path / "ranker.keras")
    servable, found = move_and_verify(export(tmp_path / "ranker.keras", world.index, tmp_path / "1", WIDE), tmp_path)
    answer = {"item_ids", "scores", "num_results", "items_scored", "rounds", "nan_scores", "stopped", "index_sequence"}
    assert set(found["signatures"]["retrieve"]) == answer
    table = index.embeddings()
    users, ages = table[[3, 50]], np.array([[0.5], [-1.0]], np.float32)
    scores = np.stack(
        [
            model.predict(
                [np.repeat(u[None], len(table), 0), table, np.repeat(a[None], len(table), 0)], verbose=0, batch_size=600
            )[:, 0]
            for u, a in zip(users, ages, strict=True)
        ]
    )
    answer = servable.signature("retrieve").run({"user_vector": users, "age": ages})
    np.testing.assert_allclose(answer["scores"], -np.sort(-scores, axis=1)[:, :10], rtol=1e-3, atol=1e-4)
    agree = [len(set(a) & set(b)) for a, b in zip(answer["item_ids"], top(index, scores, 10), strict=True)]
    assert min(agree) >= 9  # Near ties may change places.
    seeded = servable.signature("retrieve").run(
        {"user_vector": users, "age": ages, "seeds": np.asarray(index.item_ids)[None, :5], "budget": np.int64(5)}
    )
    assert seeded["items_scored"].tolist() == [5, 5]


@pytest.mark.slow
def test_a_keras_model_with_the_contract(world, index, tmp_path):
    class Contract(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1, use_bias=False)
            self.dense.build([None, DIM])

        features = {"vector": tf.TensorSpec([None, DIM], tf.float32)}  # noqa: RUF012

        def user(self, features):
            return (features["vector"],)

        def score(self, user, items):
            return self.dense(items * user[0][:, None, :])[..., 0]

    model = Contract()
    servable, _ = move_and_verify(export(model, world.index, tmp_path / "1", WIDE), tmp_path)
    users = index.embeddings()[[9, 10]]
    scores = (users * model.dense.kernel.numpy()[:, 0]) @ index.embeddings().T
    answer = servable.signature("retrieve").run({"vector": users})
    np.testing.assert_array_equal(answer["item_ids"], top(index, scores, 10))


class Wrong(tf.Module):
    """A model of which one part is wrong."""

    def __init__(self, features=None, user=None, score=None):
        super().__init__()
        self.features = features or {"vector": tf.TensorSpec([None, DIM], tf.float32)}
        self.user = user or (lambda features: (features["vector"],))
        self.score = score or (lambda user, items: tf.reduce_sum(items * user[0][:, None], -1))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("nowhere", {}, "nowhere is not a model; allowed are"),
        ("no_such_module:model", {}, "cannot import no_such_module:model"),
        ("json:no_such_name", {}, "cannot import json:no_such_name"),
        (object(), {}, "object has no function 'user'"),
        (Wrong(features={"k": tf.TensorSpec([None], tf.float32)}), {}, "a feature is called 'k'"),
        (Wrong(features={"v w": tf.TensorSpec([None], tf.float32)}), {}, "a feature is called 'v w'"),
        (Wrong(features={"vector": tf.TensorSpec([], tf.float32)}), {}, "must begin with the batch"),
        (Wrong(), {"seeds": "history"}, "seeds are 'history', allowed is a feature of int64, int32 or string"),
        (Wrong(user=lambda features: features["vector"]), {}, "it must return a tuple of tensors"),
        (Wrong(user=lambda features: (features["vektor"],)), {}, "cannot be traced: KeyError: 'vektor'"),
        (Wrong(score=lambda user, items: items.no_such_thing), {}, "cannot be traced: AttributeError: "),
        (
            Wrong(score=lambda user, items: tf.matmul(items, tf.zeros([3, 3]))),
            {},
            "does not fit the index's embeddings",
        ),
        (Wrong(), {"features": {}}, "takes no features"),
    ],
)
def test_what_is_no_model_is_refused(world, tmp_path, model, options, words):
    with pytest.raises(NannError) as error:
        export(model, world.index, tmp_path / "1", Defaults(k=10), SourceOptions(**options))
    assert words in str(error.value)
    assert not (tmp_path / "1").exists()


def test_seeds_that_a_request_may_leave_out_are_refused(world, tmp_path):
    with pytest.raises(NannError, match=r"seeds are 'category_history', which requests may leave out; .*item_history$"):
        export(
            world.saved_model,
            world.index,
            tmp_path / "1",
            Defaults(k=10),
            source=SourceOptions(seeds="category_history"),
        )


def test_a_damaged_keras_archive_is_refused(world, tmp_path):
    keras_ranker(world, tmp_path / "ranker.keras")
    with pytest.raises(NannError, match=r"is not clear: items; name one"):
        export(tmp_path / "ranker.keras", world.index, tmp_path / "1", WIDE, source=SourceOptions(item_input="items"))
    (tmp_path / "ranker.keras").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(NannError, match="does not load"):
        export(tmp_path / "ranker.keras", world.index, tmp_path / "1", WIDE)


def test_code_in_a_keras_archive_is_not_run(world, tmp_path):
    user = keras.Input([DIM], name="user_vector")
    item = keras.Input([DIM], name="item_embedding")
    both = keras.layers.Lambda(lambda pair: pair[0] * pair[1])([user, item])
    keras.Model([user, item], keras.layers.Dense(1)(both)).save(tmp_path / "code.keras")
    with pytest.raises(NannError, match="does not load"):
        export(tmp_path / "code.keras", world.index, tmp_path / "1", WIDE)


@pytest.mark.slow
def test_a_module_by_its_name_on_the_command_line(tmp_path):
    """Exports the example's model from another folder, by the command."""
    rng = np.random.default_rng(1)
    index = build_index(
        np.arange(500), rng.normal(size=(500, 8)).astype(np.float32), tmp_path / "index", Hnsw(threads=1)
    )
    (tmp_path / "my_models.py").write_text(
        "import tensorflow as tf\n"
        "class Dot(tf.Module):\n"
        "    features = {'vector': tf.TensorSpec([None, 8], tf.float32)}\n"
        "    def user(self, features):\n"
        "        return (features['vector'],)\n"
        "    def score(self, user, items):\n"
        "        return tf.einsum('bd,bnd->bn', user[0], items)\n"
        "def make():\n"
        "    return Dot()\n"
    )
    command = [Path(sys.executable).with_name("nann"), "export", "my_models:make", "index", "-o", "models/dot/1"]
    run = subprocess.run([*command, "-k", "5"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    vectors = rng.normal(size=(3, 8)).astype(np.float32)
    answer = load_servable(tmp_path / "models/dot/1").signature("retrieve").run({"vector": vectors})
    np.testing.assert_array_equal(answer["item_ids"], top(index, vectors @ index.embeddings().T, 5))
    manifest = json.loads((tmp_path / "models/dot/1/assets.extra/nann_export.json").read_text())
    assert manifest["source"]["kind"] == "module"


def test_the_current_folder_comes_before_the_others(tmp_path, monkeypatch):
    """As it does for `python -m`: a module of the same name elsewhere is not taken."""
    for folder in ("elsewhere", "here"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twice_there.py").write_text(f"def make():\n    raise ValueError('from {folder}')\n")
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(NannError, match="from here"):
        import_module_source("twice_there:make", None, None)


def test_defaults_must_fit(world, index, tmp_path):
    with pytest.raises(NannError, match="ef is"):
        export(Ranker(index), world.index, tmp_path / "1", Defaults(k=10, rounds=Rounds(ef=(1, 2), rounds=(1, 1, 1))))


class Conditional(tf.Module):
    """A scorer with ops that TensorFlow puts into functions of their own: a condition and an assertion."""

    features: ClassVar = {"x": tf.TensorSpec([None, 4])}

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(np.random.default_rng(1).normal(size=[4, 4]).astype(np.float32))

    def user(self, features):
        return (features["x"],)

    def score(self, user, items):
        (x,) = user
        check = tf.debugging.assert_less(tf.reduce_sum(x), 50.0, "the user is too large")
        y = tf.cond(tf.reduce_sum(x) > 0, lambda: items @ self.weights, lambda: -items)
        with tf.control_dependencies([check]):
            return tf.reduce_sum(tf.tanh(y * x[:, None]), -1)


@pytest.mark.slow
def test_functions_that_a_scorer_calls_are_exported(tmp_path):
    embeddings = np.random.default_rng(0).normal(size=[300, 4]).astype(np.float32)
    build_index(np.arange(300), embeddings, tmp_path / "index", Hnsw(threads=1))
    target = export(Conditional(), tmp_path / "index", tmp_path / "1", Defaults(k=5))
    gc.collect()
    assert verify(target, 0)["signatures"]["retrieve"]["scores"] == {"shape": [1, 5], "dtype": "float32"}
    retrieve = load_servable(target).signature("retrieve")
    with pytest.raises(ServingError, match="the user is too large"):
        retrieve.run({"x": np.full([1, 4], 100, np.float32)})
    for sign in (-1, 1):
        x = np.full([1, 4], 0.5 * sign, np.float32)
        wanted = Conditional().score((tf.constant(x),), tf.constant(embeddings[None])).numpy()[0]
        found = retrieve.run({"x": x, "seeds": np.arange(300)[None]})
        np.testing.assert_allclose(found["scores"][0], np.sort(wanted)[::-1][:5], rtol=1e-5)
