import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, export, verify
from export_tools.manifest import exported_index, read_manifest
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import user_tensors
from tfserving_ext.index import Graph, Index, Layer, write_index
from tfserving_ext.retrieval import NeuralTopK
from tfserving_ext.training import load_model

ASK = """
import json, sys
import numpy as np, tensorflow as tf
import tfserving_ext.ops
model = tf.saved_model.load(sys.argv[1])
request = json.loads(sys.argv[2])
types = {"item_history": tf.int64, "category_history": tf.int64, "exclude": tf.int64,
         "k": tf.int32, "frontier": tf.int32, "pool": tf.int32, "max_steps": tf.int32,
         "budget": tf.int64, "deadline_ms": tf.int32}
answer = model.signatures["retrieve"](**{key: tf.constant(value, types[key]) for key, value in request.items()})
print(json.dumps({key: value.numpy().tolist() for key, value in answer.items()}))
"""


# The inputs that a signature's function needs when it is called directly; a server fills them in from the defaults.
PARAMETERS = {"frontier": 16, "pool": 200, "max_steps": 1000, "budget": 0, "deadline_ms": 0}
PARAMETER_TENSORS = {
    key: tf.constant(value, tf.int64 if key == "budget" else tf.int32) for key, value in PARAMETERS.items()
}


@pytest.fixture(scope="module")
def request_and_answer(world):
    """A request for three users, and the answer of the search in this process."""
    trained, index = load_model(world.model), Index.open(world.index)
    cases = world.sequences.cases("test")
    user = tuple(part[:3] for part in user_tensors(trained, world.sequences, cases))
    history = np.maximum(world.sequences.ids_of(cases.histories[:3]), 0)
    result = NeuralTopK(index, trained.model.score).best_first(user, k=10, seeds=history)
    categories = np.where(
        history > 0, world.sequences.category_ids[world.sequences.category_rows_of(cases.histories[:3]) - 1], 0
    )
    request = {
        "item_history": history.tolist(),
        "category_history": categories.tolist(),
        "k": 10,
        "exclude": [[], [], []],
        **PARAMETERS,
    }
    return request, result


def ask(saved_model, request):
    """Asks a SavedModel in a fresh process that starts in another directory."""
    run = subprocess.run(
        [sys.executable, "-c", ASK, saved_model, json.dumps(request)],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_answers_in_a_fresh_process_from_another_directory(world, tmp_path, request_and_answer):
    request, expected = request_and_answer
    moved = tmp_path / "elsewhere" / "7"
    shutil.copytree(world.saved_model, moved)
    hidden = world.index.rename(world.root / "hidden_index")  # The export must use only its own assets.
    try:
        answer = ask(moved, request)
    finally:
        hidden.rename(world.index)
    assert answer["item_ids"] == expected.item_ids.numpy().tolist()
    np.testing.assert_allclose(answer["scores"], expected.scores.numpy(), rtol=1e-5)
    assert answer["items_scored"] == expected.items_scored.numpy().tolist()


def test_categories_left_out_are_those_of_training(world, request_and_answer):
    request, expected = request_and_answer
    model = tf.saved_model.load(str(world.saved_model))  # Held: a signature alone does not keep the index open.
    retrieve = model.signatures["retrieve"]
    answer = retrieve(
        item_history=tf.constant(request["item_history"], tf.int64),
        category_history=tf.zeros([0, 0], tf.int64),
        k=tf.constant(10),
        exclude=tf.zeros([0, 0], tf.int64),
        **PARAMETER_TENSORS,
    )
    assert answer["item_ids"].numpy().tolist() == expected.item_ids.numpy().tolist()


def test_verify_runs_all_signatures(world):
    outputs = verify(world.saved_model)["signatures"]
    assert outputs["serving_default"]["top_k"]["dtype"] == "int64"
    answer = {"item_ids", "scores", "num_results", "items_scored", "rounds", "nan_scores", "stopped", "index_sequence"}
    assert set(outputs["retrieve"]) == set(outputs["retrieve_rounds"]) == answer
    parts = {"user_us", "walk_us", "gather_us", "scorer_us", "merge_us"}
    assert set(outputs["retrieve_trace"]) == answer | parts
    assert {outputs["retrieve_trace"][part]["dtype"] for part in parts} == {"int64"}


MANIFEST = "assets.extra/nann_export.json"
WARM_UP = "assets.extra/tf_serving_warmup_requests"


def flip(path):
    """Changes one byte in the middle; the size stays the same."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def write_manifest(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


def without_manifest(break_it):
    def change(folder):
        (folder / MANIFEST).unlink()
        break_it(folder)

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "saved_model.pb").unlink(), "has no saved_model.pb"),
        (
            lambda folder: os.truncate(folder / "saved_model.pb", 1000),
            "saved_model.pb has 1000 bytes, the manifest says",
        ),
        (lambda folder: os.truncate(folder / "assets" / "item_embeddings.bin", 1000), "item_embeddings.bin has 1000"),
        (lambda folder: (folder / "assets" / "neighbors_0.bin").unlink(), "neighbors_0.bin is missing"),
        (lambda folder: flip(folder / "assets" / "neighbors_0.bin"), "neighbors_0.bin does not have the checksum"),
        (lambda folder: flip(folder / "variables" / "variables.data-00000-of-00001"), "does not have the checksum"),
        (lambda folder: (folder / "assets" / "more.bin").touch(), "more.bin is not part of this export"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "does not describe an export"),
        (lambda folder: write_manifest(folder, format_version=99), "format version 99, this release reads 1"),
        (lambda folder: write_manifest(folder, files=[1]), "files must be an object"),
        (
            without_manifest(lambda folder: os.truncate(folder / "saved_model.pb", 1000)),
            "does not serve",
        ),
        (without_manifest(lambda folder: flip(folder / WARM_UP)), "is damaged"),
        (
            without_manifest(lambda folder: os.truncate(folder / "assets" / "item_embeddings.bin", 1000)),
            "item_embeddings.bin",
        ),
    ],
)
def test_verify_refuses_a_damaged_model(world, tmp_path, break_it, words):
    folder = shutil.copytree(world.saved_model, tmp_path / "1")
    break_it(folder)
    with pytest.raises(NannError) as error:
        verify(folder)
    assert words in str(error.value)


@pytest.mark.medium
def test_verify_takes_a_model_of_others(tmp_path):
    module = tf.Module()
    half = tf.function(lambda x: {"y": x / 2}, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path / "half"), signatures={"serving_default": half})
    found = verify(tmp_path / "half")
    assert found["signatures"]["serving_default"] == {"y": {"shape": [4], "dtype": "float32"}}
    assert found["warm_up_records"] == 0
    assert "coverage" not in found


@pytest.mark.slow
def test_verify_refuses_a_graph_that_does_not_find(world, tmp_path):
    """An index whose edges lead nowhere loads and answers, but its answers are bad."""
    opened = Index.open(world.index)
    n = len(opened.item_ids)
    loops = [Layer(np.arange(n + 1), np.arange(n, dtype=np.int32))] * 2
    entries = np.arange(3, dtype=np.int32)
    lonely = write_index(tmp_path / "index", opened.item_ids, opened.embeddings(), Graph(entries, loops), {})
    target = export(world.model, lonely.folder, tmp_path / "1", Defaults(k=20))
    n = len(opened.item_ids)
    words = (
        rf"retrieve finds 0\.\d+ of what brute force finds, at least 0.5 is wanted; {n - 3} of {n} items are met by no"
    )
    with pytest.raises(NannError, match=words):
        verify(target)
    assert verify(target, least_coverage=0)["coverage"] < 0.5


def test_a_broken_index_inside_an_export_is_named_by_its_own_files(world, tmp_path):
    """Errors name the export's files, not those of a temporary folder. First contact, line 4."""
    copy = shutil.copytree(world.saved_model, tmp_path / "1")
    path = copy / "assets" / "item_ids.bin"
    ids = np.fromfile(path, "<i8")
    ids[5] = -1
    ids.tofile(path)
    with pytest.raises(NannError) as refused, exported_index(copy, read_manifest(copy)):
        pass
    assert str(refused.value).startswith(f"{path}[5] is -1, the mark for 'no item'")
    manifest = read_manifest(copy)
    manifest["index"]["layers"] = 0
    with pytest.raises(NannError) as refused, exported_index(copy, manifest):
        pass
    assert str(refused.value).startswith(f"{copy / 'assets.extra' / 'nann_export.json'}: index: layers is 0")


@pytest.mark.slow
def test_verify_leaves_no_trace(world):
    def listing():
        return {path: path.stat().st_mtime_ns for path in world.saved_model.rglob("*")}

    before = listing()
    verify(world.saved_model)
    assert listing() == before


def test_refuses_an_index_of_unknown_items_and_keeps_the_old_export(world, tmp_path):
    opened = Index.open(world.index)
    n = 5
    layers = [Layer(np.arange(n + 1), np.zeros(n, np.int32))] * 2
    other = write_index(
        tmp_path / "index", np.arange(n), opened.item_embeddings[:n], Graph(np.arange(1, dtype=np.int32), layers), {}
    )
    target = shutil.copytree(world.saved_model, tmp_path / "models" / "1")
    before = (target / "saved_model.pb").read_bytes()
    with pytest.raises(NannError, match="holds no item that the model knows, of 5"):
        export(world.model, other.folder, target)
    assert (target / "saved_model.pb").read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_requests_are_checked(world):
    model = tf.saved_model.load(str(world.saved_model))  # Held: a signature alone does not keep the index open.
    retrieve = model.signatures["retrieve"]
    good = {
        "item_history": tf.constant([[1, 2], [3, 4]], tf.int64),
        "category_history": tf.zeros([0, 0], tf.int64),
        "k": tf.constant(3),
        "exclude": tf.zeros([0, 0], tf.int64),
        **PARAMETER_TENSORS,
    }
    for name, value, words in [
        ("k", tf.constant(0), "k is 0, allowed are 1 to"),
        ("k", tf.constant(6_000_000), "k is 6000000"),
        ("frontier", tf.constant(0), "frontier is 0"),
        ("pool", tf.constant(-2), "pool is -2"),
        ("max_steps", tf.constant(-1), "max_steps is -1, allowed are 1 to 10000, and 0 for no limit"),
        ("budget", tf.constant(-1, tf.int64), "budget is -1"),
        ("category_history", tf.zeros([2, 3], tf.int64), "must have the shape of item_history"),
        ("exclude", tf.zeros([3, 1], tf.int64), "one row per user"),
        ("exclude", tf.zeros([1, (1 << 23) + 1], tf.int64), "one row of exclude for all has too many ids"),
        ("item_history", tf.zeros([1025, 1], tf.int64), "too many users"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            retrieve(**{**good, name: value})
        assert words in str(error.value)
    assert retrieve(**good)["item_ids"].shape == (2, 3)  # Requests after a refused one are answered.


def test_no_users_no_answers(world):
    model = tf.saved_model.load(str(world.saved_model))  # Held: a signature alone does not keep the index open.
    retrieve = model.signatures["retrieve"]
    none = tf.zeros([0, 0], tf.int64)
    answer = retrieve(
        item_history=tf.zeros([0, 5], tf.int64),
        category_history=none,
        k=tf.constant(3),
        exclude=none,
        **PARAMETER_TENSORS,
    )
    assert answer["item_ids"].shape == (0, 3)


MAPPED = """
import sys
import tensorflow as tf
import tfserving_ext.ops

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))

small = tf.saved_model.load(sys.argv[1])  # Warms TensorFlow up with a small model of the same code.
before = resident("RssAnon")
again = tf.saved_model.load(sys.argv[1])
anonymous, file = 2 * resident("RssAnon") - before, resident("RssFile")  # Less what a model without tables takes.
big = tf.saved_model.load(sys.argv[2])
big.signatures["serving_default"](
    comm_seq=tf.zeros([1, 3200], tf.float16), level_topn=tf.constant([10, 20, 20, 20, 20, 20])
)
with open("/proc/self/maps") as maps:
    mapped = sum(
        int(line.split("-")[1].split()[0], 16) - int(line.split("-")[0], 16)
        for line in maps if sys.argv[2] in line
    )
print(resident("RssAnon") - anonymous, resident("RssFile") - file, mapped // 1024)
"""


def test_a_loaded_model_maps_its_tables(world, tmp_path):
    """200 MB of tables are mapped whole, but almost none of it is resident, as anonymous or file-backed pages."""
    big = shutil.copytree(world.saved_model, tmp_path / "big")
    with exported_index(world.saved_model, read_manifest(world.saved_model)) as opened:
        n = 200_000_000 // (4 * opened.dim)
        layers = []
        for layer in opened.layers:
            splits = np.concatenate([layer.row_splits, np.full(n - len(opened.item_ids), layer.row_splits[-1])])
            layers.append(Layer(splits, layer.neighbors))
        embeddings = np.zeros([n, opened.dim], np.float32)
        embeddings[: len(opened.item_ids)] = opened.item_embeddings
        ids = np.concatenate([opened.item_ids, np.arange(n - len(opened.item_ids)) + 10**9])
        wide = write_index(tmp_path / "index", ids, embeddings, Graph(opened.entry_points, layers), {})
    for path in wide.files:
        shutil.copy(path, big / "assets" / path.name)
    tables = sum(path.stat().st_size for path in wide.files) // 1024
    run = subprocess.run(
        [sys.executable, "-c", MAPPED, world.saved_model, big], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    anonymous, file, mapped = (int(value) for value in run.stdout.split())
    assert mapped >= tables
    assert anonymous < tables / 4
    assert file < tables / 4
