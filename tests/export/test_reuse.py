"""A daily index for an unchanged model: files are linked and checked, and answers come from the new index."""

import shutil

import numpy as np
import pytest

from export_tools import Defaults, export, inspect, reuse, verify
from export_tools.manifest import check_files, read_manifest
from export_tools.served_model import ServedModel
from tests.export.explained import check_explained
from tests.export.sources import SIGNATURES
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.serving.models import load_servable
from tfserving_ext.serving.warm_up import predict_requests


@pytest.fixture(scope="module")
def arrays(world):
    opened = Index.open(world.index)
    return np.asarray(opened.item_ids), opened.embeddings()


@pytest.fixture(scope="module")
def fewer(world, arrays, tmp_path_factory):
    """Today's index, in which a third of the items is gone and the rest is in another order."""
    order = np.random.default_rng(2).permutation(len(arrays[0]))[: len(arrays[0]) * 2 // 3]
    return build_index(arrays[0][order], arrays[1][order], tmp_path_factory.mktemp("fewer") / "index", Hnsw(threads=1))


@pytest.mark.slow
def test_the_answers_are_those_of_a_fresh_export(world, fewer, tmp_path):
    swapped = reuse(world.saved_model, fewer.folder, tmp_path / "2")
    fresh = export(world.model, fewer.folder, tmp_path / "fresh", Defaults(k=20))
    assert verify(swapped)["coverage"] > 0.8
    check_explained(swapped, tmp_path)
    history = np.asarray(fewer.item_ids)[[[1, 5, 9], [7, 8, 100]]]
    a, b = (load_servable(one).signature("retrieve").run({"item_history": history}) for one in (swapped, fresh))
    for name in ("item_ids", "scores", "items_scored"):
        np.testing.assert_array_equal(a[name], b[name])
    assert np.isin(a["item_ids"], fewer.item_ids).all()


@pytest.mark.slow
def test_the_model_s_files_are_shared_and_the_old_export_stays(world, fewer, tmp_path):
    old = shutil.copytree(world.saved_model, tmp_path / "1")
    new = reuse(old, fewer.folder, tmp_path / "2")
    check_files(old, read_manifest(old))
    for name in ("saved_model.pb", "variables/variables.data-00000-of-00001"):
        assert (old / name).read_bytes() == (new / name).read_bytes()
    # Hard links are one file with two names; reflinks are two files whose blocks are shared.
    shared = [(old / "saved_model.pb").samefile(new / "saved_model.pb"), (old / "saved_model.pb").stat().st_nlink == 1]
    assert any(shared)
    before = (new / "assets" / "item_ids.bin").read_bytes()
    assert before == (fewer.folder / "item_ids.bin").read_bytes()
    shutil.rmtree(old)
    assert verify(new)["files"] > 8


def test_the_manifest_says_what_was_swapped(world, fewer, tmp_path):
    (tmp_path / "figures.json").write_text('{"recall": 0.25}')
    new = reuse(world.saved_model, fewer.folder, tmp_path / "2", tmp_path / "figures.json")
    manifest, before = inspect(new)["manifest"], inspect(world.saved_model)["manifest"]
    for name in ("num_items", "entry_points"):
        assert manifest["index"][name] == fewer.manifest[name]
    for name in ("item_ids.bin", "neighbors_0.bin"):
        assert manifest["index"]["files"][name] == fewer.manifest["files"][name] != before["index"]["files"][name]
    assert manifest["scorer"] == before["scorer"]
    assert manifest["evaluation"] == {"recall": 0.25}
    assert manifest["model_of"] == before["files"]["saved_model.pb"]["sha256"]
    assert {key: manifest[key] for key in ("source", "defaults", "seeds")} == {
        key: before[key] for key in ("source", "defaults", "seeds")
    }


def test_an_index_of_another_kind_is_refused(world, arrays, tmp_path):
    ids, embeddings = arrays
    cases = {
        "width": (ids, embeddings[:, :32], "float32", "the width of .* is 32, the exported model searches 64"),
        "dtype": (ids, embeddings, "float16", "the dtype of .* is float16, the exported model searches float32"),
        "others": (ids + 10**6, embeddings, "float32", "no item in common"),
        "model": (ids, embeddings[::-1], "float32", r"item \d+ has another"),
    }
    for name, (item_ids, item_embeddings, dtype, words) in cases.items():
        made = build_index(
            item_ids, np.ascontiguousarray(item_embeddings), tmp_path / name, Hnsw(threads=1), dtype=dtype
        )
        with pytest.raises(NannError, match=words):
            reuse(world.saved_model, made.folder, tmp_path / "new")
    with pytest.raises(NannError, match="was not written by `nann export`"):
        foreign = shutil.copytree(world.saved_model, tmp_path / "foreign")
        (foreign / "assets.extra" / "nann_export.json").unlink()
        reuse(foreign, world.index, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_an_export_without_a_signature_is_not_warmed_up_in_it(world, fewer, tmp_path, monkeypatch):
    """The export is older than the signature; TensorFlow Serving refuses a version if a warm-up record fails."""
    signatures = ServedModel.signatures
    monkeypatch.setattr(
        ServedModel,
        "signatures",
        lambda model: {name: one for name, one in signatures(model).items() if name != "retrieve_trace"},
    )
    old = export(world.model, world.index, tmp_path / "1", Defaults(k=20))
    new = reuse(old, fewer.folder, tmp_path / "2")
    asked = {request.model_spec.signature_name for request in predict_requests(new)}
    assert asked == set(verify(new)["signatures"]) == SIGNATURES - {"retrieve_trace"}


def flipped(path):
    """Changes one byte in the middle; returns a function that changes it back."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    return lambda: path.write_bytes(data)


def test_a_flipped_byte_anywhere_in_the_old_export_is_refused(world, fewer, tmp_path):
    """A daily swap must not pass on a damaged model, whichever file the damage is in. First contact, line 27."""
    old = shutil.copytree(world.saved_model, tmp_path / "1")
    names = sorted(read_manifest(old)["files"])
    kinds = {name.split("/")[0] for name in names}
    assert kinds == {"saved_model.pb", "variables", "assets", "assets.extra"}
    for name in names:
        back = flipped(old / name)
        with pytest.raises(NannError) as error:
            reuse(old, fewer.folder, tmp_path / "new")
        assert f"{old / name} does not have the checksum" in str(error.value)
        back()
    manifest = old / "assets.extra" / "nann_export.json"
    text = manifest.read_text()
    checksum = read_manifest(old)["files"]["saved_model.pb"]["sha256"]
    manifest.write_text(text.replace(checksum, checksum[::-1]))
    with pytest.raises(NannError, match=r"saved_model.pb does not have the checksum"):
        reuse(old, fewer.folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_flipped_byte_anywhere_in_the_new_index_is_refused(world, arrays, tmp_path, dtype):
    """Only checksums can show this: an embedding or a neighbour with a flipped bit is within all bounds.

    First contact, line 27.
    """
    new = build_index(*arrays, tmp_path / "index", Hnsw(threads=1), dtype=dtype)
    for path in new.files:
        back = flipped(path)
        with pytest.raises(NannError) as error:
            reuse(world.saved_model, new.folder, tmp_path / "new")
        assert f"{path} does not have the checksum" in str(error.value)
        back()
    assert not (tmp_path / "new").exists()


def test_metrics_of_the_old_index_are_not_kept_for_the_new_one(world, fewer, tmp_path):
    """First contact, line 27."""
    (tmp_path / "figures.json").write_text('{"recall": 0.75}')
    old = reuse(world.saved_model, world.index, tmp_path / "1", tmp_path / "figures.json")
    assert inspect(old)["manifest"]["evaluation"] == {"recall": 0.75}
    assert inspect(reuse(old, fewer.folder, tmp_path / "2"))["manifest"]["evaluation"] is None
