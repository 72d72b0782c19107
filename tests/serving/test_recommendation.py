"""`nann recommend`, against the model's own answers to the same history."""

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tests.conftest import write_purchases
from tfserving_ext.cli import app
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.layouts.layout import Mapped, make_layout
from tfserving_ext.data.rows import Rules
from tfserving_ext.errors import NannError
from tfserving_ext.serving.models import load_servable
from tfserving_ext.serving.recommendation import Asked, recommend


@pytest.fixture(scope="module")
def servable(world):
    return load_servable(world.saved_model)


def history_of(world, user):
    sequences = world.sequences
    place = int(np.flatnonzero(sequences.user_ids == user)[0])
    begin, end = sequences.row_splits[place : place + 2]
    return sequences.ids_of(sequences.sequence_items[begin:end])


def test_a_user_of_the_data_gets_what_the_model_answers(world, servable):
    user = int(world.sequences.user_ids[3])
    history = history_of(world, user)
    for new in (False, True):
        exclude = {"exclude": history[None]} if new else {}
        wanted = servable.signature("retrieve").run({"item_history": history[None], "k": np.int32(7), **exclude})
        found = recommend(world.saved_model, Asked(str(user), world.data, new=new), k=7)
        assert [item.id for item in found.items] == [str(one) for one in wanted["item_ids"][0]]
        assert [item.score for item in found.items] == wanted["scores"][0].tolist()
        assert found.items_scored == wanted["items_scored"][0]
        assert [item.id for item in found.history] == [str(one) for one in history]
        assert not new or not {item.id for item in found.items} & {str(one) for one in history}


def test_features_are_given_as_they_are(world):
    user = int(world.sequences.user_ids[3])
    by_user = recommend(world.saved_model, Asked(str(user), world.data), k=5)
    features = {"item_history": [history_of(world, user).tolist()]}
    assert recommend(world.saved_model, Asked(features=features), k=5).items == by_user.items


def test_texts_stand_for_numbers_in_data_that_had_texts(world, tmp_path):
    """The same purchases with texts for ids: the history and the answer have the texts, and names are found by them."""
    rows = [line.split(",") for line in write_purchases(tmp_path / "a.csv").read_text().split()]
    # As many digits in each text, so that texts sort as numbers do and the numbering is by the numbers' order.
    lines = [f"user {user},sku {int(item):09},{time}" for user, item, _, _, time in rows]
    (tmp_path / "texts.csv").write_text("\n".join(lines) + "\n")
    layout = make_layout(columns={"user": "1", "item": "2", "time": "3"})
    data = convert(Mapped([tmp_path / "texts.csv"], layout), tmp_path / "data", Rules(min_item_count=2))
    keys = dict(pl.read_parquet(data / "item_keys.parquet").rows())
    (tmp_path / "names.csv").write_text("item_id,name\n" + "".join(f"{key},the {key}\n" for key in keys.values()))
    # The model knows none of these numbers, so its answer is that without a history; the texts are what is tested.
    found = recommend(world.saved_model, Asked("user 5003", data), k=3, names=tmp_path / "names.csv")
    bought = [f"sku {int(item):09}" for user, item, _, _, time in rows if user == "5003"]
    assert [item.id for item in found.history] == [one for one in bought if one in keys.values()]
    assert all(item.name == f"the {item.id}" for item in found.history)


def test_the_command_shows_names(world, tmp_path):
    user, some = int(world.sequences.user_ids[3]), world.sequences.item_ids
    names = tmp_path / "names.csv"
    names.write_text("item_id,name\n" + "".join(f"{item},thing number {item}\n" for item in some))
    arguments = ["recommend", str(world.saved_model), "--user", str(user), "--data", str(world.data)]
    ran = CliRunner().invoke(app, [*arguments, "--names", str(names), "-k", "4"])
    assert ran.exit_code == 0, ran.output
    found = recommend(world.saved_model, Asked(str(user), world.data), k=4)
    for item in [*found.history[-4:], *found.items]:
        assert f"thing number {item.id}" in ran.output
    features = tmp_path / "features.json"
    features.write_text(json.dumps({"item_history": [[int(one.id) for one in found.history]]}))
    by_file = CliRunner().invoke(app, ["recommend", str(world.saved_model), "--features", str(features), "-k", "4"])
    assert all(item.id in by_file.output for item in found.items)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"user": "1"}, "either a user and data, or features"),
        ({}, "either a user and data, or features"),
        ({"user": "1", "data": "d", "features": {}}, "either a user and data, or features"),
        ({"features": {}, "new": True}, "items of the history can only be left out"),
    ],
)
def test_half_a_request_is_refused(asked, words):
    with pytest.raises(NannError, match=words):
        Asked(**asked)


@pytest.mark.parametrize(
    ("asked", "options", "words"),
    [
        ({"user": "nobody"}, {}, "has no user 'nobody'; it has 160, such as "),
        ({"features": {"age": [[3]]}}, {}, "the signature has no input 'age'; it has "),
        ({"features": {"item_history": [["x"]]}}, {}, "item_history is .* which is not int64"),
        ({"features": {}}, {"signature": "none"}, 'Serving signature key "none" not found'),
        ({"features": {"item_history": [[1]]}}, {"k": 0}, "k is 0"),
    ],
)
def test_what_is_refused(world, asked, options, words):
    asked = {**asked, "data": world.data} if "user" in asked else asked
    with pytest.raises(NannError, match=words):
        recommend(world.saved_model, Asked(**asked), **options)
