"""Only the very same training resumes an interrupted one. First contact, line 27."""

import dataclasses
import shutil

import pytest
import tensorflow as tf

from tfserving_ext.data.conversion import convert
from tfserving_ext.data.rows import Rules
from tfserving_ext.models import DnnConfig, TwoSidedConfig
from tfserving_ext.models.checkpoint import save_model
from tfserving_ext.training import TrainingConfig, fit, load_model, state

CONFIG = TrainingConfig(steps=4, batch_size=8, negatives=5, targets=2, checkpoint_minutes=0, validate_every=3)
MODEL = TwoSidedConfig(embedding_dim=4, history_length=10, pools=2)
# Options that may differ when a training is resumed.
FREE = {"checkpoint_minutes": 3.0, "tensorboard": "log"}
OTHER = {
    "steps": 5,
    "batch_size": 9,
    "targets": 3,
    "negatives": 6,
    "learning_rate": 4e-3,
    "weight_decay": 2e-4,
    "epsilon": 0.2,
    "auxiliary_weight": 2.0,
    "seed": 1,
    "loss": "sigmoid",
    "sampler": "log_uniform",
    "epsilon_scale": "absolute",
    "schedule": "linear",
    "warmup": 1,
    "clip_norm": 1.0,
    "mixed_precision": True,
    "xla": True,
    "deterministic": True,
    "max_minutes": 7.0,
    "validate_every": 2,
    "validation_cases": 100,
    "patience": 5,
}
OTHER_SIZES = {"embedding_dim": 5, "history_length": 11, "mask_padding": False, "pools": 3, "user_hidden": (4,)}


class _RestoredError(Exception):
    """Ends a training as soon as the step where it begins is known."""


@pytest.fixture(scope="module")
def left(world, tmp_path_factory):
    """Folders of two trainings that were killed after two steps: one from nothing, one from a start."""
    folder = tmp_path_factory.mktemp("left")
    fit(world.data, folder / "start-1", dataclasses.replace(CONFIG, steps=1, validate_every=0), MODEL)
    other = load_model(folder / "start-1")
    other.model.item_table.assign(other.model.item_table + 1)
    save_model(folder / "start-2", other.model, other.item_categories, other.manifest["training"])
    save = state.TrainingState.save

    def dying(self, number, seconds):
        save(self, number, seconds)
        if number == 2:
            raise KeyboardInterrupt

    for name, start in (("alone", None), ("started", folder / "start-1")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state.TrainingState, "save", dying)
            with pytest.raises(KeyboardInterrupt):
                fit(world.data, folder / name, CONFIG, MODEL, start)
    return folder


@pytest.fixture
def begins(world, left, tmp_path, monkeypatch):
    """Returns a function that tells at which step a training would begin."""
    restore = state.TrainingState.restore
    monkeypatch.chdir(tmp_path)  # TensorBoard's log is written here.
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)  # Stays on in the process.

    def noted(self):
        raise _RestoredError(restore(self))

    def step(config=CONFIG, model=MODEL, data=world.data, start=None):
        name = "alone" if start is None else "started"
        shutil.copytree(left / f".{name}.training", tmp_path / f".{name}.training")
        with monkeypatch.context() as patch:
            patch.setattr(state.TrainingState, "restore", noted)
            with pytest.raises(_RestoredError) as restored:
                fit(data, tmp_path / name, config, model, start)
        return restored.value.args[0]

    return step


def test_the_same_training_resumes(begins, left):
    assert begins() == 2
    assert begins(start=left / "start-1") == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainingConfig)])
def test_other_options_begin_anew(begins, name):
    value = (OTHER | FREE)[name]
    assert begins(dataclasses.replace(CONFIG, **{name: value})) == (2 if name in FREE else 0)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TwoSidedConfig)])
def test_other_sizes_begin_anew(begins, name):
    assert begins(model=dataclasses.replace(MODEL, **{name: OTHER_SIZES[name]})) == 0


def test_another_model_begins_anew(begins):
    assert begins(model=DnnConfig(embedding_dim=4, history_length=10)) == 0


def test_other_data_begin_anew(begins, world, tmp_path):
    """The other data have the same items and categories, so that the weights would fit."""
    data = convert(world.csv, tmp_path / "data", Rules(min_item_count=2, validation=0.1, test=0.2, seed=1))
    assert begins(data=data) == 0


def test_another_start_or_none_begins_anew(begins, left):
    assert begins(start=left / "start-2") == 0
