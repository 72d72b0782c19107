"""`nann explain` agrees with the passes' own reports, and reads the scorer of any SavedModel."""

import json
import os
import random
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from export_tools import Defaults, ExportOptions, explain, export, inspect
from export_tools.graphs.scorers import SEARCHES
from export_tools.graphs.tables import summary
from export_tools.inspect import summary as inspected
from export_tools.manifest import FILE, read_manifest
from tests.export.explained import check_explained, sums_agree_with_the_report
from tests.export.sources import DIM, Ranker
from tests.stderr import without_tensorflow_s
from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index import Index
from tfserving_ext.ops._scorer import rewrite_scorer

NANN = Path(sys.executable).with_name("nann")


def nann(*arguments):
    command = [NANN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory):
    """An export whose scorer was not rewritten."""
    target = tmp_path_factory.mktemp("plain") / "nann" / "1"
    return export(world.model, world.index, target, Defaults(k=20), options=ExportOptions(rewrite=False))


@pytest.fixture(scope="module")
def folded(world, tmp_path_factory):
    """An export whose scorer was rewritten, with rows in its index."""
    target = export(world.model, world.index, tmp_path_factory.mktemp("folded") / "nann" / "1", Defaults(k=20))
    assert read_manifest(target)["scorer"]["folded"]
    return target


def rewritten(saved_model, fold_items):
    """Returns the passes' own report on the function `score` of a SavedModel."""
    loaded = tf.saved_model.load(str(saved_model))  # Kept in a local, so that the variables stay alive.
    score = loaded.score
    *user, items = tf.nest.flatten(score.concrete_functions[0].structured_input_signature[0])
    user = [tf.TensorSpec([1, *spec.shape[1:]], spec.dtype) for spec in user]
    scorer = ops.trace_scorer(lambda *tensors: score(tensors[:-1], tensors[-1]), user, items.shape[-1])
    return rewrite_scorer(scorer, user, items.shape[-1], fold_items)


@pytest.mark.parametrize("fold_items", [False, True])
def test_the_table_is_what_the_passes_report(plain, fold_items):
    found = explain(plain, fold_items=fold_items)
    assert found.report == rewritten(plain, fold_items).report
    assert not found.at_export
    sums_agree_with_the_report(found)
    assert bool(found.costs(found.after).at_export) == fold_items
    text = summary(found)
    for entry in found.report:
        assert re.search(rf"{entry.name} +{entry.rewrites} +{entry.nodes_before} +{entry.nodes_after} ", text)
    assert f"{found.report[0].multiply_adds_before:,.0f}" in text


def test_an_export_shows_what_was_done_to_it(folded):
    found = explain(folded)
    assert found.at_export
    assert [entry._asdict() for entry in found.report] == read_manifest(folded)["scorer"]["report"]
    sums_agree_with_the_report(found)
    # Folding moves work to the export, hoisting to the start of the request: both are in the graph.
    assert {node.runs for node in found.after} == {"batch", "request", "export"}
    assert {node.runs for node in found.before if node.computes} == {"batch"}
    costs = found.costs(found.after)
    assert costs.user_runs == "request"
    assert costs.request == costs.per_item * found.items + costs.per_user
    assert sum(found.share(node, found.after) for node in found.after) == pytest.approx(1)
    largest = found.expensive(found.before)[0]
    assert largest.op == "MatMul"
    assert largest.shape == "[n, 256]"
    assert largest.multiply_adds == 128 * 256


def test_inspect_has_the_passes_on_one_line(plain, folded):
    (line,) = [line for line in inspected(inspect(folded)).splitlines() if line.startswith("passes")]
    report = read_manifest(folded)["scorer"]["report"]
    assert f"{report[0]['multiply_adds_before']:,.0f} -> {report[-1]['multiply_adds_after']:,.0f}" in line
    assert "passes" not in inspected(inspect(plain))


@pytest.mark.parametrize("suffix", [".html", ".svg"])
def test_a_drawing_has_every_node_and_needs_nothing_else(folded, tmp_path, suffix):
    path = tmp_path / f"scorer{suffix}"
    found = explain(folded, path)
    text = path.read_text()
    root = ET.fromstring(text)
    nodes = [element for element in root.iter() if element.get("class", "").startswith("node ")]
    assert len(nodes) == len(found.before) + len(found.after)
    titles = [node.findtext("{*}title") for node in nodes]
    assert all(any(title.startswith(f"{node.label}: ") for title in titles) for node in (*found.before, *found.after))
    shapes = [element.text for element in root.iter() if element.get("class") == "shape"]
    assert {"[1, n, 64]", "[n, 128]"} <= set(shapes)
    # Nothing is fetched and nothing runs.
    assert re.findall(r"\w+://[^\"]*", text) == (["http://www.w3.org/2000/svg"] if suffix == ".svg" else [])
    assert not re.search(r"<script|<link|<img|@import|@font-face|href|src=|url\((?!#)", text)
    identifiers = re.findall(r' id="([^"]*)"', text)
    assert len(identifiers) == len(set(identifiers))
    assert {f"#{name}" for name in identifiers} == set(re.findall(r"url\((#[^)]*)\)", text))


class Scaled(tf.Module):
    """A network with variables of every rank from 0 to 3, for a history of any length."""

    def __init__(self):
        super().__init__()
        self.scalar, self.row = tf.Variable(0.5), tf.Variable(tf.ones([8]))
        self.matrix, self.stack = tf.Variable(tf.ones([DIM, 8])), tf.Variable(tf.ones([1, 8, 8]))

    @tf.function(
        input_signature=[(tf.TensorSpec([None, None, 8]), tf.TensorSpec([None])), tf.TensorSpec([None, None, DIM])],
        autograph=False,
    )
    def score(self, user, items):
        pooled = tf.reduce_mean(user[0], 1, keepdims=True) * user[1][:, None, None]
        return tf.reduce_sum(tf.nn.relu(items @ self.matrix + pooled + self.row) @ self.stack, -1) * self.scalar


@pytest.mark.parametrize("fold_items", [False, True])
def test_variables_of_any_rank(tmp_path, fold_items):
    """A scalar variable once made `explain` fail, also on the demo's own model. First contact, line 13."""
    tf.saved_model.save(Scaled(), str(tmp_path / "model"))
    found = explain(tmp_path / "model", tmp_path / "x.svg", fold_items=fold_items)
    assert found.report == rewritten(tmp_path / "model", fold_items).report
    sums_agree_with_the_report(found)
    assert any(weight.endswith(" []") for node in found.before for weight in node.weights)


class Counted(tf.Module):
    """A scorer with every kind of dependence and product, small enough to count its costs by hand."""

    def __init__(self):
        super().__init__()
        self.items, self.user = tf.Variable(tf.ones([DIM, 8])), tf.Variable(tf.ones([6, 8]))
        self.left, self.right = tf.Variable(tf.ones([4, 8])), tf.Variable(tf.ones([4, 5]))

    @tf.function(input_signature=[(tf.TensorSpec([None, 6]),), tf.TensorSpec([None, None, DIM])], autograph=False)
    def score(self, user, items):
        item = tf.matmul(tf.reshape(items, [-1, DIM]), self.items, name="item")
        taste = tf.matmul(user[0], self.user, name="taste")
        weights = tf.matmul(self.left, self.right, transpose_a=True, name="weights")
        both = tf.matmul(tf.multiply(item, taste, name="joined"), weights, name="both")
        dots = tf.einsum("nd,bd->bn", item, taste, name="dots")
        return tf.add(tf.reduce_sum(both, -1)[None, :], dots, name="total")


# For each node: op, shape, what it depends on, and multiply-adds and elements per item or user.
COUNTED = {
    "item": ("MatMul", "[n, 8]", "item", DIM * 8, 8),
    "taste": ("MatMul", "[1, 8]", "user", 6 * 8, 8),
    "weights": ("MatMul", "[8, 5]", "weights", 8 * 4 * 5, 8 * 5),
    "joined": ("Mul", "[n, 8]", "both", 0, 8),
    "both": ("MatMul", "[n, 5]", "both", 8 * 5, 5),
    "dots/Einsum": ("Einsum", "[1, n]", "both", 8, 1),
    "total": ("AddV2", "[1, n]", "both", 0, 1),
}


def test_nodes_are_costed_as_by_hand(tmp_path):
    tf.saved_model.save(Counted(), str(tmp_path))
    found = explain(tmp_path)
    before = {node.label: node for node in found.before}
    for label, expected in COUNTED.items():
        node = before[label]
        assert (node.op, node.shape, node.depends, node.multiply_adds, node.elements) == expected
        assert (node.runs, node.added_by, node.known) == ("batch", "", True)
    assert sum(node.multiply_adds for node in found.before) == sum(expected[3] for expected in COUNTED.values())
    assert before["taste"].weights == ("Variable [6, 8]",)
    assert [(edge.source, edge.shape) for edge in before["both"].inputs] == [
        (before["joined"].name, "[n, 8]"),
        (before["weights"].name, "[8, 5]"),
    ]
    # Nodes that do not depend on items run once per request.
    assert {"taste", "weights"} <= {node.label for node in found.after if node.runs == "request"}
    assert "item" in {node.label for node in found.after if node.runs == "batch"}


def test_a_node_says_which_pass_added_it(folded):
    found = explain(folded)
    added = {node.added_by for node in found.after}
    assert {"", "concat_matmul_split", "projection_absorption", "prelu_fusion"} <= added
    assert added - {""} <= {entry.name for entry in found.report if entry.rewrites}
    assert {node.added_by for node in found.before} == {""}
    assert re.search(r"MatMul .*/nann_projection_absorption\.MatMul_\d+ ", summary(found))


class Scripted(tf.Module):
    """Loops, conditions, an assertion, a call, an einsum, and variables with one name."""

    def __init__(self):
        super().__init__()
        self.first, self.second = tf.Variable(tf.ones([DIM, 8])), tf.Variable(tf.ones([8, 4]))
        self.third = tf.Variable(tf.ones([4, 1]))

    @tf.function(autograph=False)
    def called(self, items):
        return tf.nn.relu(items @ self.first) @ self.second

    @tf.function(input_signature=[(tf.TensorSpec([None, 4]),), tf.TensorSpec([None, None, DIM])], autograph=False)
    def score(self, user, items):
        with tf.control_dependencies([tf.debugging.assert_less(user[0], 9.0)]):
            vectors = self.called(items)
        scores = tf.einsum("bd,bnd->bn", user[0], vectors)
        looped = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x * 2), [0, vectors])[1]
        scores += (looped @ self.third)[..., 0]
        return tf.cond(user[0][0, 0] > 0, lambda: scores, lambda: -scores)


def test_exports_with_and_without_passes(plain, folded, tmp_path):
    """Tests of other kinds of models explain their exports as well (`explained.py`). First contact, line 13."""
    assert check_explained(folded, tmp_path).at_export
    assert not check_explained(plain, tmp_path).at_export


def test_a_model_that_was_not_exported_yet(world, tmp_path):
    tf.saved_model.save(Ranker(Index.open(world.index)), str(tmp_path / "ranker"))
    found = explain(tmp_path / "ranker")
    assert found.report == rewritten(tmp_path / "ranker", fold_items=False).report
    sums_agree_with_the_report(found)


def test_a_scorer_of_anything_is_read(tmp_path):
    tf.saved_model.save(Scripted(), str(tmp_path / "model"))
    found = explain(tmp_path / "model", tmp_path / "x.html")
    ops_of = {node.op: node for node in found.before}
    assert {"StatelessWhile", "StatelessIf", "If", "Einsum"} <= set(ops_of)  # The assertion is in the If.
    assert ops_of["Einsum"].multiply_adds == 4
    products = sum(node.multiply_adds for node in found.before)
    assert products == DIM * 8 + 8 * 4 + 4
    assert not found.report or products == found.report[0].multiply_adds_before
    # The output of the loop has an unknown shape.
    (unknown,) = [node for node in found.before if not node.known]
    assert unknown.op == "BatchMatMulV2"
    assert f"shapes are not known: {unknown.label}" in summary(found)
    assert any("Variable [64, 8]" in weight for node in found.before for weight in node.weights)


class Other(tf.Module):
    """Makes a model without a scorer."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def score(self, numbers):
        return numbers * 2


def damaged(folded, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes((folded / "saved_model.pb").read_bytes()[:5000])


def other(folded, tmp_path):
    tf.saved_model.save(Other(), str(tmp_path))


def empty(folded, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")


def contradicting(folded, tmp_path):
    """Makes the search's scorer a function that does not exist."""
    (tmp_path / "saved_model.pb").write_bytes(changed(folded, "function"))


def endless(folded, tmp_path):
    """Makes a scorer that calls itself."""
    saved = saved_model_pb2.SavedModel.FromString((folded / "saved_model.pb").read_bytes())
    functions = {each.signature.name: each for each in saved.meta_graphs[0].graph_def.library.function}
    nodes = [node for function in functions.values() for node in function.node_def]
    for name in {node.attr["scorer"].list.func[0].name for node in nodes if node.op in SEARCHES}:
        scorer = functions[name].signature
        again = functions[name].node_def.add(name="again", op="StatefulPartitionedCall")
        again.input.extend(argument.name for argument in scorer.input_arg)
        again.attr["f"].func.name = name
        again.attr["Tin"].list.type.extend(argument.type for argument in scorer.input_arg)
        again.attr["Tout"].list.type.extend(argument.type for argument in scorer.output_arg)
    (tmp_path / "saved_model.pb").write_bytes(saved.SerializeToString())


def strange_manifest(folded, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes((folded / "saved_model.pb").read_bytes())
    (tmp_path / FILE).parent.mkdir()
    manifest = {**read_manifest(folded), "scorer": {"report": [{"name": "x"}], "row_dim": 3}}
    (tmp_path / FILE).write_text(json.dumps(manifest))


def changed(folded, name):
    saved = saved_model_pb2.SavedModel.FromString((folded / "saved_model.pb").read_bytes())
    for function in saved.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.op in SEARCHES and node.attr["scorer"].list.func:
                node.attr["scorer"].list.func[0].name = name
    return saved.SerializeToString()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda *_: None, "it has no saved_model.pb"),
        (damaged, "is damaged"),
        (empty, "holds no graph"),
        (other, "it has no scorer"),
        (contradicting, "which is not in its library"),
        (endless, "nested more than 50 deep"),
        (strange_manifest, "is not in the form that `nann export` writes"),
    ],
)
def test_what_is_no_scorer_is_refused_in_one_line(folded, tmp_path, make, words):
    make(folded, tmp_path)
    with pytest.raises(NannError, match=words):
        explain(tmp_path)


@pytest.mark.slow
def test_no_damage_makes_it_crash(folded, tmp_path):
    whole, rng = (folded / "saved_model.pb").read_bytes(), random.Random(3)
    read = 0
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "saved_model.pb").write_bytes(data)
        try:
            explain(tmp_path, tmp_path / "x.svg")
            read += 1
        except NannError as error:
            assert "\n" not in str(error)
    assert read < 150


@pytest.mark.slow
def test_the_command(folded, tmp_path):
    run = nann("explain", folded, "-o", tmp_path / "x.html", "--top", 3)
    assert run.returncode == 0, run.stderr
    assert "projection_absorption" in run.stdout
    assert (tmp_path / "x.html").exists()
    run = nann("explain", folded, "--json")
    facts = json.loads(run.stdout)
    assert facts == json.loads(json.dumps(explain(folded).facts()))
    assert len(facts["after"]["nodes"]) == len(explain(folded).after)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["nowhere"], "it has no saved_model.pb"), ([".", "-o", "scorer.pdf"], "drawings are .html or .svg")],
)
def test_the_command_refuses_in_one_line(arguments, words):
    run = nann("explain", *arguments)
    assert run.returncode == 1
    (line,) = without_tensorflow_s(run.stderr).splitlines()
    assert line.startswith("error: ")
    assert words in line
