"""Loading an exported model maps the tables: measured by the kernel's page accounting, not by time.

A process loads a SavedModel as TensorFlow Serving does, and searches it. It must not copy the item table into its own
memory: its anonymous memory grows by far less than the table, which stays file-backed, read-only and never copied. The
same measurement on a model with the table in a variable shows that it can detect a copy.
"""

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.index import Graph, Index, Layer, write_index
from tfserving_ext.retrieval import NeuralTopK

N, DIM, DEGREE = 200_000, 64, 16
TABLE = N * DIM * 4  # 51 MB.
GRAPH = N * DEGREE * 4 + 8 * (N + 1)
# Memory that a search needs without any table: graph definitions, kernels, worker buffers.
ALLOWED = TABLE // 4


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Index:
    """Random items with random links: as large as a built graph, but made at once."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=[N, DIM]).astype(np.float32)
    ground = Layer(np.arange(0, N * DEGREE + 1, DEGREE), rng.integers(0, N, N * DEGREE, np.int32))
    upper = Layer(np.arange(N + 1), rng.integers(0, N, N, np.int32))
    folder = tmp_path_factory.mktemp("large") / "index"
    return write_index(folder, np.arange(N), embeddings, Graph(np.arange(200), [ground, upper]), {})


def dot(user: tuple, items: tf.Tensor) -> tf.Tensor:
    return tf.linalg.matvec(items, user[0])


class Mapped(tf.Module):
    """The exported module: the index, and a search over it."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self.search = NeuralTopK(index, dot)

    @tf.function(input_signature=[tf.TensorSpec([None, DIM], tf.float32, "user")])
    def top(self, user):
        found = self.search.rounds([user], k=10, ef=[100, 200, 400], rounds=[1, 1, 3])
        return {"item_ids": found.item_ids, "scores": found.scores}


class Copied(tf.Module):
    """What an export must not be: a module with the table in a variable."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self.table = tf.Variable(index.item_embeddings)

    @tf.function(input_signature=[tf.TensorSpec([None, DIM], tf.float32, "user")])
    def top(self, user):
        scores, items = tf.math.top_k(tf.matmul(user, self.table, transpose_b=True), 10)
        return {"item_ids": tf.cast(items, tf.int64), "scores": scores}


LOAD_AND_SEARCH = """
import json
import re
import sys

import numpy as np
import tensorflow as tf

import tfserving_ext.ops

path, warm = sys.argv[1:]


def status():
    text = open("/proc/self/status").read()
    figures = {name: int(re.search(name + r":\\s+(\\d+) kB", text)[1]) * 1024 for name in ("RssAnon", "RssFile")}
    return figures | {"mappings": mappings()}


def mappings():
    '''The mappings of the saved model's files: permissions and sizes by file name.'''
    found, current = {}, None
    for line in open("/proc/self/smaps"):
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            parts = line.split(maxsplit=5)
            current = None
            if len(parts) == 6 and path + "/assets/" in parts[5]:
                name = parts[5].strip().rsplit("/", 1)[1]
                current = found.setdefault(name, {"permissions": parts[1], "Size": 0, "Rss": 0, "Anonymous": 0})
        elif current is not None:
            name, _, rest = line.partition(":")
            if name in current:
                current[name] += int(rest.split()[0]) * 1024
    return found


def load(path):
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        loaded = tf.compat.v1.saved_model.load(session, ["serve"], path)
    signature = loaded.signature_def["top"]
    outputs = {name: info.name for name, info in signature.outputs.items()}
    return lambda user: session.run(outputs, {signature.inputs["user"].name: user})


user = np.random.default_rng(1).normal(size=[1, 64]).astype(np.float32)
load(warm)(user)  # A small model: what TensorFlow itself needs for its first session is not the question.
before = status()
top = load(path)
loaded = status()
answer = top(user)
for _ in range(20):
    top(user)
after = status()
answer = {name: values.tolist() for name, values in answer.items()}
json.dump({"before": before, "loaded": loaded, "after": after, **answer}, sys.stdout)
"""


def measure(module: tf.Module, warm: Path, folder: Path) -> dict:
    tf.saved_model.save(module, str(folder), signatures={"top": module.top})
    result = subprocess.run(
        [sys.executable, "-c", LOAD_AND_SEARCH, str(folder), str(warm)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def grown(figures: dict, until: str = "after") -> int:
    """Returns the bytes by which the process's anonymous memory grew."""
    return figures[until]["RssAnon"] - figures["before"]["RssAnon"]


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """A model of three items."""
    folder = tmp_path_factory.mktemp("warm")
    empty = Layer(np.zeros(4, np.int64), np.zeros(0, np.int32))
    index = write_index(folder / "index", np.arange(3), np.ones([3, DIM]), Graph(np.arange(3), [empty, empty]), {})
    module = Mapped(index)
    tf.saved_model.save(module, str(folder / "saved"), signatures={"top": module.top})
    return folder / "saved"


@pytest.fixture(scope="module")
def figures(index, warm, tmp_path_factory) -> dict:
    return measure(Mapped(index), warm, tmp_path_factory.mktemp("mapped") / "saved")


def test_a_loaded_model_does_not_copy_the_table(figures):
    assert grown(figures, "loaded") < ALLOWED
    assert grown(figures) < ALLOWED


def test_a_variable_of_the_same_size_would_not_pass(index, warm, tmp_path):
    figures = measure(Copied(index), warm, tmp_path / "saved")
    assert grown(figures) > 0.9 * TABLE > ALLOWED


@pytest.mark.parametrize("when", ["loaded", "after"])
def test_every_table_is_a_read_only_mapping_of_its_file(figures, index, when):
    """Anonymous counts the pages of a mapping that are copies. (Private_Dirty would also count a new file's pages that
    the disk has not seen yet.)
    """
    assert figures["before"]["mappings"] == {}
    mappings = figures[when]["mappings"]
    assert set(mappings) == {path.name for path in index.files}
    for path in index.files:
        mapping = mappings[path.name]
        assert mapping["permissions"].startswith("r--")
        assert 0 <= mapping["Size"] - path.stat().st_size < mmap.PAGESIZE
        assert mapping["Anonymous"] == 0


def test_loading_leaves_no_table_resident(figures):
    """All links are read once for the check, and their pages are released; the items are not read."""
    resident = {name: mapping["Rss"] for name, mapping in figures["loaded"]["mappings"].items()}
    assert resident["item_embeddings.bin"] == 0
    assert sum(resident.values()) < GRAPH / 4


def test_what_a_search_reads_is_file_backed(figures):
    """The kernel may drop these pages and read them again, and servers of the same files share them."""
    resident = figures["after"]["mappings"]["item_embeddings.bin"]["Rss"]
    assert resident > TABLE / 10
    assert figures["after"]["RssFile"] - figures["loaded"]["RssFile"] >= resident


def test_the_mapped_model_answers_right(figures, index):
    """The scores are the items' scores, so the measured search did read the table."""
    user = np.random.default_rng(1).normal(size=[1, DIM]).astype(np.float32)
    items = np.array(figures["item_ids"][0])
    assert len(set(items.tolist())) == 10
    np.testing.assert_allclose(figures["scores"][0], index.item_embeddings[items] @ user[0], rtol=1e-4)
    assert figures["scores"][0] == sorted(figures["scores"][0], reverse=True)
    assert figures["scores"][0][9] > np.quantile(index.item_embeddings @ user[0], 0.98)
