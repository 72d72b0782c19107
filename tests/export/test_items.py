"""An index with other embeddings than the model's, or with ids in another order, is refused; new items are not."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, ExportOptions, export, reuse, verify
from export_tools.items import FILES, check_sample
from export_tools.manifest import exported_index, read_manifest, write_manifest
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.serving.models import load_servable

DIM, ITEMS = 8, 300
IDS = np.arange(ITEMS) * 3 + 11
EMBEDDINGS = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)
PERMUTED = np.random.default_rng(1).permutation(ITEMS)


class Dot(tf.Module):
    """A model with `item`, which returns one and the same vector for all items that the model does not know."""

    features = {"vector": tf.TensorSpec([None, DIM])}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.ids = tf.Variable(IDS, trainable=False)
        self.table = tf.Variable(np.concatenate([EMBEDDINGS, np.full([1, DIM], 0.125, np.float32)]))

    def user(self, features):
        return (features["vector"],)

    def item(self, features):
        ids = features["item_id"]
        rows = tf.minimum(tf.searchsorted(self.ids, ids), ITEMS - 1)
        return tf.gather(self.table, tf.where(tf.gather(self.ids, rows) == ids, rows, ITEMS))

    def score(self, user, items):
        return tf.einsum("bd,bnd->bn", user[0], items)


def made(path, ids=IDS, embeddings=EMBEDDINGS, dtype="float32"):
    return build_index(ids, embeddings, path, Hnsw(threads=1), dtype=dtype).folder


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_ids_in_another_order_than_their_embeddings_are_refused(tmp_path, dtype):
    """Such a model would load and answer, but every answer would be a wrong item. First contact, line 18."""
    index = made(tmp_path / "index", IDS[PERMUTED], dtype=dtype)
    with pytest.raises(NannError) as error:
        export(Dot(), index, tmp_path / "1", Defaults(k=5), options=ExportOptions(rewrite=False))
    words = str(error.value)
    item = int(words.split("item ")[1].split()[0])
    holder = int(words.split("for item ")[1].split(":")[0])
    row = {int(one): number for number, one in enumerate(IDS)}
    assert IDS[PERMUTED][row[holder]] != holder and list(IDS[PERMUTED]).index(holder) == row[item]
    held = EMBEDDINGS[list(IDS[PERMUTED]).index(item)]
    distance = np.linalg.norm(held - EMBEDDINGS[row[item]])
    assert float(words.split("at distance ")[1].split()[0]) == pytest.approx(distance, rel=0.02)
    assert "different orders" in words and str(index) in words
    assert not (tmp_path / "1").exists()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_the_model_s_own_embeddings_pass_whatever_the_type(tmp_path, dtype):
    """Rounding does not count as another embedding, at export or when `verify` checks the sample again.

    First contact, line 18.
    """
    target = export(
        Dot(),
        made(tmp_path / "index", dtype=dtype),
        tmp_path / "1",
        Defaults(k=5),
        options=ExportOptions(rewrite=False),
    )
    with exported_index(target, read_manifest(target)) as index:
        assert check_sample(target, index, None) == 256


@pytest.mark.parametrize(
    "change",
    [
        lambda embeddings: embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        lambda embeddings: np.roll(embeddings, 1, axis=1),
        lambda embeddings: embeddings + 0.1,
    ],
)
def test_embeddings_that_were_changed_on_the_way_are_refused(tmp_path, change):
    """First contact, line 18."""
    with pytest.raises(NannError, match=r"256 of 256 sampled items differ. Perhaps it belongs to another training"):
        export(
            Dot(),
            made(tmp_path / "index", embeddings=change(EMBEDDINGS)),
            tmp_path / "1",
            options=ExportOptions(rewrite=False),
        )


@pytest.mark.medium
def test_another_width_and_an_item_that_cannot_be_asked(tmp_path, capsys):
    model = Dot()
    with pytest.raises(NannError, match=r"the width of .* is 4, the model gives items embeddings of shape \[256, 8\]"):
        export(model, made(tmp_path / "narrow", embeddings=EMBEDDINGS[:, :4].copy()), tmp_path / "1")
    model.item = tf.function(
        lambda features: features["item_id"],
        input_signature=[{name: tf.TensorSpec([None], tf.int64) for name in ("item_id", "category_id")}],
    )
    export(model, made(tmp_path / "index"), tmp_path / "1", Defaults(k=5), options=ExportOptions(rewrite=False))
    assert "`item` takes item_id, category_id: the index is not compared with it" in capsys.readouterr().out
    assert not (tmp_path / "1" / FILES[0]).exists()


def with_new(ids, embeddings, new=40):
    """An index without some of the items, and with some new ones."""
    more = np.random.default_rng(5).normal(size=(new, embeddings.shape[1])).astype(np.float32)
    return np.concatenate([ids[50:], np.arange(new) + 10**7]), np.concatenate([embeddings[50:], more])


@pytest.mark.slow
def test_new_items_are_found_after_an_export_and_after_a_swap(world, tmp_path, capsys):
    """In both cases, items that the model does not know are scored by the embeddings in the index.

    First contact, line 19.
    """
    opened = Index.open(world.index)
    ids, embeddings = with_new(np.asarray(opened.item_ids), np.asarray(opened.embeddings()))
    index = made(tmp_path / "index", ids, embeddings)
    exported = export(world.model, index, tmp_path / "1", Defaults(k=len(ids)))
    swapped = reuse(world.saved_model, index, tmp_path / "2")
    said = capsys.readouterr().out
    for known_to in ("the model", "the exported index"):  # A swap cannot ask the model which items it knows.
        assert said.count(f"40 of {len(ids)} items are new to {known_to}:") == 1
    request = {"item_history": ids[None, :9], "k": np.int32(len(ids)), "pool": np.int32(len(ids))}
    one, two = (load_servable(each).signature("retrieve").run(request) for each in (exported, swapped))
    np.testing.assert_array_equal(one["item_ids"], two["item_ids"])
    assert np.isin(np.arange(40) + 10**7, one["item_ids"]).mean() > 0.9  # The rest cannot be reached in the graph.


@pytest.mark.slow
@pytest.mark.parametrize("fails", [lambda features: 1 // 0, lambda features: {}["item_id"]])
def test_an_item_that_fails_in_whatever_way_is_only_told(tmp_path, capsys, fails):
    """A model that inherits a stub of `item` is exported like one without `item`. First contact, line 18."""
    model = Dot()
    model.item = fails
    export(model, made(tmp_path / "index"), tmp_path / "1", Defaults(k=5), options=ExportOptions(rewrite=False))
    assert "the index is not compared with `item`, which fails: " in capsys.readouterr().out


@pytest.mark.slow
def test_the_only_new_item_of_a_sample_is_new(tmp_path):
    """No other item then has the same vector; a single wrong item that the model knows is still refused.

    First contact, line 19.
    """
    new = [10**7]
    index = made(tmp_path / "index", *with_new(IDS[:250], EMBEDDINGS[:250], new=1))
    target = export(Dot(), index, tmp_path / "1", Defaults(k=5), options=ExportOptions(rewrite=False))
    assert not np.isin(new, np.load(target / FILES[0])).any()
    embeddings = EMBEDDINGS[:200].copy()
    embeddings[7] += 1
    with pytest.raises(NannError, match="1 of 200 sampled items differ"):
        export(
            Dot(), made(tmp_path / "wrong", IDS[:200], embeddings), tmp_path / "2", options=ExportOptions(rewrite=False)
        )


@pytest.mark.medium
def test_new_items_of_a_module(tmp_path):
    """A module does not declare which items it knows; those it does not know all get the same vector.

    First contact, line 19.
    """
    ids, embeddings = with_new(IDS, EMBEDDINGS)
    target = export(
        Dot(),
        made(tmp_path / "index", ids, embeddings),
        tmp_path / "1",
        Defaults(k=5),
        options=ExportOptions(rewrite=False),
    )
    assert not np.isin(np.arange(40) + 10**7, np.load(target / FILES[0])).any()
    with pytest.raises(NannError, match="holds no item that the model knows, of 300"):
        export(
            Dot(),
            made(tmp_path / "rows", np.arange(ITEMS) + 10**6),
            tmp_path / "2",
            Defaults(k=5),
            options=ExportOptions(rewrite=False),
        )


@pytest.mark.slow
def test_verify_holds_the_index_against_what_the_model_said(world, tmp_path):
    """The comparison also covers an index with rows of a folded scorer; here all checksums are right.

    First contact, line 18.
    """
    folder = shutil.copytree(world.saved_model, tmp_path / "1")
    manifest = read_manifest(folder)
    assert manifest["scorer"]["folded"]
    ids = np.fromfile(folder / "assets" / "item_ids.bin", "<i8")
    np.random.default_rng(0).permutation(ids).tofile(folder / "assets" / "item_ids.bin")
    write_manifest(folder, {key: value for key, value in manifest.items() if key not in ("files", "versions")})
    json.loads((folder / "assets.extra" / "nann_export.json").read_text())
    with pytest.raises(NannError, match=r"was not built from its model's embeddings: item \d+ has another"):
        verify(folder)
