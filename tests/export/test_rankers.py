"""The rankers of examples/rankers, each exported as it is by one call, answer as the original model ranks."""

import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from examples.rankers import shop
from export_tools import Defaults, ExportOptions, Items, SourceOptions, export
from export_tools.cut import cut_and_indexed
from tfserving_ext.retrieval import NeuralTopK
from tfserving_ext.serving.models import load_servable

K = 100
OUTPUTS = {"mmoe": "buy"}
NAMES = ("din", "dien", "dcn", "deepfm", "two_tower", "mmoe", "transformer", "wide_deep", "text")
# One by an archive, with a table shared by both sides, and one by a SavedModel.
QUICK = ("transformer", "deepfm")


def saved(name, table, folder):
    """Makes a ranker and writes it as its users would; returns the model and its path."""
    module = importlib.import_module(f"examples.rankers.{name}")
    keras.utils.set_random_seed(3)
    model = module.make(table)
    if hasattr(module, "save"):
        module.save(model, str(folder / "ranker"))
        return model, folder / "ranker"
    model.save(folder / "ranker.keras")
    return model, folder / "ranker.keras"


def exact(name, model, table, features, output=None):
    """Returns the scores of all items, [users, items], by the original model, or by one of its outputs."""
    output = output or OUTPUTS.get(name)
    count, found = table.height, []
    for user in range(len(features["user_id"])):
        rows = {key: np.repeat(value[user : user + 1], count, axis=0) for key, value in features.items()}
        rows |= {key: table[key].to_numpy() for key in table.columns}
        rows = {
            key: tf.constant(value.astype(object) if value.dtype.kind == "U" else value) for key, value in rows.items()
        }
        taken = getattr(model, "input", None)  # None for a subclassed model.
        rows = (
            [rows[one.name] for one in taken] if isinstance(taken, list) else {key: rows[key] for key in taken or rows}
        )
        scores = model(rows, training=False)
        scores = scores if output is None else scores[output]
        found.append(np.asarray(scores).reshape(-1))
    return np.stack(found)


def asked(features, shapes):
    """Returns the features that `shapes` names, with a last extent of 1 where one is taken."""
    taken = {key: value for key, value in features.items() if key in shapes}
    taken = {key: value.astype(object) if value.dtype.kind == "U" else value for key, value in taken.items()}
    return {key: value[:, None] if shapes[key] > value.ndim else value for key, value in taken.items()}


def check(table, wanted, item_ids, scores):
    """Checks answers, [users, K], against the scores of all items by the original model, [users, items]."""
    ids = table["item_id"].to_numpy()
    for user, each in enumerate(wanted):
        best = ids[np.argsort(-each, kind="stable")[:K]]
        assert len(np.intersect1d(best, item_ids[user])) >= 0.99 * K
        np.testing.assert_allclose(scores[user], each[np.searchsorted(ids, item_ids[user])], rtol=1e-3, atol=1e-5)


@pytest.fixture
def shop_and_table(tmp_path):
    table = shop.items(1000)
    table.write_parquet(tmp_path / "items.parquet")
    return table, tmp_path


@pytest.mark.medium
@pytest.mark.parametrize("name", QUICK)
def test_the_parts_of_a_ranker_find_what_the_whole_ranks_first(name, shop_and_table):
    table, folder = shop_and_table
    model, path = saved(name, table, folder)
    features = shop.requests(table)
    with cut_and_indexed(path, Items(folder / "items.parquet"), "", None, {}) as (source, index):
        taken = asked(features, {key: spec.shape.rank for key, spec in source.features.items()})
        assert set(taken) == set(source.features)
        user = source.user_tensors({key: tf.constant(value) for key, value in taken.items()})
        found = NeuralTopK(index, source.score).best_first(user, K)
    check(table, exact(name, model, table, features), found.item_ids.numpy(), found.scores.numpy())


@pytest.mark.slow
def test_a_ranker_as_it_is_has_objectives(shop_and_table):
    """A request decides what a click and a purchase are worth."""
    table, folder = shop_and_table
    model, path = saved("mmoe", table, folder)
    source = SourceOptions(objectives={"click": 1.0, "buy": 4.0})
    target = export(
        path, Items(folder / "items.parquet"), folder / "1", Defaults(k=K), source, ExportOptions(measure=False)
    )
    signature = load_servable(target).signature("retrieve")
    features = shop.requests(table)
    shapes = {key: len(proto.tensor_shape.dim) for key, proto in signature.proto.inputs.items()}
    scores = {output: exact("mmoe", model, table, features, output) for output in ("click", "buy")}
    for weights in ([1, 4], [1, 0], [0.2, -1]):
        answer = signature.run({**asked(features, shapes), "weights": np.float32([weights])})
        wanted = weights[0] * scores["click"] + weights[1] * scores["buy"]
        check(table, wanted, answer["item_ids"], answer["scores"])
        places = np.searchsorted(table["item_id"].to_numpy(), answer["item_ids"])
        for number, output in enumerate(scores):
            own = np.take_along_axis(scores[output], places, axis=1)
            np.testing.assert_allclose(answer["objectives"][..., number], own, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_ranker_as_it_is_is_exported_by_one_call(name, shop_and_table):
    """The export answers as the original model ranks all items."""
    table, folder = shop_and_table
    model, path = saved(name, table, folder)
    source = SourceOptions(output=OUTPUTS.get(name, ""))
    items, options = Items(folder / "items.parquet"), ExportOptions(measure=False)
    target = export(path, items, folder / "1", Defaults(k=K), source, options)
    signature = load_servable(target).signature("retrieve")
    features = shop.requests(table)
    shapes = {key: len(proto.tensor_shape.dim) for key, proto in signature.proto.inputs.items()}
    answer = signature.run(asked(features, shapes))
    check(table, exact(name, model, table, features), answer["item_ids"], answer["scores"])
