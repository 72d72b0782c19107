"""Keras archives with any structure and names of inputs and outputs."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from export_tools import Defaults, ExportOptions, SourceOptions, export
from export_tools.sources import open_source
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.retrieval import BestFirst
from tfserving_ext.serving.models import load_servable

DIM, ITEMS = 8, 60
WIDE = Defaults(k=ITEMS, best_first=BestFirst(pool=ITEMS))
EMBEDDINGS = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)
VALUES = {
    "taste": np.random.default_rng(1).normal(size=(2, DIM)).astype(np.float32),
    "age": np.array([[0.5], [-2.0]], np.float32),
    "item_embedding": EMBEDDINGS,
}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(np.arange(ITEMS), EMBEDDINGS, tmp_path_factory.mktemp("keras") / "index", Hnsw(threads=1)).folder


def archive(path, struct, several=None):
    """Builds a model whose inputs `struct` arranges; `several`, if given, arranges two outputs."""
    taste, age = keras.Input([DIM], name="taste"), keras.Input([1], name="age")
    item = keras.Input([DIM], name="item_embedding")
    hidden = layers.Dense(16, activation="relu")(layers.Concatenate()([taste, age, item]))
    click, buy = (layers.Dense(1, name=name)(hidden) for name in ("click", "buy"))
    model = keras.Model(struct(taste, age, item), several(click, buy) if several else click)
    model.save(path)
    return model


STRUCTURES = {
    "a list": lambda taste, age, item: [taste, item, age],
    "a dict": lambda taste, age, item: {"taste": taste, "item_embedding": item, "age": age},
    "a dict in another order": lambda taste, age, item: {"age": age, "item_embedding": item, "taste": taste},
    "a dict whose keys are not the names": lambda taste, age, item: {
        "user/age": age,
        "z": taste,
        "item_embedding": item,
    },
    "nested": lambda taste, age, item: [{"user": {"taste": taste}}, (item, age)],
}


def answers(target, names):
    request = {new: VALUES[old] for new, old in names.items()}
    return load_servable(target).signature("retrieve").run(request)


def scores_of(model, struct, user, place=0):
    """Returns the scores [ITEMS] of one user, by the model called with its inputs nested as built."""
    rows = [np.repeat(VALUES[name][user : user + 1], ITEMS, axis=0) for name in ("taste", "age")]
    return keras.tree.flatten(model.predict(struct(*rows, EMBEDDINGS), verbose=0, batch_size=ITEMS))[place][:, 0]


def check(source, model, struct, names, place=0):
    """Checks that the source's scores are those of the model."""
    features = {new: tf.constant(VALUES[old]) for new, old in names.items()}
    scores = source.score(source.user_tensors(features), tf.repeat(EMBEDDINGS[None], 2, axis=0))
    wanted = [scores_of(model, struct, user, place) for user in range(2)]
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("kind", STRUCTURES)
def test_a_model_is_called_as_it_was_built(tmp_path, kind):
    """Covers dict inputs in any order, nested ones, and keys that an input of a SavedModel cannot have.

    First contact, line 15.
    """
    struct = STRUCTURES[kind]
    model = archive(tmp_path / "ranker.keras", struct)
    renamed = {"years": "user/age", "user_taste": "z"} if "not the names" in kind else {}
    names = {"years": "age", "user_taste": "taste"} if renamed else {"age": "age", "taste": "taste"}
    check(open_source(tmp_path / "ranker.keras", rename=renamed), model, struct, names)


@pytest.mark.parametrize(
    ("several", "output", "place"),
    [
        (lambda click, buy: [click, buy], "buy", 1),
        (lambda click, buy: {"p_click": click, "p_buy": buy}, "p_click", 1),  # Keras sorts the keys.
        (lambda click, buy: {"only": buy}, "", 0),
    ],
)
def test_one_of_several_outputs_is_the_score(tmp_path, several, output, place):
    """An output is named by its layer, or by its key in a dict. First contact, line 15."""
    struct = STRUCTURES["a list"]
    model = archive(tmp_path / "ranker.keras", struct, several)
    source = open_source(tmp_path / "ranker.keras", output=output)
    check(source, model, struct, {"age": "age", "taste": "taste"}, place)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_a_dict_model_is_served(index, tmp_path):
    """Inputs and outputs are dicts, and a feature and an output are renamed. First contact, line 15."""
    struct = STRUCTURES["a dict whose keys are not the names"]
    model = archive(tmp_path / "ranker.keras", struct, lambda click, buy: {"click": click, "buy": buy})
    names = {"years": "user/age", "user_taste": "z"}
    target = export(
        tmp_path / "ranker.keras", index, tmp_path / "1", WIDE, source=SourceOptions(rename=names, output="buy")
    )
    found = answers(target, {"years": "age", "user_taste": "taste"})
    for user in range(2):
        wanted = scores_of(model, struct, user)
        np.testing.assert_allclose(found["scores"][user], wanted[found["item_ids"][user]], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["scores"][user], np.sort(wanted)[::-1], rtol=1e-4, atol=1e-5)


def named(*names):
    def make(path):
        inputs = [keras.Input([DIM], name=name) for name in (*names, "item_embedding")]
        keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(inputs))).save(path)

    return make


NAMES = ("k", "SEEDS", "exclude", "item id", "class", "_hidden", "2nd")


@pytest.mark.slow
def test_the_error_for_a_name_that_no_request_can_carry_gives_a_cure_that_works(index, tmp_path):
    """The test follows the advice of each error, and the model is served under the new names.

    First contact, line 15.
    """
    named(*NAMES)(tmp_path / "ranker.keras")
    rename = {}
    for _ in NAMES:
        with pytest.raises(NannError, match=r"a feature is called") as error:
            open_source(tmp_path / "ranker.keras", rename=rename)
        new, _, old = re.search(r"--feature '(.*)'", str(error.value))[1].partition("=")
        rename[new] = old
    assert set(rename.values()) == set(NAMES)
    target = export(
        tmp_path / "ranker.keras",
        index,
        tmp_path / "1",
        WIDE,
        source=SourceOptions(rename=rename),
        options=ExportOptions(rewrite=False),
    )
    assert answers(target, dict.fromkeys(rename, "taste"))["item_ids"].shape == (2, ITEMS)


def of_ids(shape, dtype="int64"):
    def make(path):
        taste, item = keras.Input([DIM], name="taste"), keras.Input(shape, dtype=dtype, name="item_id")
        rows = layers.Embedding(ITEMS, DIM, name="item_table")(item)
        vector = layers.Flatten(name="item_vector")(rows) if shape else rows
        keras.Model([taste, item], layers.Dense(1)(layers.Concatenate()([taste, vector]))).save(path)

    return make


def no_inputs(path):
    keras.Sequential([keras.Input([3]), layers.Dense(1)]).save(path)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (named("taste"), {"item_input": "items"}, "name one (--item-input) of 'taste' float32 [None, 8], 'item_emb"),
        (named("item_emb_2"), {}, "is not clear: item_emb_2, item_embedding; name one"),
        (
            lambda path: archive(path, STRUCTURES["nested"]),
            {"output": "ctr"},
            "has no output 'ctr'; its outputs are 'click' float32 [None, 1]",
        ),
        (named("taste"), {"rename": {"a": "b"}}, "no feature 'b'; its features are taste float32 (None, 8)"),
        (named("taste", "age"), {"rename": {"age": "taste"}}, "--feature gives one name to two features"),
        (named("Taste", "taste"), {}, "a feature is called 'taste', which, except for case, is the feature 'Taste'"),
        (
            lambda path: archive(path, STRUCTURES["a list"], lambda click, buy: [click, buy]),
            {},
            "name one (--output), or several (--objective), of 'click' float32 [None, 1], 'buy' float32 [None, 1]",
        ),
        (of_ids([]), {"item_input": "item_id"}, "item_id of {path} takes int64 [None], which are ids"),
        (of_ids([]), {"item_input": "item_id"}, "give their table in place of an INDEX: --items items.parquet"),
        (no_inputs, {}, "it must be a functional model"),
    ],
)
def test_errors_list_what_the_archive_has(index, tmp_path, make, options, words):
    """First contact, line 15."""
    path = tmp_path / "ranker.keras"
    make(path)
    with pytest.raises(NannError) as error:
        export(path, index, tmp_path / "1", WIDE, SourceOptions(**options))
    assert words.replace("{path}", str(path)) in str(error.value)
    assert not (tmp_path / "1").exists()


class Two(tf.Module):
    """A module with two outputs and a feature that has the name of an input of every signature."""

    features = {"k": tf.TensorSpec([None, DIM])}  # noqa: RUF012

    def user(self, features):
        return (features["k"],)

    @tf.function(input_signature=[(tf.TensorSpec([None, DIM]),), tf.TensorSpec([None, None, DIM])])
    def score(self, user, items):
        dots = tf.einsum("bd,bnd->bn", user[0], items)
        return {"click": dots, "skip": -dots}


def test_a_module_and_a_saved_model_have_outputs_and_names_too(index, tmp_path):
    """First contact, line 15."""
    model = Two()
    saved = tf.Module()
    saved.user, saved.score = tf.function(model.user, input_signature=[model.features]), model.score
    tf.saved_model.save(saved, str(tmp_path / "saved"))
    items = tf.repeat(EMBEDDINGS[None], 2, axis=0)
    for each in (model, tmp_path / "saved"):
        source = open_source(each, rename={"taste": "k"}, output="skip")
        scores = source.score(source.user_tensors({"taste": tf.constant(VALUES["taste"])}), items)
        np.testing.assert_allclose(scores, -VALUES["taste"] @ EMBEDDINGS.T, rtol=1e-4, atol=1e-5)
        with pytest.raises(NannError, match=r"name one \(--output\) of 'click' float32"):
            export(
                each,
                index,
                tmp_path / "1",
                WIDE,
                source=SourceOptions(rename={"taste": "k"}),
                options=ExportOptions(rewrite=False),
            )
    with pytest.raises(NannError, match="--item-input is 'x', which only a Keras archive has"):
        open_source(model, item_input="x")
