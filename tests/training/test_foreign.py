"""Models that are not this project's, from training to an exported answer."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.models import ForeignConfig, ForeignModel, foreign, import_models
from tfserving_ext.training import TrainingConfig, fit, load_model

ROOT = Path(__file__).parents[2]
NANN = Path(sys.executable).with_name("nann")
TRANSFORMER = "examples.transformer_model:TransformerModel"


LITTLE = ("--max-cases", 20, "-k", 20, "--pool", 50, "--ef", "5,9,20")


def nann(*arguments, cwd=ROOT):
    command = [str(word) for word in (NANN, *arguments)]
    return subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("foreign") / "model"
    ran = nann("train", world.data, "-o", target, "--model", TRANSFORMER, "--steps", 30, "--batch-size", 16)
    assert ran.returncode == 0, ran.stderr
    return target


@pytest.mark.slow
def test_the_example_goes_all_the_way(trained, tmp_path, world):
    allowed = ("--import", TRANSFORMER.partition(":")[0])
    for arguments in [
        ("extract", trained, "-o", tmp_path / "embeddings"),
        ("index", tmp_path / "embeddings", "-o", tmp_path / "index"),
        (
            "evaluate",
            world.data,
            trained,
            tmp_path / "index",
            "--max-cases",
            20,
            "-k",
            20,
            "--pool",
            50,
            "--ef",
            "5,9,20",
        ),
        ("export", trained, tmp_path / "index", "-o", tmp_path / "models" / "1", "-k", 20, "--no-measure"),
        ("verify", tmp_path / "models" / "1"),
    ]:
        # The export is a graph: serving it runs none of the user's code.
        ran = nann(*(() if arguments[0] in ("index", "verify") else allowed), *arguments)
        assert ran.returncode == 0, ran.stderr


def test_no_code_runs_because_a_file_names_it(trained, tmp_path):
    ran = nann("extract", trained, "-o", tmp_path / "embeddings")
    assert ran.returncode == 1
    assert "allow it to run by `nann --import examples.transformer_model ...`" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())


def test_training_moves_the_models_own_weights(world, tmp_path):
    import_models(TRANSFORMER.partition(":")[0])
    config = ForeignConfig(model_class=TRANSFORMER, history_length=12)
    start, end = (
        fit(world.data, tmp_path / str(steps), TrainingConfig(steps=steps, batch_size=32, negatives=30), config)
        for steps in (1, 80)
    )
    assert end["softmax_loss"] < start["softmax_loss"] - 0.1
    model = load_model(tmp_path / "80").model
    assert model.config == config
    assert {variable.shape[0] for variable in model.trainable_variables} > {1 + world.sequences.num_items}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of models to a place where `import_models` finds it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(body: str) -> str:
        name = f"models_{abs(hash(body))}"
        (tmp_path / f"{name}.py").write_text("import tensorflow as tf\n" + body)
        return name

    return write


MODEL = """
class Mine(tf.Module):
    def __init__(self, item_ids, category_ids, item_counts):
        self.table = tf.Variable(tf.ones([len(item_ids), 4]))
    def user(self, features):
        return (tf.ones([tf.shape(features["item_history"])[0], 4]),)
    def item(self, features):
        return tf.gather(self.table, tf.zeros_like(features["item_id"]))
    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)
"""


def made(name: str) -> ForeignModel:
    import_models(name)
    return ForeignModel(np.array([5, 7, 9]), np.array([1]), None, ForeignConfig(model_class=f"{name}:Mine"))


def test_histories_have_one_length_and_shared_items_reach_every_user(module):
    given = "tf.cast(features['item_history'][:, -4:], tf.float32)"
    model = made(module(re.sub(r"tf\.ones\(\[tf\.shape.*?4\]\)", given, MODEL)))
    history = tf.constant([[7, 5]], tf.int64)
    (user,) = model.user({"item_history": history, "category_history": history})
    np.testing.assert_array_equal(user, [[-1, -1, 7, 5]])
    (anywhere,) = model.user(  # As in training, wherever the padding stands.
        {
            "item_history": tf.constant([[5, 5, 6, 7, -1, 5, 0, -1]], tf.int64),
            "category_history": tf.constant([[1] * 8], tf.int64),
        }
    )
    np.testing.assert_array_equal(anywhere, [[5, 5, 7, 5]])
    (by_rows,) = model.user_from_rows(tf.constant([[0, 0, 2, 1]]), tf.constant([[0, 0, 1, 1]]))
    np.testing.assert_array_equal(by_rows, [[-1, -1, 7, 5]])
    two = tf.concat([user, user], axis=0)
    np.testing.assert_array_equal(model.score((two,), tf.ones([1, 3, 4])), np.full([2, 3], 10))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import nowhere\n", "cannot import .*ModuleNotFoundError: No module named 'nowhere'"),
        ("class Other:\n    pass\n", "has no class 'Mine'; its models are none"),
        (MODEL.replace("Mine", "Other"), "has no class 'Mine'; its models are Other"),
        (MODEL.replace("def score", "def scores"), "has no score; a model has user, item, score"),
        (MODEL.replace("item_ids, category_ids, item_counts", "item_ids"), "failed: TypeError"),
        (MODEL.replace("bd,bnd->bn", "bd,bnd->n"), r"score gave float32 \(2,\); for 1 user and 2 items"),
        (MODEL.replace("return tf.gather", "return tf.gather_nd"), "failed: "),
        (MODEL.replace("return tf.gather", "return tf.zeros([3, 4]) #"), r"item gave float32 \(3, 4\); for 2 items"),
        (MODEL.replace('tf.zeros_like(features["item_id"])', 'features["price"]'), "failed: KeyError: 'price'"),
    ],
)
def test_what_is_wrong_with_a_class_is_said_in_a_line(module, body, words):
    with pytest.raises(NannError, match=words) as error:
        made(module(body))
    assert "\n" not in str(error.value)


def test_a_class_of_a_module_that_was_not_allowed_is_refused(monkeypatch):
    monkeypatch.setattr(foreign, "_imported", set())
    with pytest.raises(NannError, match=r"allow it to run by `nann --import os \.\.\.`"):
        foreign.foreign_class("os:path")
