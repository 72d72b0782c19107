"""The demo's checkpoint: that of the data, whole, and as good as what was trained."""

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
    """A checkpoint of the tests' own world, and its folder."""
    demo, folder = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("checkpoint")
    for name in ("data", "model"):
        (demo / name).symlink_to(getattr(world, name))
    checkpoint.write(demo, folder)
    return folder


def test_what_comes_with_the_package_is_whole_and_of_the_demo_s_training():
    """First contact, line 2: the weights have the SHA-256 beside them, and the demo would train just so."""
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
    """First contact, line 2: it says what differs, and how to go on; nothing is written."""
    with pytest.raises(NannError, match=r"the products are not those .*make demo TRAIN=1"):
        checkpoint.restore(world.data, tmp_path / "model")
    for split in ("train", "validation", "test"):
        known = json.loads((made / "nann_attention.json").read_text())
        known["data"][split] = "0" * 64
        folder = tmp_path / split
        shutil.copytree(made, folder)
        (folder / "nann_attention.json").write_text(json.dumps(known))
        with pytest.raises(NannError, match=rf"the households of the {split} split.*0000\); train on the data"):
            checkpoint.restore(world.data, tmp_path / "model", folder)
    assert not (tmp_path / "model").exists()


def test_the_digests_are_of_what_the_data_say(world):
    """Each follows its own part, whichever way the files store it."""
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


def _tell_another_digest(folder):
    """Weights that are no archive at all, with the digest that belongs to them."""
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
        (_flip, "it is damaged; install nann again"),
        (lambda folder: (folder / "nann_attention.npz").unlink(), "cannot be read"),
        (_tell_another_digest, "cannot be read"),
        (lambda folder: (folder / "nann_attention.json").unlink(), "does not exist"),
        (_edit(format_version=2), "is not of the format"),
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
