"""The default recipes, and the start of a deep model."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from tfserving_ext.cli import app
from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Rules
from tfserving_ext.errors import NannError
from tfserving_ext.models import DnnConfig, NannAttentionConfig, TwoSidedConfig
from tfserving_ext.training import Recipe, TrainingConfig, fit, load_model, recipe, recipes, train

QUICK = TrainingConfig(steps=3, batch_size=16, negatives=10, targets=2)
START = dataclasses.replace(QUICK, steps=4, epsilon=0.0)
SMALL = NannAttentionConfig(embedding_dim=8, history_length=30, attention_length=20, matches=2, pools=3)


def weights(folder):
    reader = tf.train.load_checkpoint(str(folder / "weights"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name}


@pytest.mark.slow
def test_a_deep_model_is_trained_on_the_start_by_hand(world, tmp_path):
    train(world.data, tmp_path / "model", Recipe(SMALL, QUICK, START))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    fit(world.data, tmp_path / "start", START, TwoSidedConfig(embedding_dim=8, history_length=20, pools=3))
    fit(world.data, tmp_path / "by_hand", QUICK, SMALL, tmp_path / "start")
    wanted = weights(tmp_path / "by_hand")
    found = weights(tmp_path / "model")
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    assert load_model(tmp_path / "model").manifest["training"]["start_from"]["training"]["steps_done"] == 4


@pytest.mark.slow
def test_a_start_that_is_finished_is_not_trained_again(world, tmp_path, monkeypatch):
    """With other data or options it is trained again."""
    wanted = Recipe(SMALL, QUICK, START)
    trained = []

    def interrupted_at_the_end(data, target, *rest):
        fit(data, target, *rest)
        trained.append(target.name)
        if target.name == "model":
            raise KeyboardInterrupt

    def once_more(wanted, data=world.data):
        trained.clear()
        with monkeypatch.context() as patch:
            patch.setattr(recipes, "fit", interrupted_at_the_end)
            with pytest.raises(KeyboardInterrupt):
                train(data, tmp_path / "model", wanted)
        return trained

    assert once_more(wanted) == [".model.start", "model"]
    assert once_more(wanted) == ["model"]
    assert once_more(dataclasses.replace(wanted, start=dataclasses.replace(START, steps=2))) == [
        ".model.start",
        "model",
    ]
    convert(world.csv, tmp_path / "data", Rules(min_item_count=1, validation=0.1, test=0.2))
    changed = dataclasses.replace(wanted, start=dataclasses.replace(START, steps=2))
    assert once_more(changed, tmp_path / "data") == [".model.start", "model"]
    train(tmp_path / "data", tmp_path / "model", changed)
    assert not (tmp_path / ".model.start").exists()


def test_a_limit_of_minutes_is_of_both_together(world, tmp_path, monkeypatch):
    limits = []
    (tmp_path / ".model.start").mkdir()
    monkeypatch.setattr(recipes, "fit", lambda data, target, config, *_: limits.append(config.max_minutes))
    limited = dataclasses.replace(QUICK, max_minutes=10.0)
    train(world.data, tmp_path / "model", Recipe(SMALL, limited, START))
    assert sum(limits) == pytest.approx(10)
    assert min(limits) > 3


def test_several_workers_train_no_start(world, tmp_path, monkeypatch):
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    with pytest.raises(NannError, match="--start-from"):
        train(world.data, tmp_path / "model", Recipe(SMALL, QUICK, START))


@pytest.fixture
def asked(monkeypatch):
    """Returns a function that runs `nann train` and returns the recipe and the start that would be trained."""
    seen = []

    def noted(data, target, wanted, start_from, force):
        seen.append((wanted, start_from))
        return {"histories": 1}

    monkeypatch.setattr("tfserving_ext.training.train", noted)

    def run(*options):
        ran = CliRunner().invoke(app, ["train", "data", *map(str, options)])
        if ran.exception:
            raise ran.exception
        return seen.pop()

    return run


@pytest.mark.parametrize("name", ["nann_attention", "dnn", "two_sided"])
def test_defaults_are_those_of_the_models_recipe(asked, name):
    assert asked("--model", name) == (recipe(name), None)


def test_options_replace_the_recipes_values(asked):
    wanted, start_from = asked("--steps", 7, "--seed", 3, "--size", "matches=0", "--history-length", 60, "--epsilon", 0)
    usual = recipe("nann_attention")
    assert wanted.training == dataclasses.replace(usual.training, steps=7, seed=3, epsilon=0.0)
    assert wanted.model == dataclasses.replace(usual.model, matches=0, history_length=60)
    assert wanted.start == dataclasses.replace(usual.start, seed=3)
    assert start_from is None
    assert wanted.started() == TwoSidedConfig(history_length=50)
    wanted, start_from = asked("--start-from", "other", "--no-mask-padding")
    assert (wanted.start, str(start_from), wanted.model.mask_padding) == (None, "other", False)
    assert asked("--start-steps", 0)[0].start is None
    assert asked("--start-steps", 5)[0].start.steps == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "two_sided", "--start-steps", 5), "--start-steps is 5, but two_sided is trained without a start"),
        (("--start-from", "other", "--start-steps", 5), "--start-steps is 5, but --start-from"),
        (("--model", "foreign"), "the model is 'foreign'"),
        (("--seed", 2**31), "seed is 2147483648, allowed are 0 to 2147483647"),
        (("--size", "embedding_dim=0"), "embedding_dim of nann_attention is 0, allowed are 1 to 65,536"),
        (("--size", "width=3"), "--size is 'width=3'; allowed is NAME=NUMBER with a number from 0"),
        (("--model", "other"), "the model is 'other'; allowed are nann_attention, dnn, two_sided"),
    ],
)
def test_refuses_what_does_not_fit(asked, options, words):
    with pytest.raises(NannError) as refused:
        asked(*options)
    assert words in str(refused.value)


@pytest.mark.parametrize("sizes", [{"history_length": 0}, {"score_hidden": (8, 0)}, {"pools": 1 << 20}])
def test_sizes_have_a_range(sizes):
    with pytest.raises(NannError, match=next(iter(sizes))):
        DnnConfig(**sizes)


@pytest.mark.slow
def test_a_model_from_before_a_size_was_added_is_read(world, tmp_path):
    """A size that the file does not name has the value that it had then."""
    fit(world.data, tmp_path / "model", QUICK, NannAttentionConfig(embedding_dim=8, history_length=20))
    manifest = json.loads((tmp_path / "model" / "model.json").read_text())
    for name in ("matches", "pools", "attention_length"):
        del manifest["config"][name]
    (tmp_path / "model" / "model.json").write_text(json.dumps(manifest))
    assert load_model(tmp_path / "model").model.config == NannAttentionConfig(embedding_dim=8, history_length=20)
