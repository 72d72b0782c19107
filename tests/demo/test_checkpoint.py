"""The demo's checkpoint belongs to the demo's data, is undamaged, and is as good as the trained model."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tfserving_ext.artifacts import sha256
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.demo import checkpoint
from tfserving_ext.demo.run import STEPS, TWO_SIDED_STEPS
from tfserving_ext.errors import NannError
from tfserving_ext.training import TWO_SIDED, load_model, recipe


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """The folder of a checkpoint made from the tests' shared world."""
    demo, folder = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("checkpoint")
    for name in ("data", "model"):
        (demo / name).symlink_to(getattr(world, name))
    checkpoint.write(demo, folder)
    return folder


def test_the_packaged_checkpoint_is_undamaged_and_from_the_demo_s_training():
    """The weights have the recorded SHA-256, and the demo would train with the recorded configuration.

    First contact, line 2.
    """
    known = checkpoint.facts()
    assert sha256(checkpoint.FOLDER / "nann_attention.npz") == known["sha256"]
    usual = recipe("nann_attention")
    wanted = dataclasses.replace(usual.training, steps=STEPS).identity()
    assert wanted.items() <= known["training"].items()
    start = dataclasses.replace(TWO_SIDED, steps=TWO_SIDED_STEPS).identity()
    assert start.items() <= known["training"]["start_from"]["training"].items()
    assert known["config"] == json.loads(json.dumps(dataclasses.asdict(usual.model)))
    assert sum(path.stat().st_size for path in checkpoint.FOLDER.glob("nann_attention.*")) < 4e6


def test_the_restored_model_scores_as_the_trained_one_to_half_precision(world, made, tmp_path):
    checkpoint.restore(world.data, tmp_path / "model", made)
    trained, restored = load_model(world.model), load_model(tmp_path / "model")
    np.testing.assert_array_equal(restored.item_ids, trained.item_ids)
    np.testing.assert_array_equal(restored.item_categories, trained.item_categories)
    assert restored.model.config == trained.model.config
    features = {"item_id": trained.item_ids, "category_id": trained.item_categories}
    history = {
        "item_history": trained.item_ids[None, :20],
        "category_history": trained.item_categories[None, :20],
    }
    wanted, found = (
        np.asarray(one.model.score(one.model.user(history), one.model.item(features)[None]))
        for one in (trained, restored)
    )
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, atol=0.05 * np.std(wanted))


def test_the_same_model_gives_the_same_bytes(world, made, tmp_path):
    (tmp_path / "data").symlink_to(world.data)
    (tmp_path / "model").symlink_to(world.model)
    checkpoint.write(tmp_path, tmp_path)
    for name in ("nann_attention.npz", "nann_attention.json"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_other_data_are_refused_by_what_differs(world, made, tmp_path):
    """The error says what differs and what to do; nothing is written. First contact, line 2."""
    with pytest.raises(NannError, match=r"the products are not those .*make demo TRAIN=1"):
        checkpoint.restore(world.data, tmp_path / "model")
    for split in ("train", "validation", "test"):
        known = json.loads((made / "nann_attention.json").read_text())
        known["data"][split] = "0" * 64
        folder = tmp_path / split
        shutil.copytree(made, folder)
        (folder / "nann_attention.json").write_text(json.dumps(known))
        with pytest.raises(NannError, match=rf"the households of the {split} split.*0000\); train on your data"):
            checkpoint.restore(world.data, tmp_path / "model", folder)
    assert not (tmp_path / "model").exists()


def test_the_digests_are_of_what_the_data_say(world):
    """Each digest depends only on its own part of the data, however the files store it."""
    before = checkpoint.data_digests(Sequences.open(world.data))
    changed = Sequences.open(world.data)
    changed.sequence_items = changed.sequence_items.copy()
    changed.sequence_items[0] = changed.sequence_items[0] % changed.num_items + 1
    after = checkpoint.data_digests(changed)
    assert [name for name in before if before[name] != after[name]] == ["train"]
    changed = Sequences.open(world.data)
    changed.item_categories = changed.item_categories[::-1].astype(np.int64)
    after = checkpoint.data_digests(changed)
    assert [name for name in before if before[name] != after[name]] == ["items"]


def _flip(folder):
    path = folder / "nann_attention.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def _replace_weights_and_digest(folder):
    """Replaces the weights by a file that is not an archive, with a matching digest."""
    (folder / "nann_attention.npz").write_bytes(b"no archive")
    known = json.loads((folder / "nann_attention.json").read_text())
    known["sha256"] = sha256(folder / "nann_attention.npz")
    (folder / "nann_attention.json").write_text(json.dumps(known))


def _edit(**changes):
    def change(folder):
        known = json.loads((folder / "nann_attention.json").read_text())
        (folder / "nann_attention.json").write_text(json.dumps(known | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flip, "is damaged: .*install nann again"),
        (lambda folder: (folder / "nann_attention.npz").unlink(), "cannot be read"),
        (_replace_weights_and_digest, "cannot be read"),
        (lambda folder: (folder / "nann_attention.json").unlink(), "does not exist"),
        (_edit(format_version=2), "does not have the format"),
        (_edit(model="other"), "the model is 'other'"),
        (_edit(model="two_sided", config={"embedding_dim": 32, "history_length": 50, "mask_padding": True}), "differ"),
    ],
)
def test_a_damaged_checkpoint_is_refused(world, made, tmp_path, damage, words):
    folder = shutil.copytree(made, tmp_path / "checkpoint")
    damage(folder)
    with pytest.raises(NannError, match=words):
        checkpoint.restore(world.data, tmp_path / "model", folder)
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_is_made_of_a_trained_model_alone(world, made, tmp_path):
    (tmp_path / "data").symlink_to(world.data)
    checkpoint.restore(world.data, tmp_path / "model", made)
    with pytest.raises(NannError, match="comes from a checkpoint itself"):
        checkpoint.write(tmp_path, tmp_path)
    (tmp_path / "data").unlink()
    shutil.copytree(world.data, tmp_path / "data")
    (tmp_path / "data" / "manifest.json").write_text("{}")
    shutil.rmtree(tmp_path / "model")
    shutil.copytree(world.model, tmp_path / "model")
    with pytest.raises(NannError, match="was trained on other data"):
        checkpoint.write(tmp_path, tmp_path)
