"""Cutting rankers of awkward shapes, and what is said of models and tables that do not fit."""

import keras
import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keras import layers, ops

from export_tools import Items, SourceOptions, export
from export_tools.cut import cut_and_indexed, explain_cut
from export_tools.cut.flow import INFINITE, minimum_cut
from tfserving_ext.errors import NannError

N = 40
RNG = np.random.default_rng(0)
TABLE = pl.DataFrame(
    {
        "item_id": np.arange(N) * 3 + (1 << 40),
        "kind": [("book", "game", "tool")[row % 3] for row in range(N)],
        "price": RNG.gamma(2, 20, N),
        "code": RNG.integers(0, 9, N),
        "size": pl.Series(RNG.normal(size=(N, 3)).astype(np.float32)),
    }
)
USERS = {
    "age": np.array([[20.0], [41.0]], np.float32),
    "taste": RNG.normal(size=(2, 4)).astype(np.float32),
    "history": np.array([TABLE["item_id"][:5].to_numpy(), TABLE["item_id"][7:12].to_numpy()]),
    "place": np.array([b"DE", b"FR"], object),
}
SPECS = {
    "age": ([1], "float32"),
    "taste": ([4], "float32"),
    "history": ([None], "int64"),
    "place": ([], "string"),
    "item_id": ([], "int64"),
    "kind": ([], "string"),
    "price": ([], "float32"),
    "code": ([], "int32"),
    "size": ([3], "float32"),
}


def model(score, *names):
    """Returns a functional model of some of the inputs."""
    inputs = {name: keras.Input(SPECS[name][0], dtype=SPECS[name][1], name=name) for name in names}
    return keras.Model(inputs, score(inputs))


def bought(inputs):
    """Whether the item is in the history, of ids that no float32 holds, beside floats."""
    same = ops.cast(ops.equal(inputs["history"], ops.expand_dims(inputs["item_id"], 1)), "float32")
    return layers.Dense(1)(
        ops.concatenate([ops.sum(same, axis=1, keepdims=True), inputs["size"], inputs["age"]], axis=1)
    )


def crossed(inputs):
    """A crossing of text of both sides, and text that is embedded."""
    cross = layers.HashedCrossing(50)((ops.expand_dims(inputs["place"], 1), ops.expand_dims(inputs["kind"], 1)))
    kind = layers.Embedding(9, 3)(layers.StringLookup(vocabulary=["book", "game", "tool"])(inputs["kind"]))
    return layers.Dense(1)(ops.concatenate([layers.Flatten()(layers.Embedding(50, 2)(cross)), kind], axis=1))


def tiled(inputs):
    """Copies of the item's vector beside every step, and a product of batches."""
    item = layers.Dense(4)(inputs["size"])
    pairs = ops.expand_dims(inputs["taste"], 2) * ops.expand_dims(item, 1)
    return ops.sum(layers.Dense(2)(pairs), axis=(1, 2)) + ops.log(1.0 + inputs["price"]) * inputs["age"][:, 0]


def halves(inputs):
    """Half precision, and one-hot codes that are wider than what they are made of."""
    codes = ops.cast(ops.one_hot(inputs["code"], 200), "float16")
    joined = ops.concatenate([codes, ops.cast(inputs["taste"], "float16")], axis=1)
    return ops.cast(layers.Dense(1, dtype="float16")(joined), "float32") + layers.Embedding(9, 1)(inputs["code"])


AWKWARD = {
    "ids above 2^53's half": (bought, ("history", "item_id", "size", "age")),
    "text of both sides": (crossed, ("place", "kind")),
    "copies and products": (tiled, ("taste", "size", "price", "age")),
    "one-hot in half precision": (halves, ("taste", "code")),
}


@pytest.fixture
def table(tmp_path):
    TABLE.write_parquet(tmp_path / "items.parquet")
    return tmp_path / "items.parquet"


def compare(path, items, wanted):
    """Compares the scores of all items, as rows of the index, with those of the original model, [users, items]."""
    with cut_and_indexed(path, items, "", None, {}) as (source, index):
        assert np.array_equal(index.item_ids, TABLE["item_id"])
        for user in range(2):
            features = {name: tf.constant(USERS[name][user : user + 1]) for name in source.features}
            scores = source.score(source.user_tensors(features), tf.constant(index.embeddings()[None]))
            np.testing.assert_allclose(scores[0], wanted[user], rtol=2e-3, atol=1e-4)
            # Whatever a padded row holds must not end the search.
            source.score(source.user_tensors(features), tf.fill([1, 3, index.dim], -1e9))
    return source, index


def by_hand(call, names):
    """Returns the scores of all items by the original model, [2, N]."""
    found = []
    for user in range(2):
        rows = {name: np.repeat(USERS[name][user : user + 1], N, axis=0) for name in names if name in USERS}
        rows |= {name: TABLE[name].to_numpy() for name in names if name in TABLE.columns}
        rows = {
            name: value.astype(object if value.dtype.kind in "OU" else SPECS[name][1]) for name, value in rows.items()
        }
        found.append(np.asarray(call({name: tf.constant(value) for name, value in rows.items()})).reshape(-1))
    return found


@pytest.mark.medium
@pytest.mark.parametrize("kind", AWKWARD)
def test_an_awkward_ranker_gives_its_own_scores(kind, table, tmp_path):
    score, names = AWKWARD[kind]
    made = model(score, *names)
    made.save(tmp_path / "ranker.keras")
    wanted = by_hand(lambda rows: made(rows, training=False), names)
    compare(tmp_path / "ranker.keras", Items(table), wanted)
    made.export(str(tmp_path / "saved"), verbose=False)
    compare(tmp_path / "saved", Items(table), wanted)


class Served(tf.Module):
    """No Keras model: a table, a loop over the history, and an input that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(RNG.normal(size=(9, 4)).astype(np.float32))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 4], name="taste"),
            tf.TensorSpec([None], tf.int32, name="item_code"),
            tf.TensorSpec([None, 1], name="age"),
        ]
    )
    def serve(self, taste, item_code, age):
        vectors = tf.gather(self.table, item_code)
        _, total = tf.while_loop(
            lambda step, _: step < 4,
            lambda step, total: (step + 1, total + tf.tanh(taste[:, step] * vectors[:, step])),
            (0, tf.zeros_like(taste[:, 0])),
        )
        return {"score": total}


@pytest.mark.medium
def test_a_saved_model_with_other_names_and_a_loop(table, tmp_path):
    """`--item-column` maps a name; an input that the score does not need is not asked for."""
    served = Served()
    tf.saved_model.save(served, str(tmp_path / "saved"), signatures=served.serve)

    def call(rows):
        return served.serve(rows["taste"], rows["code"], tf.zeros([N, 1]))["score"]

    items = Items(table, columns={"item_code": "code"})
    source, index = compare(tmp_path / "saved", items, by_hand(call, ("taste", "code")))
    assert set(source.features) == {"taste"}
    assert index.dim == 4
    text = explain_cut(tmp_path / "saved", items)
    assert "item_code int32" in text and "ResourceGather float32 [4]" in text


@pytest.mark.medium
def test_the_graph_is_built_on_a_layer(table, tmp_path):
    def score(inputs):
        tower = layers.Dense(5, name="narrow")(layers.Dense(20, name="wide")(inputs["size"]))
        return layers.Dense(1)(ops.concatenate([tower, inputs["taste"]], axis=1))

    made = model(score, "taste", "size")
    made.save(tmp_path / "ranker.keras")
    wanted = by_hand(lambda rows: made(rows, training=False), ("taste", "size"))
    _, narrow = compare(tmp_path / "ranker.keras", Items(table), wanted)
    items = Items(table, embedding="wide", filter_by=["price", "kind"])
    _, wide = compare(tmp_path / "ranker.keras", items, wanted)
    assert (narrow.attributes, wide.attributes) == ({}, {"price": "float", "kind": "string"})
    assert narrow.dim == wide.dim == 5
    with pytest.raises(NannError, match=r"--embedding is 'dense', which is no layer .* allowed are .*narrow"):
        explain_cut(tmp_path / "ranker.keras", Items(table, embedding="dense"))


def plain(inputs):
    return layers.Dense(1)(ops.concatenate([inputs["taste"], inputs["size"]], axis=1))


def by_batch(inputs):
    return plain(inputs) - ops.mean(plain(inputs))


def only_user(inputs):
    return layers.Dense(1)(inputs["taste"])


def only_item(inputs):
    return layers.Dense(1)(inputs["size"])


def only_ids(inputs):
    same = ops.equal(inputs["history"], ops.expand_dims(inputs["item_id"], 1))
    return ops.any(same, axis=1, keepdims=True)


def logarithm(inputs):
    return plain({**inputs, "size": ops.log(inputs["size"])})


@pytest.mark.medium
@pytest.mark.parametrize(
    ("score", "names", "told", "words"),
    [
        (
            plain,
            ("taste", "size"),
            {"id_column": "sku"},
            "has no column 'sku' of item ids (--id); it has item_id, kind",
        ),
        (
            plain,
            ("taste", "size"),
            {"id_column": "kind"},
            "item id 'game' appears twice",
        ),
        (plain, ("taste", "size"), {"id_column": "code"}, "appears"),
        (
            plain,
            ("taste", "size"),
            {"columns": {"size": "width"}},
            "no column 'width' (--item-column size=width); it has",
        ),
        (
            plain,
            ("taste", "size"),
            {"columns": {"width": "size"}},
            "names the input 'width'; the model has size, taste",
        ),
        (plain, ("taste", "size"), {"columns": {"size": "kind"}}, "is String, the input takes float32 (None, 3)"),
        (plain, ("taste", "size"), {"columns": {"size": "price"}}, "has rows of shape [], the input takes (None, 3)"),
        (plain, ("taste", "size"), {"user_inputs": ("size",)}, "no input of the model is a column of {table}"),
        (
            only_item,
            ("size", "price"),
            {},
            "every input of the model is a column of {table}, so that none is the user's",
        ),
        (only_item, ("taste", "size"), {}, "the score does not depend on any input of the user (taste)"),
        (only_user, ("taste", "size"), {}, "the score does not depend on any input of the item (size)"),
        (plain, ("taste", "size"), {"embedding": "deep"}, "--embedding is 'deep', which is no layer with floats"),
        (by_batch, ("taste", "size"), {}, "gives other scores by one row, scored alone than as a whole"),
        (only_ids, ("history", "item_id"), {}, "the score takes no floats of an item, nor computes any from its ids"),
        (plain, ("taste", "size"), {"filter_by": ["colour"]}, "--filter-by names the column 'colour'; {table} has the"),
        (logarithm, ("taste", "size"), {}, "the model computes NaN or infinity in the row of item 1099511627776"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(score, names, told, words, table, tmp_path):
    model(score, *names).save(tmp_path / "ranker.keras")
    with pytest.raises(NannError) as error:
        export(tmp_path / "ranker.keras", Items(table, **told), tmp_path / "1")
    assert words.replace("{table}", str(table)) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "1").exists()


def test_a_column_of_nearly_the_name_of_a_user_input_is_told(tmp_path):
    """Otherwise an item's feature would be asked of every request."""
    ranker = model(lambda given: layers.Dense(1)(ops.concatenate([given["age"], given["size"]], axis=1)), "age", "size")
    ranker.save(tmp_path / "ranker.keras")
    doubt = (
        "the input 'age' is taken for the user's, but the table of items has a column 'Age_': if it is the item's, say"
    )
    told = TABLE.with_columns(Age_=pl.lit(1.0))
    assert doubt in explain_cut(tmp_path / "ranker.keras", Items(told))
    assert "taken for the user's" not in explain_cut(tmp_path / "ranker.keras", Items(told, user_inputs=["age"]))
    assert "taken for the user's" not in explain_cut(tmp_path / "ranker.keras", Items(TABLE))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (pl.lit(None, pl.Float64).alias("price"), "has 40 nulls, the first for item 1099511627776; fill them first"),
        (pl.col("price").cast(pl.String), "is String, the input takes float32"),
        (pl.lit("2020-01-01").str.to_date().alias("price"), "is Date, the input takes float32"),
    ],
)
def test_a_column_that_the_model_cannot_take_is_named(change, words, tmp_path):
    model(tiled, *AWKWARD["copies and products"][1]).save(tmp_path / "ranker.keras")
    with pytest.raises(NannError, match="column 'price' of the table of items, the input 'price'") as error:
        export(tmp_path / "ranker.keras", Items(TABLE.with_columns(change)), tmp_path / "1")
    assert words in str(error.value)


def test_other_arguments_do_not_go_with_items(table, tmp_path):
    for other, words in (
        (object(), "items were given for a object"),
        (tmp_path / "none.keras", "is not a ranker that"),
    ):
        with pytest.raises(NannError, match=words):
            export(other, Items(table), tmp_path / "1")
    with pytest.raises(NannError, match="item_input is 'a', but items were given"):
        export(tmp_path / "none.keras", Items(table), tmp_path / "1", source=SourceOptions(item_input="a"))


@keras.saving.register_keras_serializable("test_cut")
class Subclassed(keras.Model):
    """Called with a dict; its archive does not tell which inputs it takes."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.top = layers.Dense(1)

    def call(self, inputs):
        return self.top(ops.concatenate([inputs["taste"], inputs["size"]], axis=1))


@pytest.mark.medium
def test_a_subclassed_model_goes_in_by_what_keras_exports(table, tmp_path):
    """The errors for its archive say so, with the class at hand and without it."""
    made = Subclassed()
    made({"taste": tf.zeros([2, 4]), "size": tf.zeros([2, 3])})
    made.save(tmp_path / "ranker.keras")
    with pytest.raises(NannError, match=r"is a Subclassed, .* export what model\.export\('folder'\) writes"):
        explain_cut(tmp_path / "ranker.keras", Items(table))
    with keras.saving.CustomObjectScope({}), pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras.src.saving.object_registration.GLOBAL_CUSTOM_OBJECTS", {})
        with pytest.raises(
            NannError, match=r"does not load: Could not locate class 'Subclassed'.* model\.export\('folder'\)"
        ):
            explain_cut(tmp_path / "ranker.keras", Items(table))
    spec = {"taste": tf.TensorSpec([None, 4]), "size": tf.TensorSpec([None, 3])}
    made.export(str(tmp_path / "saved"), input_signature=[spec], verbose=False)
    compare(tmp_path / "saved", Items(table), by_hand(made, ("taste", "size")))


@st.composite
def graphs(draw):
    """A small directed graph without circles: edges, costs, sources, sinks."""
    count = draw(st.integers(2, 7))
    pairs = [(one, other) for one in range(count) for other in range(one + 1, count)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True))
    costs = draw(st.lists(st.one_of(st.integers(1, 9), st.just(INFINITE)), min_size=count, max_size=count))
    places = st.sets(st.integers(0, count - 1), min_size=1)
    return edges, costs, draw(places), draw(places)


@settings(max_examples=200, deadline=None)
@given(graphs())
@example(([(0, 1), (0, 2)], [INFINITE, 1, INFINITE], {0}, {1, 2}))  # Two paths through one of infinite cost.
def test_no_set_that_separates_costs_less_than_the_minimum_cut(graph):
    edges, costs, sources, sinks = graph
    count = len(costs)

    def separates(chosen):
        reached = [one in sources and one not in chosen for one in range(count)]
        for one, other in sorted(edges):
            reached[other] |= reached[one] and other not in chosen
        return not any(reached[sink] for sink in sinks)

    sets = ([one for one in range(count) if mask >> one & 1] for mask in range(1 << count))
    best = min(sum(costs[one] for one in chosen) for chosen in sets if separates(chosen))
    named = minimum_cut(
        [(str(one), str(other)) for one, other in edges],
        {str(one): cost for one, cost in enumerate(costs)},
        map(str, sources),
        map(str, sinks),
    )
    if best >= INFINITE:
        assert named is None
    else:
        assert named is not None
        assert separates({int(one) for one in named})
        assert sum(costs[int(one)] for one in named) == best
