"""Passes run wherever a model is loaded: in a session, by `tf.saved_model.load`, in the local server, by configuration.

A fresh process for each way to load, whose log says that they did.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.grappler import tf_optimizer

from export_tools import Defaults, ExportOptions, export
from tests.ops.searching import any_search
from tests.passes.patterns import DIM, USER, one_score
from tests.passes.scorers import numbers
from tests.passes.test_broken import ALL, LINE
from tfserving_ext import ops
from tfserving_ext.index import Index
from tfserving_ext.serving.models import load_servable

END = "-- the end of a load --"
SCRIPT = f"""
END = {END!r}
import json, sys
import numpy as np, tensorflow as tf
import tfserving_ext.ops
way, history, loads = sys.argv[1], np.array(json.loads(sys.argv[2])), json.loads(sys.argv[3])
for path, optimizers in loads:
    exec(way)
    answer = {{"item_ids": found["item_ids"].tolist(), "scores": found["scores"].tolist(), "prepared": prepared}}
    print(json.dumps(answer), flush=True)
    print(END, file=sys.stderr, flush=True)
"""
SESSION = """
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.grappler import tf_optimizer
config = config_pb2.ConfigProto()
rewrite = config.graph_options.rewrite_options
rewrite.min_graph_nodes = -1
for name in optimizers:
    rewrite.custom_optimizers.add(name=name)
with tf.compat.v1.Session(graph=tf.Graph(), config=config) as session:
    graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
    signature = graph.signature_def["retrieve"]
    feeds = {signature.inputs[key].name: tf.make_ndarray(value) for key, value in signature.defaults.items()}
    feeds[signature.inputs["item_history"].name] = history
    fetches = {key: signature.outputs[key].name for key in ("item_ids", "scores")}
    options = config_pb2.RunOptions(output_partition_graphs=bool(optimizers))
    metadata = config_pb2.RunMetadata()
    found = session.run(fetches, feeds, options=options, run_metadata=metadata)
nodes = [node for graph in metadata.partition_graphs for node in graph.node]
nodes += [node for graph in metadata.partition_graphs for f in graph.library.function for node in f.node_def]
prepared = [len(node.attr["prepare"].list.func) for node in nodes if node.op == "Nann>BestFirstSearch"]
"""
FUNCTION = """
from tensorflow.core.protobuf import saved_model_pb2
with open(path + "/saved_model.pb", "rb") as file:
    signature = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0].signature_def["retrieve"]
inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in signature.defaults.items()}
loaded = tf.saved_model.load(path)
found = loaded.signatures["retrieve"](**inputs, item_history=tf.constant(history))
found = {key: found[key].numpy() for key in ("item_ids", "scores")}
prepared = []
"""
SERVER = """
from pathlib import Path
from tfserving_ext.serving import Client, LocalServer, ServerOptions
with LocalServer({"nann": Path(path).parent}, ServerOptions(grpc_port=0, rest_port=0)) as server:
    with Client(f"127.0.0.1:{server.grpc_port}", "nann") as client:
        found = client.predict("retrieve", {"item_history": history})
prepared = []
"""
CHOSEN = "nann_flatten_rows nann_concat_matmul_split nann_user_hoist"
# What each way loads, one after another in one process: an export, and the optimizers that a configuration names.
LOADS = {
    "session": [
        ("as_it_is", ""),
        ("rewritten", ""),
        ("as_it_is", "nann_scorer"),
        ("as_it_is", CHOSEN),
        ("rewritten", "nann_scorer"),
    ],
    "function": [("as_it_is", ""), ("rewritten", "")],
    "server": [("as_it_is", ""), ("rewritten", "")],
}
WAYS = {"session": SESSION, "function": FUNCTION, "server": SERVER}


@pytest.fixture(scope="module")
def exports(world, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("loading")
    for name in ("as_it_is", "rewritten"):
        export(
            world.model,
            world.index,
            root / name / "1",
            Defaults(k=20),
            options=ExportOptions(rewrite=name == "rewritten", measure=False),
        )
    return {name: root / name / "1" for name in ("as_it_is", "rewritten")}


@pytest.fixture(scope="module")
def history(world) -> np.ndarray:
    return np.random.default_rng(3).choice(np.asarray(world.sequences.item_ids), [3, 12])


@pytest.fixture(scope="module")
def wanted(world, exports, history) -> dict[str, np.ndarray]:
    """The answers of the model as it is, every score computed by its own function `score`."""
    loaded = tf.saved_model.load(str(exports["as_it_is"]))
    found = load_servable(exports["as_it_is"]).signature("retrieve").run({"item_history": history})
    features = {"item_history": tf.constant(history), "category_history": tf.zeros([0, 0], tf.int64)}
    user = loaded.user(features)
    opened = Index.open(world.index)
    row_of = {item: row for row, item in enumerate(opened.item_ids.tolist())}
    rows = np.vectorize(row_of.get)(found["item_ids"])
    scores = [
        loaded.score(tuple(part[i : i + 1] for part in user), tf.constant(opened.embeddings(rows[i])[None]))[0]
        for i in range(len(history))
    ]
    return {"item_ids": found["item_ids"], "scores": np.stack(scores)}


def run(
    way: str, loads: list[tuple[Path, str]], history: np.ndarray, log_level: str = "0"
) -> list[tuple[dict[str, Any], str]]:
    """Loads models in one process; returns the answer and the log of each."""
    pairs = json.dumps([(str(path), optimizers.split()) for path, optimizers in loads])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, WAYS[way], json.dumps(history.tolist()), pairs],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": log_level},
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return list(zip(answers, done.stderr.split(END)[:-1], strict=True))


@pytest.fixture(scope="module")
def loaded(exports, history):
    """Returns the answer and the log of a load; what a way loads is loaded once."""

    @functools.cache
    def by(way: str) -> dict[tuple[str, str], tuple[dict[str, Any], str]]:
        loads = [(exports[name], optimizers) for name, optimizers in LOADS[way]]
        return dict(zip(LOADS[way], run(way, loads, history), strict=True))

    return lambda way, name, optimizers="": by(way)[name, optimizers]


def check(found: dict, wanted: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(found["item_ids"], wanted["item_ids"])
    np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "words"), [("as_it_is", "Passes rewrote the scorer"), ("rewritten", "was rewritten by passes before")]
)
def test_passes_are_active(loaded, wanted, way, name, words):
    found, log = loaded(way, name)
    check(found, wanted)
    assert words in log


def test_a_session_s_configuration_runs_them(loaded, wanted):
    found, log = loaded("session", "as_it_is", "nann_scorer")
    check(found, wanted)
    assert "The graph optimizer nann_scorer is active" in log
    assert "Passes rewrote the scorer" not in log  # The op found its work done.
    assert 1 in found["prepared"]


def test_a_configuration_can_choose_passes(loaded, wanted):
    found, log = loaded("session", "as_it_is", CHOSEN)
    check(found, wanted)
    for name in CHOSEN.split():
        assert f"The graph optimizer {name} is active" in log
    assert "was rewritten by passes before" in log


def test_a_configuration_leaves_what_was_rewritten(loaded, wanted):
    found, log = loaded("session", "rewritten", "nann_scorer")
    check(found, wanted)
    assert "was rewritten by passes before" in log


def test_the_log_level_is_obeyed(exports, history, wanted):
    """TensorFlow 2.20 tells what is logged through Abseil whatever TF_CPP_MIN_LOG_LEVEL says."""
    ((found, log),) = run("session", [(exports["rewritten"], "")], history, log_level="1")
    check(found, wanted)
    assert "was rewritten by passes before" not in log
    assert "MLIR V1" not in log


def test_a_search_within_functions_within_functions(tmp_path):
    """Its scorer's variable is made in the graph, and handed through two functions that are not inlined."""
    embeddings, weighed, user = numbers(6, DIM, seed=5).numpy(), numbers(DIM, 6).numpy(), USER[0].numpy()

    def apart(function):
        return tf.function(function, experimental_attributes={"_noinline": True})

    with tf.Graph().as_default() as graph:
        weights = tf.Variable(weighed)
        index = ops.index_handle(shared_name=str(tmp_path))
        opened = ops.index_open(index, LINE.write(tmp_path, embeddings), dim=DIM)

        def score(user, items):
            return one_score(tf.nn.relu(tf.matmul(tf.reshape(items, [-1, DIM]), weights) + tf.reduce_sum(user * user)))

        @apart
        def inner(user):
            return any_search(index, [user], score, DIM, **ALL).scores

        @apart
        def outer(user):
            return inner(user) + 1.0

        scores = outer(tf.compat.v1.placeholder_with_default(user, [None, 4]))
        for each in (weights.initializer, opened, scores):
            graph.add_to_collection("train_op", each)  # What the optimizer keeps.
        meta_graph = tf.compat.v1.train.export_meta_graph()
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    config.graph_options.rewrite_options.custom_optimizers.add(name="nann_scorer")
    optimized = tf_optimizer.OptimizeGraph(config, meta_graph)
    searches = [node for each in optimized.library.function for node in each.node_def if node.op == "Nann>RoundsSearch"]
    assert [len(node.attr["prepare"].list.func) for node in searches] == [1]
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        names = [weights.initializer.name, opened.name, scores.name]
        initialized, opened, scores = tf.graph_util.import_graph_def(optimized, return_elements=names, name="")
        session.run([initialized, opened])
        found = session.run(scores)
    wanted = np.maximum(embeddings @ weighed + (user**2).sum(), 0).sum(1) + 1
    np.testing.assert_allclose(found[0], -np.sort(-wanted), rtol=1e-4)
