"""Exports of an index whose ids are texts: requests and answers have texts, and mean what numbers would."""

import json

import keras
import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from export_tools import Defaults, ExportOptions, Items, SourceOptions, export, reuse, verify
from export_tools.judge import judge
from tests.export.sources import Ranker
from tests.text_ids import UNKNOWN, spell, twin
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.serving import LocalServer, ServerOptions
from tfserving_ext.serving.client import Client, RestClient, smoke
from tfserving_ext.serving.models import ServingError, load_servable

QUICK = ExportOptions(measure=False)
# An item that the model knows from histories, but that is not in the index.
GONE = 10


@pytest.fixture(scope="module")
def indexes(world, tmp_path_factory):
    """The world's items but some, by number and by text; texts also stand for the items that are gone."""
    whole, root = Index.open(world.index), tmp_path_factory.mktemp("indexes")
    ids, embeddings = np.asarray(whole.item_ids), whole.embeddings()
    by_number = build_index(ids[GONE:], embeddings[GONE:], root / "numbers", Hnsw(threads=1))
    return by_number, twin(by_number, root / "texts", ids[:GONE])


@pytest.fixture(scope="module")
def exports(world, indexes, tmp_path_factory):
    """Our own model with both indexes; by text it is the version to serve."""
    root = tmp_path_factory.mktemp("exports")
    return [
        export(world.model, index.folder, root / name / "1", Defaults(k=12), options=QUICK)
        for index, name in zip(indexes, ("numbers", "texts"), strict=True)
    ]


@pytest.fixture(scope="module")
def servables(exports):
    return [load_servable(one) for one in exports]


def requests(world, rng):
    """Ids of two users, by input: of items, of those that are gone, unknown ones and padding."""
    known = np.asarray(Index.open(world.index).item_ids)
    history = rng.choice(known, [2, 6])
    history[0, :2], history[1, -1] = known[:2], -1
    exclude = np.concatenate([rng.choice(known, [2, 30]), [[UNKNOWN], [-1]]], axis=1)
    return {"item_history": history, "exclude": exclude}


@pytest.mark.parametrize(
    "name", ["retrieve", "retrieve_best_first", "retrieve_surrogate", "retrieve_rounds", "retrieve_trace"]
)
def test_every_signature_answers_the_same_by_text(world, servables, name):
    ids = requests(world, np.random.default_rng(len(name)))
    for given in (ids, {"item_history": ids["item_history"], "exclude": ids["exclude"][:1]}):
        by_number = servables[0].signature(name).run(given)
        by_text = servables[1].signature(name).run({name: spell(one) for name, one in given.items()})
        np.testing.assert_array_equal(by_text["item_ids"], spell(by_number["item_ids"]))
        for output in ("scores", "num_results", "items_scored", "rounds"):
            np.testing.assert_array_equal(by_text[output], by_number[output], err_msg=output)
    none = servables[1].signature(name).run({"item_history": spell(ids["item_history"]), "k": np.int32(700)})
    assert none["item_ids"][0, -1] == b"" and (none["num_results"] <= 600).all()


def test_signatures_say_what_they_take(servables):
    inputs = {name: info.dtype for name, info in servables[1].signature("retrieve").proto.inputs.items()}
    assert inputs["item_history"] == inputs["exclude"] == tf.string.as_datatype_enum
    assert inputs["category_history"] == tf.int64.as_datatype_enum
    with pytest.raises(ServingError, match="to be string but int64 is provided"):
        servables[1].signature("retrieve").run({"item_history": np.ones([1, 3], np.int64)})


@pytest.mark.slow
def test_the_tools_know_texts(exports, indexes):
    assert verify(exports[1])["coverage"] > 0.5
    assert json.loads((exports[1] / "assets.extra" / "nann_export.json").read_text())["numbered"] is True
    ids = np.asarray(indexes[0].item_ids)
    asked = [{"item_history": ids[at : at + 5], "next": ids[at + 5 : at + 8], "exclude": ids[:3]} for at in (0, 90)]
    by_number = judge(exports[0], [{name: one.tolist() for name, one in each.items()} for each in asked])
    texts = [{name: [one.decode() for one in spell(ids)] for name, ids in each.items()} for each in asked]
    by_text = judge(exports[1], texts)
    assert by_text["answers"] == by_number["answers"]
    with pytest.raises(NannError, match="'next' holds integers, but the model's item ids are strings"):
        judge(exports[1], [{**texts[0], "next": [1, 2]}])


def test_texts_by_grpc_and_by_rest(exports, world):
    ids = requests(world, np.random.default_rng(1))
    texts = {name: np.vectorize(bytes.decode, otypes=[object])(spell(one)) for name, one in ids.items()}
    options = ServerOptions(grpc_port=0, rest_port=0)
    with LocalServer({"nann": exports[1].parent}, options) as server:
        target = f"127.0.0.1:{server.grpc_port}"
        with Client(target, "nann") as client:
            found = client.predict("retrieve", texts)
        rest = RestClient(f"http://127.0.0.1:{server.rest_port}", "nann")
        rest_only = {"category_history": [[]], "k": 12, "frontier": 16, "pool": 200, "max_steps": 1000}
        by_rest = rest.predict("retrieve", {**texts, **rest_only, "budget": 0, "deadline_ms": 0})
        assert [one.encode() for one in by_rest["item_ids"].ravel()] == found["item_ids"].ravel().tolist()
        assert smoke(target)["top_k"].dtype == object


@pytest.mark.slow
def test_an_index_is_swapped_by_its_texts(world, exports, indexes, tmp_path):
    order = np.random.default_rng(2).permutation(len(indexes[0].item_ids))[:300]
    ids, embeddings = np.asarray(indexes[0].item_ids)[order], indexes[0].embeddings(order)
    fewer = twin(build_index(ids, embeddings, tmp_path / "numbers", Hnsw(threads=1)), tmp_path / "fewer")
    swapped = reuse(exports[1], fewer.folder, tmp_path / "2")
    found = load_servable(swapped).signature("retrieve").run({"item_history": spell(ids[None, :4])})
    assert set(found["item_ids"][0]) <= set(spell(ids))
    other = build_index(spell(ids), embeddings, tmp_path / "other", Hnsw(threads=1))
    with pytest.raises(NannError, match=r"for the model by .*other, and .* by the exported index; build both with"):
        reuse(exports[1], other.folder, tmp_path / "3")
    with pytest.raises(NannError, match="are integers, those of the exported index strings"):
        reuse(exports[1], tmp_path / "numbers", tmp_path / "3")


class Looked(tf.Module):
    """A ranker that takes texts: it looks them up itself."""

    def __init__(self, keys: np.ndarray, table: np.ndarray) -> None:
        super().__init__()
        self.lookup = keras.layers.StringLookup(vocabulary=keys.tolist(), mask_token="")
        self.table = tf.Variable(np.concatenate([np.zeros([2, table.shape[1]], np.float32), table]), trainable=False)
        self.seeds = "bought"

    @tf.function(input_signature=[{"bought": tf.TensorSpec([None, None], tf.string)}])
    def user(self, features):
        return (tf.reduce_sum(tf.gather(self.table, self.lookup(features["bought"])), axis=1),)

    @tf.function(input_signature=[{"item": tf.TensorSpec([None], tf.string)}])
    def item(self, features):
        return tf.gather(self.table, self.lookup(features["item"]))

    @tf.function(input_signature=[(tf.TensorSpec([None, 8]),), tf.TensorSpec([None, None, 8])])
    def score(self, user, items):
        return tf.reduce_sum(user[0][:, None] * items, axis=-1)


@pytest.fixture(scope="module")
def own():
    keys = np.array([f"B{number:05d}" for number in np.random.default_rng(0).permutation(300)])
    return keys, np.random.default_rng(1).normal(size=[300, 8]).astype(np.float32)


@pytest.mark.slow
def test_a_model_that_takes_texts_itself(own, tmp_path):
    keys, table = own
    index = build_index(keys, table, tmp_path / "index", Hnsw(threads=1))
    model = Looked(keys, table)
    made = export(model, index.folder, tmp_path / "1", Defaults(k=5), options=QUICK)
    found = load_servable(made).signature("retrieve").run({"bought": np.array([["B00003", "", "B00007", "none"]])})
    wanted = table[keys == "B00003"] + table[keys == "B00007"]
    best = np.argsort(-(table @ wanted[0]))[:5]
    assert [one.decode() for one in found["item_ids"][0]] == keys[best].tolist()
    assert verify(made)["coverage"] > 0.9
    # Another order gives other numbers, which this model never sees.
    again = build_index(keys[::-1], table[::-1], tmp_path / "again", Hnsw(threads=1))
    swapped = load_servable(reuse(made, again.folder, tmp_path / "2"))
    found = swapped.signature("retrieve").run({"bought": np.array([["B00003"]])})
    assert found["item_ids"][0, 0].decode() == keys[np.argmax(table @ table[keys == "B00003"][0])]
    wrong = build_index(keys, table[::-1], tmp_path / "wrong", Hnsw(threads=1))
    with pytest.raises(NannError, match="in different orders"):
        export(model, wrong.folder, tmp_path / "3", options=QUICK)


def test_a_model_of_texts_needs_an_index_of_texts(own, tmp_path):
    keys, table = own
    index = build_index(np.arange(300), table, tmp_path / "index", Hnsw(threads=1))
    with pytest.raises(NannError, match="the seeds 'bought' are strings, but the ids of the index are integers"):
        export(Looked(keys, table), index.folder, tmp_path / "1", options=QUICK)


@pytest.mark.slow
def test_seeds_of_their_own_are_texts_too(own, tmp_path):
    keys, table = own
    index = build_index(keys, table, tmp_path / "index", Hnsw(threads=1))

    class Plain(tf.Module):
        @tf.function(input_signature=[{"vector": tf.TensorSpec([None, 8])}])
        def user(self, features):
            return (features["vector"],)

        @tf.function(input_signature=[(tf.TensorSpec([None, 8]),), tf.TensorSpec([None, None, 8])])
        def score(self, user, items):
            return tf.reduce_sum(user[0][:, None] * items, axis=-1)

    made = export(Plain(), index.folder, tmp_path / "1", Defaults(k=5), options=QUICK)
    given = {"vector": table[:2], "seeds": keys[None, :3].astype(object), "exclude": np.array([[keys[0]], [""]])}
    found = load_servable(made).signature("retrieve").run(given)["item_ids"]
    assert keys[0].encode() not in found[0] and found.shape == (2, 5)
    assert verify(made)["coverage"] > 0.9


def test_a_row_of_another_model_is_found(world, tmp_path):
    """A model of numbers by an index of texts alone gets the numbers of the rows."""
    index = Index.open(world.index)
    ids, embeddings = np.asarray(index.item_ids), index.embeddings()
    keyed = build_index(spell(ids), embeddings, tmp_path / "index", Hnsw(threads=1))
    ranker = Ranker(keyed)
    made = export(ranker, keyed.folder, tmp_path / "1", Defaults(k=5), SourceOptions(seeds="item_history"), QUICK)
    found = load_servable(made).signature("retrieve").run({"item_history": spell(ids[None, :3])})
    user = ranker.user({"item_history": tf.constant([[0, 1, 2]], tf.int64)})
    best = np.argsort(-ranker.score(user, tf.constant(embeddings[None])).numpy()[0])
    assert found["item_ids"][0, 0] == spell(ids[best[:1]])[0]


def test_a_ranker_of_texts_with_the_table_of_its_items(tmp_path):
    """Ids are text in the table, in the ranker's lookups, in requests and in answers."""
    keys = [f"sku/{number}" for number in range(120)]
    keras.utils.set_random_seed(1)
    lookup = keras.layers.StringLookup(vocabulary=keys, mask_token="", name="ids")
    table = keras.layers.Embedding(122, 8, name="table")
    item, bought = keras.Input((), dtype="string", name="item"), keras.Input([None], dtype="string", name="bought")
    price = keras.Input([1], name="price")
    user = keras.layers.GlobalAveragePooling1D()(table(lookup(bought)))
    both = keras.layers.Concatenate()([user, table(lookup(item)), price])
    ranker = keras.Model([bought, item, price], keras.layers.Dense(1)(keras.layers.Dense(16, "relu")(both)))
    ranker.save(tmp_path / "ranker.keras")
    items = pl.DataFrame({"item": keys, "price": np.random.default_rng(0).normal(size=120).astype(np.float32)})
    made = export(
        tmp_path / "ranker.keras", Items(items), tmp_path / "1", Defaults(k=5), SourceOptions(seeds="bought"), QUICK
    )
    asked = np.array([["sku/3", "sku/77", ""]])
    found = load_servable(made).signature("retrieve").run({"bought": asked})
    inputs = {"bought": np.repeat(asked, 120, axis=0), "item": np.array(keys), "price": items["price"].to_numpy()}
    scores = ranker({name: tf.constant(one) for name, one in inputs.items()}).numpy()[:, 0]
    wanted = np.argsort(-scores)[:5]
    assert [one.decode() for one in found["item_ids"][0]] == [keys[place] for place in wanted]
    np.testing.assert_allclose(found["scores"][0], scores[wanted], rtol=1e-4)
    for ids, words in ((["a", "a"], "item id 'a' appears twice"), (["a", ""], "item id 1 has 0 bytes")):
        broken = Items(pl.DataFrame({"item": ids, "price": [0.0, 1.0]}))
        with pytest.raises(NannError, match=words):
            export(tmp_path / "ranker.keras", broken, tmp_path / "2", options=QUICK)
