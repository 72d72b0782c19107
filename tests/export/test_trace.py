"""`retrieve_trace` gives the answer of `retrieve` and where its time went; times are compared only with each other."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.grappler import tf_optimizer

from export_tools import Defaults, ExportOptions, export
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.serving.models import load_servable

PARTS = ("user_us", "walk_us", "gather_us", "scorer_us", "merge_us")
RUNS = 5


class Slow(tf.Module):
    """Scores by a dot product, after its tower or its scorer has multiplied matrices.

    The tower's slow part depends on no input of a request, so only the trace itself can keep it after the first read of
    the clock.
    """

    features = {"vector": tf.TensorSpec([None, 8], tf.float32)}  # noqa: RUF012

    def __init__(self, tower: bool = False, scorer: bool = False) -> None:
        super().__init__()
        self.slow_tower, self.slow_scorer = tower, scorer
        self.square = tf.Variable(np.full([600, 600], 1 / 600, np.float32))

    def _work(self) -> tf.Tensor:
        product = self.square
        for _ in range(4):
            product = product @ self.square
        return 0 * product[0, 0]

    def user(self, features):
        return (features["vector"] + self._work() if self.slow_tower else features["vector"],)

    def score(self, user, items):
        scores = tf.einsum("bd,bnd->bn", user[0], items)
        return scores + self._work() if self.slow_scorer else scores


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("slow")


@pytest.fixture(scope="module")
def traced(vectors, root):
    """Traces of three users by model, with the least time of each part over several runs."""
    build_index(np.arange(3000) * 3, vectors, root / "index", Hnsw(threads=1))
    found = {}
    for name, model in {"fast": Slow(), "tower": Slow(tower=True), "scorer": Slow(scorer=True)}.items():
        # Unoptimised: the passes would take the work out of the scorer's batches.
        graphs = root / name / "graphs"
        target = export(
            model,
            root / "index",
            root / name / "1",
            Defaults(k=50),
            options=ExportOptions(rewrite=False, graphs=graphs),
        )
        trace = load_servable(target).signature("retrieve_trace")
        answers = [trace.run({"vector": vectors[:3]}) for _ in range(RUNS)]
        found[name] = {part: np.min([answer[part] for answer in answers], axis=0) for part in PARTS}
    return found


@pytest.mark.parametrize(("model", "part"), [("tower", "user_us"), ("scorer", "scorer_us")])
def test_what_is_slow_is_seen_where_it_is_and_nowhere_else(traced, model, part):
    grew = {name: np.maximum(traced[model][name] - traced["fast"][name], 0).max() for name in PARTS}
    assert grew[part] > 3 * (sum(grew.values()) - grew[part]), traced


def optimized(path):
    """Returns a function's graph after Grappler: the nodes each node waits for, directly or not, and nodes by op."""
    graph_def = graph_pb2.GraphDef.FromString(path.read_bytes())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
        meta_graph = tf.compat.v1.train.export_meta_graph(graph=graph)
    used = {name.lstrip("^").split(":")[0] for node in graph_def.node for name in node.input}
    results = [node.name for node in graph_def.node if node.op == "Identity" and node.name not in used]
    meta_graph.collection_def["train_op"].node_list.value.extend(results)
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1
    waits, by_op = {}, {}
    nodes = {node.name: node for node in tf_optimizer.OptimizeGraph(config, meta_graph).node}

    def visit(name):
        if name not in waits:
            waits[name] = set()
            for each in nodes[name].input:
                before = each.lstrip("^").split(":")[0]
                waits[name] |= {before} | visit(before)
        return waits[name]

    for name, node in nodes.items():
        visit(name)
        by_op.setdefault(node.op, []).append(name)
    return waits, by_op


def test_grappler_leaves_the_tower_between_the_reads_of_the_clock(traced, root):
    waits, by_op = optimized(root / "tower" / "graphs" / "retrieve_trace.pb")
    begin, end = sorted(by_op["Timestamp"], key=lambda name: len(waits[name]))
    assert len(by_op["MatMul"]) == 4
    for work in by_op["MatMul"] + by_op["ReadVariableOp"]:
        assert begin in waits[work]
        assert work in waits[end]
    assert end in waits[by_op["Nann>BestFirstSearch"][0]]
    # The checks of the request run before the first read of the clock.
    assert set(by_op["Assert"]) <= waits[begin]


def test_the_answer_is_that_of_retrieve(world):
    servable = load_servable(world.saved_model)
    history = world.sequences.ids_of(world.sequences.cases("test").histories[:3])
    plain, trace = (servable.signature(name) for name in ("retrieve", "retrieve_trace"))
    assert trace.defaults.keys() == plain.defaults.keys()
    for name, value in plain.defaults.items():
        np.testing.assert_array_equal(trace.defaults[name], value)
    for inputs in ({}, {"k": np.int32(7), "budget": np.int64(40), "exclude": history[:1, -2:]}):
        expected, found = (one.run({"item_history": history, **inputs}) for one in (plain, trace))
        for name, value in expected.items():
            np.testing.assert_array_equal(found.pop(name), value)
        assert set(found) == set(PARTS)
        for value in found.values():
            assert value.shape == (3,)
            assert value.dtype == np.int64
            assert (value >= 0).all()
        assert len(set(found["user_us"].tolist())) == 1
        assert (found["scorer_us"] > 0).all()
