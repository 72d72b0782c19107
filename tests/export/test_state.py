"""An export carries the state of a model, whatever holds it, or is refused; one that does not load is not kept."""

import functools
import shutil
from typing import ClassVar

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from export_tools import Defaults, ExportOptions, explain, export
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.retrieval import BestFirst
from tfserving_ext.serving.models import load_servable

DIM, ITEMS = 8, 120
WIDE = Defaults(
    k=ITEMS, best_first=BestFirst(pool=ITEMS)
)  # All items, so that every score is compared with the model's.
EMBEDDINGS = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(
        np.arange(ITEMS) + 7, EMBEDDINGS, tmp_path_factory.mktemp("state") / "index", Hnsw(threads=1)
    ).folder


def check(model, index, tmp_path, request, wanted):
    """Checks that the export answers `wanted` [B, ITEMS] from another folder, after its model is gone."""
    exported = export(model, index, tmp_path / "models" / "1", WIDE)
    moved = shutil.move(exported, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "files", ignore_errors=True)
    answer = load_servable(moved).signature("retrieve").run(request)
    scores = np.take_along_axis(wanted, answer["item_ids"] - 7, axis=1)
    np.testing.assert_allclose(answer["scores"], scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answer["scores"], -np.sort(-wanted, axis=1), rtol=1e-4, atol=1e-5)
    explained = explain(moved)  # It reads captured tables and constants by the types that the functions give.
    for nodes in (explained.before, explained.after):
        assert [node.op for node in nodes].count("result") == 1
        assert any(node.depends == "both" for node in nodes)


@pytest.mark.slow
def test_tables_of_preprocessing_layers_in_a_keras_archive(index, tmp_path):
    """Covers StringLookup, IntegerLookup and TextVectorization, on the user's side of the score.

    First contact, line 14.
    """
    keras.utils.set_random_seed(1)
    country = keras.Input([], dtype="string", name="country")
    store = keras.Input([], dtype="int64", name="store")
    query = keras.Input([], dtype="string", name="query")
    item = keras.Input([DIM], name="item_embedding")
    words = layers.TextVectorization(output_sequence_length=4)
    words.adapt(["red shoes", "blue hat", "green shoes"])
    embedding = functools.partial(layers.Embedding, output_dim=4, embeddings_initializer="glorot_normal")
    both = [
        layers.Embedding(5, 4)(layers.StringLookup(vocabulary=["DE", "FR", "JP"])(country)),
        embedding(9)(layers.IntegerLookup(vocabulary=[10, 30, 20])(store)),
        layers.Flatten()(embedding(9)(words(query))),
        item,
    ]
    hidden = layers.Dense(16, activation="relu")(layers.Concatenate()(both))
    model = keras.Model([country, item, store, query], layers.Dense(1)(hidden))
    (tmp_path / "files").mkdir()
    model.save(tmp_path / "files" / "ranker.keras")
    users = {"country": ["JP", "XX", "DE"], "store": [30, 31, 20], "query": ["blue shoes", "", "red hat green"]}
    wanted = [
        model(
            [
                tf.repeat(users["country"][user], ITEMS),
                tf.constant(EMBEDDINGS),
                tf.repeat(tf.constant(users["store"][user], tf.int64), ITEMS),
                tf.repeat(users["query"][user], ITEMS),
            ]
        )[:, 0]
        for user in range(3)
    ]
    assert np.std(wanted, axis=0).mean() > 0.01  # The users differ.
    request = {name: np.array(value, np.int64 if name == "store" else object) for name, value in users.items()}
    check(tmp_path / "files" / "ranker.keras", index, tmp_path, request, np.array(wanted))


class Scattered(tf.Module):
    """A model with state in a Keras model, a plain list and dict, a closure, files, and tables of every kind."""

    features: ClassVar = {"word": tf.TensorSpec([None], tf.string)}

    def __init__(self, folder):
        super().__init__()
        rng = np.random.default_rng(1)
        folder.mkdir()
        (folder / "words.txt").write_text("one\ntwo\nthree\n")
        (folder / "weight.txt").write_text("0.25")
        self.tower = keras.Sequential([keras.Input([DIM]), layers.Dense(DIM, activation="tanh"), layers.Dropout(0.5)])
        self.lookup = layers.StringLookup()
        self.lookup.adapt(["two", "three", "two"])
        self.noise = keras.random.SeedGenerator(3)
        hidden = {"rows": [(tf.Variable(rng.normal(size=[9, DIM]).astype(np.float32)),)]}
        counts = tf.lookup.experimental.MutableHashTable(tf.string, tf.float32, 0.5)
        counts.insert(tf.constant(["one"]), tf.constant([2.0]))
        places = tf.lookup.StaticVocabularyTable(
            tf.lookup.TextFileInitializer(
                str(folder / "words.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            2,
        )  # fmt: skip
        weight = tf.saved_model.Asset(str(folder / "weight.txt"))

        def user(features):
            word = features["word"]
            rows = tf.gather(hidden["rows"][0][0], places.lookup(word) + self.lookup(word))
            rows *= tf.ensure_shape(counts.lookup(word), [None])[:, None] + tf.strings.to_number(
                tf.io.read_file(weight.asset_path)
            )
            # The random numbers change nothing, but their generator's state is needed.
            return (self.tower(rows) + 0 * keras.random.uniform([DIM], seed=self.noise),)

        self.user = user
        self.scale = (lambda variable: lambda: variable)(tf.Variable(rng.normal(size=[DIM]).astype(np.float32)))

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0] * self.scale(), tf.tanh(items * self.scale()))


def test_state_that_tensorflow_cannot_reach(index, tmp_path):
    """TensorFlow does not reach most of this model's state through its attributes. First contact, line 14."""
    model = Scattered(tmp_path / "files")
    words = np.array([b"one", b"two", b"three", b"four"], object)
    (user,) = model.user({"word": tf.constant(words)})
    wanted = model.score((user,), tf.repeat(EMBEDDINGS[None], 4, axis=0)).numpy()
    assert np.std(wanted, axis=0).mean() > 0.01
    check(model, index, tmp_path, {"word": words}, wanted)


class With(tf.Module):
    """A model whose `user` applies a given function."""

    features: ClassVar = {"vector": tf.TensorSpec([None, DIM])}

    def __init__(self, change):
        super().__init__()
        self.change = change

    def user(self, features):
        return (self.change(features["vector"]),)

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)


def of_an_iterator():
    iterator = iter(tf.data.Dataset.from_tensors(tf.ones([DIM])).repeat())
    return lambda vector: vector + next(iterator)


def of_a_data_set():
    variant = tf.data.Dataset.from_tensors(tf.ones([DIM]))._variant_tensor
    return lambda vector: vector * tf.cast(tf.raw_ops.DatasetCardinality(input_dataset=variant), tf.float32)


def of_nobody():
    handle = tf.Variable(tf.ones([DIM])).handle
    return lambda vector: vector + tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def of_python():
    return lambda vector: tf.ensure_shape(tf.numpy_function(lambda x: x, [vector], tf.float32), [None, DIM])


def of_this_process():
    """Uses a table that only this process has filled; the export would make an empty one of the same name."""

    def table():
        return tf.raw_ops.HashTableV2(key_dtype=tf.int64, value_dtype=tf.float32, shared_name="of_this_process")

    kept = table()
    tf.raw_ops.LookupTableImportV2(table_handle=kept, keys=tf.constant([1], tf.int64), values=tf.constant([2.0]))

    def change(vector):
        found = tf.raw_ops.LookupTableFindV2(
            table_handle=table(), keys=tf.constant([1], tf.int64), default_value=tf.constant(0.0)
        )
        return vector * tf.ensure_shape(found, [1]) if kept is not None else vector

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (of_an_iterator, "`user` uses the IteratorResource"),
        (of_a_data_set, "`user` uses a variant tensor"),
        (of_nobody, "which no Python object holds any more"),
        (of_python, "the model calls Python, at "),
        (of_this_process, "cannot be served, so nothing is kept: "),
    ],
)
@pytest.mark.parametrize("rewrite", [False, True])
def test_what_cannot_be_exported_is_named_and_leaves_nothing(index, tmp_path, make, words, rewrite):
    """An export is loaded and answers in a session of its own before its folder gets its name.

    First contact, line 14.
    """
    with pytest.raises(NannError) as error:
        export(With(make()), index, tmp_path / "models" / "1", Defaults(k=5), options=ExportOptions(rewrite=rewrite))
    assert words in str(error.value)
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").iterdir())
