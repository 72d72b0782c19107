"""Made-up requests have values that the model's own tables know: for warm-up, verify, smoke and bench."""

import keras
import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from export_tools import ExportOptions, Items, SourceOptions, export, inspect, verify
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.loadtest.inputs import make_inputs
from tfserving_ext.loadtest.scenario import ModelSpec
from tfserving_ext.serving import Client, LocalServer, smoke
from tfserving_ext.serving.known_values import MOST_KEPT, KnownValues, known_values
from tfserving_ext.serving.models import load_servable
from tfserving_ext.serving.warm_up import predict_requests

FAST = ExportOptions(measure=False)
COUNTRIES, SEGMENTS, CODES = ["DE", "FR", "JP", "US"], ["gold", "silver"], [70, 80, 90]
TABLES = {"uid": 100, "recent": 30, "country": 4, "segment": 3, "code": 3}


def ranker(items: int) -> keras.Model:
    """A ranker whose vocabularies have no place for unknown values, and whose context is a dict of several shapes."""
    layers = keras.layers
    inputs = {
        "brand": keras.Input((), name="brand", dtype="int64"),
        "price": keras.Input((1,), name="price"),
        "uid": keras.Input((), name="uid", dtype="int64"),
        "country": keras.Input((), name="country", dtype="string"),
        "recent": keras.Input((5,), name="recent", dtype="int64"),
        "segment": keras.Input((1,), name="segment", dtype="string"),
        "code": keras.Input((), name="code", dtype="int64"),
        "hour": keras.Input((), name="hour"),
        "page": keras.Input((), name="page", dtype="string"),
    }
    rows = {
        "uid": inputs["uid"],
        "recent": inputs["recent"],
        "country": layers.StringLookup(vocabulary=COUNTRIES, num_oov_indices=0)(inputs["country"]),
        "segment": layers.StringLookup(vocabulary=SEGMENTS)(inputs["segment"]),
        "code": layers.IntegerLookup(vocabulary=CODES, num_oov_indices=0)(inputs["code"]),
    }
    user = [layers.Embedding(TABLES[name], 8, name=f"{name}_table")(value) for name, value in rows.items()]
    user = [layers.GlobalAveragePooling1D()(one) if len(one.shape) == 3 else one for one in user]
    user += [layers.Reshape((1,))(inputs["hour"])]
    user += [layers.Embedding(7, 8)(layers.Hashing(7)(inputs["page"]))]
    of_user = layers.Dense(8)(layers.Concatenate()(user))
    of_item = layers.Dense(8)(layers.Concatenate()([layers.Embedding(items, 8)(inputs["brand"]), inputs["price"]]))
    score = layers.Dense(1)(layers.Concatenate()([of_user, of_item, layers.Multiply()([of_user, of_item])]))
    return keras.Model(inputs, score)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    table = {
        "item_id": np.arange(60) + 5,
        "brand": np.arange(60) % 20,
        "price": np.linspace(0, 1, 60, dtype=np.float32),
    }
    pl.DataFrame(table).write_parquet(folder / "items.parquet")
    keras.utils.set_random_seed(1)
    ranker(20).save(folder / "ranker.keras")
    return export(folder / "ranker.keras", Items(folder / "items.parquet"), folder / "models" / "1", options=FAST)


def allowed(name: str, value: np.ndarray) -> bool:
    """Whether all of a feature's values have a row of their own, by the model's vocabularies."""
    vocabulary = {"country": COUNTRIES, "segment": SEGMENTS, "code": CODES}.get(name, range(TABLES.get(name, 0)))
    found = [one.decode() if isinstance(one, bytes) else one for one in value.ravel().tolist()]
    return name not in TABLES or all(one in vocabulary for one in found)


def test_an_export_says_what_the_model_s_layers_know(exported):
    assert inspect(exported)["manifest"]["known_values"] == {
        "uid": {"below": 100},
        "recent": {"below": 30},
        "country": {"values": COUNTRIES, "count": 4},
        "segment": {"values": SEGMENTS, "count": 2},
        "code": {"values": CODES, "count": 3},
    }


def test_warm_up_records_hold_known_values_of_different_users(exported):
    records = [
        {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        for request in predict_requests(exported)
    ]
    assert all(allowed(name, value) for record in records for name, value in record.items())
    assert {record["recent"].shape for record in records} == {(1, 5)}
    assert {record["uid"].shape for record in records} == {(1,)}
    assert len({int(record["uid"][0]) for record in records}) > 5
    assert {record["country"][0] for record in records} == {country.encode() for country in COUNTRIES}


def test_bench_draws_from_the_whole_range(exported):
    with LocalServer({"ranker": exported.parent}) as server:
        client = Client(f"127.0.0.1:{server.grpc_port}", "ranker")
        signature = client.signature("retrieve")
        spec = ModelSpec(name="ranker", signature="retrieve", path=exported, requests=200)
        requests = make_inputs(spec, {"retrieve": signature}, seed=1)
        for request in requests[:5]:
            assert client.predict("retrieve", request)["num_results"][0] > 0
    assert all(allowed(name, value) for request in requests for name, value in request.items())
    assert len({int(request["uid"][0]) for request in requests}) > 60


def test_smoke_sends_the_export_s_own_example(exported):
    with LocalServer({"ranker": exported.parent}) as server:
        target = f"127.0.0.1:{server.grpc_port}"
        assert smoke(target, "ranker", path=exported)["item_ids"].shape[0] == 1
        with pytest.raises(NannError, match="is not a SavedModel"):
            smoke(target, "ranker", path=exported.parent)


def test_verify_asks_with_known_values(exported):
    assert verify(exported)["coverage"] > 0.9


class Strict(tf.Module):
    """Refuses every value that it does not know, in four ways; 1 and "1" are among these."""

    features = {  # noqa: RUF012
        "city": tf.TensorSpec([None, 2], tf.string),
        "user": tf.TensorSpec([None], tf.int64),
        "level": tf.TensorSpec([None], tf.int32),
        "grade": tf.TensorSpec([None, None], tf.int64),
    }

    def __init__(self):
        keys, places = tf.constant(["Bonn", "Köln"]), tf.constant([0, 1], tf.int64)
        self.cities = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, places), -1)
        self.users = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, -1)
        self.users.insert(tf.constant([7, 8, 9], tf.int64), tf.constant([0, 1, 2], tf.int64))
        self.rows = tf.Variable(tf.random.stateless_normal([3, 64], [1, 2]))
        self.constant = np.ones([1, 64], np.float32)

    def user(self, features):
        place = tf.ensure_shape(self.users.lookup(features["user"]), [None])
        tf.debugging.assert_greater_equal(place, tf.constant(0, tf.int64))
        towns = tf.reduce_sum(tf.gather(self.rows[:2], self.cities.lookup(features["city"])), axis=1)
        level = tf.gather(tf.constant(self.constant), tf.reshape(features["level"], [-1, 1]))[:, 0]
        grade = tf.reduce_sum(tf.nn.embedding_lookup(self.rows, tf.cast(features["grade"], tf.int32)), axis=1)
        return (tf.gather(self.rows, place) + towns + level + grade,)

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)


CONTEXT = {"user": "8", "city": ["Bonn", "Köln"], "level": 0}


def by_default(tmp_path, defaults):
    vectors = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    build_index(np.arange(50), vectors, tmp_path / "index", Hnsw(threads=1))
    return export(Strict(), tmp_path / "index", tmp_path / "1", source=SourceOptions(defaults=defaults), options=FAST)


def test_features_with_a_default_may_be_left_out(tmp_path):
    """For several users at once, one of whom gives what the others leave out."""
    retrieve = load_servable(by_default(tmp_path, CONTEXT)).signature("retrieve")
    grade = np.array([[0, 1], [2, 2], [1, 0]])
    short = retrieve.run({"grade": grade})
    cities = np.array([[b"Bonn", "Köln".encode()]] * 3, object)
    whole = {"grade": grade, "user": np.array([8, 8, 8]), "city": cities, "level": np.zeros(3, np.int32)}
    np.testing.assert_array_equal(short["scores"], retrieve.run(whole)["scores"])
    other = retrieve.run({**whole, "user": np.array([7, 8, 9])})["scores"]
    assert (other[1] == short["scores"][1]).all()
    assert (other[0] != short["scores"][0]).any()


def test_smoke_says_how_a_model_that_refuses_ones_is_asked(tmp_path):
    exported = by_default(tmp_path / "strict", None)
    with LocalServer({"strict": exported.parent}) as server:
        target = f"127.0.0.1:{server.grpc_port}"
        with pytest.raises(NannError, match=r"INVALID_ARGUMENT.*name its SavedModel.*\(--path\)"):
            smoke(target, "strict")
        assert smoke(target, "strict", path=exported)["item_ids"].shape[0] == 1


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ({"town": "Bonn"}, "a default was given for 'town', which is no feature of the model; allowed are city, user"),
        ({"user": "seven"}, "the default of user is 'seven'; allowed is int64 of the extents"),
        ({"user": 1.5}, "the default of user is 1.5; allowed is int64"),
        ({"level": 2**40}, "the default of level is 1099511627776; allowed is int32"),
        ({"city": ["Bonn"]}, r"of the extents \[1\]; allowed is string of the extents \[2\]"),
        ({"grade": 1}, r"of the extents \[\]; allowed is int64 of the extents \[None\]"),
    ],
)
def test_a_default_that_does_not_fit_is_refused(tmp_path, defaults, words):
    with pytest.raises(NannError, match=words):
        by_default(tmp_path, defaults)
    assert not (tmp_path / "1").exists()


@pytest.mark.slow
@pytest.mark.parametrize("as_saved_model", [False, True])
def test_a_model_that_refuses_ones_is_exported(tmp_path, as_saved_model):
    vectors = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    build_index(np.arange(50), vectors, tmp_path / "index", Hnsw(threads=1))
    model = Strict()
    if as_saved_model:
        model.user = tf.function(model.user, input_signature=[Strict.features])
        user = tf.TensorSpec([1, 64]), tf.TensorSpec([1, None, 64])
        model.score = tf.function(model.score, input_signature=[(user[0],), user[1]])
        tf.saved_model.save(model, str(tmp_path / "saved"))
    target = export(tmp_path / "saved" if as_saved_model else model, tmp_path / "index", tmp_path / "1", options=FAST)
    assert inspect(target)["manifest"]["known_values"] == {
        "city": {"values": ["Bonn", "Köln"], "count": 2},
        "user": {"values": [7, 8, 9], "count": 3},
        "level": {"below": 1},
        "grade": {"below": 3},
    }


WORDS = st.lists(st.integers(-9, 40), unique=True, min_size=1, max_size=30)


@given(one=WORDS, other=WORDS, below=st.integers(1, 50))
def test_values_in_two_tables_are_those_in_both(one, other, below):
    mine, theirs = (KnownValues.of_vocabulary(np.array(values, np.int64)) for values in (one, other))
    assert mine is not None
    assert theirs is not None
    assert mine.both(theirs).values.tolist() == sorted(set(one) & set(other) or one)
    ranged = KnownValues.of_range(below)
    wanted = sorted({value for value in one if 0 <= value < below} or one)
    assert mine.both(ranged).values.tolist() == ranged.both(mine).values.tolist() == wanted


@given(
    values=st.lists(st.text(max_size=5), unique=True, min_size=1, max_size=40).map(
        lambda texts: [t.encode() for t in texts]
    )
    | st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=40)
)
def test_a_manifest_s_entry_gives_the_values_again(values):
    known = KnownValues.of_vocabulary(np.array(values, object if isinstance(values[0], bytes) else np.int64))
    assert known is not None
    again = KnownValues.of_entry(known.as_dict())
    assert again.values.tolist() == known.values.tolist() == sorted(values)
    assert again.count == len(values)
    assert set(again.draw([30], np.random.default_rng(0)).tolist()) <= set(values)


@given(below=st.integers(1, 2**40))
def test_a_range_is_kept_evenly_with_both_ends(below):
    known = KnownValues.of_entry(KnownValues.of_range(below).as_dict())
    assert (known.values[0], known.values[-1], known.count) == (0, below - 1, below)
    assert len(known.values) == len(np.unique(known.values)) == min(below, MOST_KEPT)


def test_what_is_no_text_is_left_out(tmp_path):
    assert KnownValues.of_vocabulary(np.array([b"\xff", b"a"], object)).values.tolist() == [b"a"]
    assert KnownValues.of_vocabulary(np.array([b"\xff"], object)) is None
    assert known_values(tmp_path) == {}
