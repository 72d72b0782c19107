"""A resumed training ends with the same bits as one that was never interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.models import DnnConfig, ForeignConfig, NannAttentionConfig, import_models
from tfserving_ext.training import TrainingConfig, fit, load_model, loop, state

CONFIG = {"steps": 24, "batch_size": 32, "negatives": 20, "checkpoint_minutes": 0, "validate_every": 5}

TRAIN = """
import json, os, signal, sys
from tfserving_ext.training import TrainingConfig, loop, state, fit
data, target, config, where, at = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
calls = []
def dying(function):
    def called(*arguments, **named):
        calls.append(None)
        if len(calls) == int(at):
            die()
        return function(*arguments, **named)
    return called
if where == "checkpoint":  # Between its files: the data are there, and what names them is not.
    from tensorflow.python.checkpoint import checkpoint_management
    checkpoint_management.update_checkpoint_state_internal = dying(
        checkpoint_management.update_checkpoint_state_internal)
elif where == "best":
    state.TrainingState._best = dying(state.TrainingState._best)
elif where == "model":
    loop.save_model = dying(loop.save_model)
fit(data, target, TrainingConfig(**json.loads(config)))
"""


def command(data, target, config, where="", at=0):
    return [sys.executable, "-c", TRAIN, str(data), str(target), json.dumps(config), where, str(at)]


def variables(checkpoint: str) -> dict[str, np.ndarray]:
    """Returns the values of a checkpoint, except the training's seconds and the number of saved checkpoints."""
    reader = tf.train.load_checkpoint(checkpoint)
    names = reader.get_variable_to_shape_map()
    skipped = ("CHECKPOINTABLE", "seconds/", "save_counter/")
    return {name: reader.get_tensor(name) for name in names if not any(part in name for part in skipped)}


def finished(data, target, config, model=None) -> dict[str, np.ndarray]:
    """Trains to the end; returns the values of the model and of the last checkpoint, with the optimizer's slots."""
    last = {}
    delete = state.TrainingState.delete

    def recorded(self):
        if path := tf.train.latest_checkpoint(str(self.folder)):
            last.update({f"last/{name}": value for name, value in variables(path).items()})
        delete(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.TrainingState, "delete", recorded)
        fit(data, target, config, model or NannAttentionConfig())
    return last | variables(str(target / "weights"))


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    return finished(world.data, tmp_path_factory.mktemp("whole") / "model", TrainingConfig(**CONFIG))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    assert len([name for name in one if "optimizer" in name]) > 20
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "at"), [("checkpoint", 9), ("best", 4), ("model", 1)])
def test_killed_and_resumed_is_bit_equal_to_never_killed(world, tmp_path, whole, where, at):
    killed = subprocess.run(
        command(world.data, tmp_path / "model", CONFIG, where, at), check=False, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "model").exists()
    same(finished(world.data, tmp_path / "model", TrainingConfig(**CONFIG)), whole)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def latest(work: Path) -> int:
    """Returns the step from which a training would resume now."""
    path = tf.train.latest_checkpoint(str(work))
    if path is None:
        return 0
    try:
        return int(tf.train.load_checkpoint(path).get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE"))
    except (tf.errors.OpError, ValueError):  # The checkpoint was replaced while it was read.
        return latest(work)


@pytest.mark.slow
def test_killed_again_and_again_at_random_is_bit_equal(world, tmp_path, whole):
    rng = np.random.default_rng(int(os.environ.get("NANN_TEST_SEED", "0")))
    work = tmp_path / ".model.training"
    for begin, end in ((1, 8), (8, 15), (15, 22)):
        process = subprocess.Popen(command(world.data, tmp_path / "model", CONFIG), stdout=subprocess.DEVNULL)
        try:
            wanted, deadline = rng.integers(begin, end), time.monotonic() + 300
            while latest(work) < wanted:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.05))  # Kills at any point of a step or of a checkpoint.
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL
        assert latest(work) >= wanted
    same(finished(world.data, tmp_path / "model", TrainingConfig(**CONFIG)), whole)


DROPOUT = """
import keras
import tensorflow as tf
class Mine(keras.Model):
    def __init__(self, item_ids, category_ids, item_counts):
        super().__init__()
        self.ids = tf.Variable(item_ids, trainable=False)
        self.table = keras.layers.Embedding(len(item_ids) + 1, 4)
        self.drop, self.out = keras.layers.Dropout(0.5), keras.layers.Dense(1)
    def embed(self, ids):
        return self.table(tf.searchsorted(self.ids, tf.reshape(ids, [-1])))
    def user(self, features, training=False):
        history = features["item_history"]
        embedded = tf.reshape(self.embed(history), [tf.shape(history)[0], -1, 4])
        return (self.drop(tf.reduce_mean(embedded, axis=1), training=training),)
    def item(self, features):
        return self.embed(features["item_id"])
    def score(self, user, items, training=False):
        both = user[0][:, None, :] * items
        return self.out(self.drop(both, training=training))[..., 0]
"""


class StopTrainingError(Exception):
    """Stands for anything that ends a training."""


def test_dropout_of_a_foreign_model_resumes_with_its_random_numbers(world, tmp_path, monkeypatch):
    (tmp_path / "models_with_dropout.py").write_text(DROPOUT)
    monkeypatch.syspath_prepend(tmp_path)
    import_models("models_with_dropout")
    model = ForeignConfig(model_class="models_with_dropout:Mine", history_length=5)
    config = TrainingConfig(steps=8, batch_size=4, negatives=5, checkpoint_minutes=0)
    expected = finished(world.data, tmp_path / "whole", config, model)
    save = state.TrainingState.save

    def interrupted(self, step, seconds):
        save(self, step, seconds)
        if step == 3:
            raise StopTrainingError

    with monkeypatch.context() as patch, pytest.raises(StopTrainingError):
        patch.setattr(state.TrainingState, "save", interrupted)
        fit(world.data, tmp_path / "model", config, model)
    found = finished(world.data, tmp_path / "model", config, model)
    assert [name for name in found if name.startswith("last/random/")]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(world, tmp_path, monkeypatch):
    config = TrainingConfig(steps=6, batch_size=4, negatives=5, checkpoint_minutes=0)
    with monkeypatch.context() as patch, pytest.raises(StopTrainingError):
        patch.setattr(state.TrainingState, "exhausted", lambda self, _: int(self.step) == 3 and interrupt())
        fit(world.data, tmp_path / "model", config, DnnConfig())
    work = tmp_path / ".model.training"
    for path in work.glob("ckpt-*.data*"):
        os.truncate(path, 100)
    with pytest.raises(
        NannError, match=r"the checkpoint in .*\.model\.training is damaged or belongs to another model"
    ) as error:
        fit(world.data, tmp_path / "model", config, DnnConfig())
    assert "\n" not in str(error.value)
    shutil.rmtree(work)
    fit(world.data, tmp_path / "model", config, DnnConfig())


def interrupt():
    raise StopTrainingError


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_says_so(world, tmp_path):
    config = {**CONFIG, "steps": 100_000, "checkpoint_minutes": 60}
    process = subprocess.Popen(
        command(world.data, tmp_path / "model", config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    work = tmp_path / ".model.training"
    try:
        deadline = time.monotonic() + 300
        while not list(work.glob("best-*.index")):  # Training is under way.
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "terminated after step" in output
    assert "Traceback" not in output
    steps = int(output.partition("terminated after step ")[2].partition(";")[0].replace(",", ""))
    reader = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(work)))
    assert reader.get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE") == steps >= 5


@pytest.mark.slow
def test_another_configuration_starts_anew(world, tmp_path, monkeypatch):
    begun = []
    original = loop.Sequences.training_batches
    monkeypatch.setattr(
        loop.Sequences, "training_batches", lambda self, *rest: begun.append(rest[3]) or original(self, *rest)
    )
    config = TrainingConfig(steps=8, batch_size=16, negatives=10, checkpoint_minutes=0)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_model", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            fit(world.data, tmp_path / "model", config)
    fit(world.data, tmp_path / "model", config, NannAttentionConfig(mask_padding=False))
    assert begun == [0, 0]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_model", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            fit(world.data, tmp_path / "model", config)
    # How often checkpoints are written and where the log goes may change.
    fit(
        world.data,
        tmp_path / "model",
        TrainingConfig(steps=8, batch_size=16, negatives=10, tensorboard=str(tmp_path / "log")),
    )
    assert begun == [0, 0, 0, 8]


def test_early_stopping_keeps_the_best_weights(world, tmp_path, monkeypatch):
    recalls = iter([0.1, 0.4, 0.2, 0.3, 0.9])
    monkeypatch.setattr(loop.Monitor, "recall", lambda self: next(recalls))
    seen = {}
    validated = state.TrainingState.validated

    def recorded(self, step, recall):
        seen[step] = [value.copy() for value in self._model.get_weights()]
        validated(self, step, recall)

    monkeypatch.setattr(state.TrainingState, "validated", recorded)
    config = TrainingConfig(steps=50, batch_size=16, negatives=10, validate_every=3, patience=2, checkpoint_minutes=0)
    report = fit(world.data, tmp_path / "model", config, DnnConfig())
    assert list(seen) == [3, 6, 9, 12]
    assert (report["best_step"], report["validation_recall"], report["steps_done"]) == (6, 0.4, 12)
    for saved, best in zip(load_model(tmp_path / "model").model.get_weights(), seen[6], strict=True):
        np.testing.assert_array_equal(saved, best)
    assert any(not np.array_equal(best, last) for best, last in zip(seen[6], seen[12], strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_loss_that_is_not_finite_names_its_step(world, tmp_path, monkeypatch):
    config = TrainingConfig(steps=60, batch_size=16, negatives=5, checkpoint_minutes=0)
    rates = TrainingConfig.rate
    monkeypatch.setattr(TrainingConfig, "rate", lambda self, step, _=0: np.nan if step == 12 else rates(self, step))
    # The update of step 12 spoils the weights: the loss of step 13 is the first to show it.
    with pytest.raises(NannError, match=r"the loss became nan at step 13; try a lower --learning-rate"):
        fit(world.data, tmp_path / "model", config)
    assert not (tmp_path / "model").exists()
