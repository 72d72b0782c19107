"""Functions that cannot be read as a scorer: an error that says where, and a search that answers all the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from tests.ops.conftest import Searcher
from tests.ops.reference import Graph
from tests.ops.searching import any_search
from tests.passes.patterns import DIM, USER, one_score
from tests.passes.scorers import check, numbers, specs, weights
from tfserving_ext import ops
from tfserving_ext.ops import Scorer, rewrite_scorer, trace_scorer

W, LAST = numbers(4, 6), numbers(6, 1, seed=1)
LINE = Graph(np.arange(6) * 10, [0], [[[1], [2], [3], [4], [5], []]])
EMBEDDINGS = numbers(6, DIM, seed=5).numpy()
ALL = {"k": 6, "ef": [6, 6], "rounds": [1, 9]}


@tf.function
def rectified(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.relu(x)


def score(u: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    x = tf.matmul(tf.reshape(items, [-1, 4]), W, name="first")
    return tf.reshape(tf.matmul(rectified(x), LAST, name="second"), [1, -1]) * u[:, :1]


def node(function: Any, name: str) -> Any:
    return next(node for node in function.node_def if node.name == name)


def changed(name: str, change: Callable[[Any], None]) -> Scorer:
    """The score function under another name, its definition changed by hand."""
    traced = trace_scorer(score, specs(USER), DIM)
    function = type(traced.plain.function_def)()
    function.CopyFrom(traced.plain.function_def)
    function.signature.name = f"broken_{name.replace(' ', '_')}"
    change(function)
    context.context().add_function_def(function)
    return Scorer(function.signature.name, traced.captured)


def shapes(function: Any) -> None:
    """[n, 4] by [n, 6]."""
    node(function, "second").input[1] = node(function, "second").input[0]
    node(function, "second").input[0] = "Reshape:output:0"


def missing_input(function: Any) -> None:
    node(function, "second").input[0] = "nowhere:output:0"


def types(function: Any) -> None:
    node(function, "second").input[0] = "Reshape/shape:output:0"


def unknown_function(function: Any) -> None:
    node(function, "PartitionedCall").attr["f"].func.name = "nowhere"


def unknown_op(function: Any) -> None:
    node(function, "second").op = "NoSuchOp"


def control_edge(function: Any) -> None:
    node(function, "second").input.append("^nowhere")


def attribute(function: Any) -> None:
    del node(function, "second").attr["T"]


def too_few_inputs(function: Any) -> None:
    del node(function, "second").input[1:]


def too_many_inputs(function: Any) -> None:
    node(function, "second").input.append("Reshape:output:0")


def endless(function: Any) -> None:
    """A function that calls itself."""
    call = node(function, "PartitionedCall")
    inner = type(function)()
    inner.CopyFrom(context.context().get_function_def(call.attr["f"].func.name))
    inner.signature.name = call.attr["f"].func.name = "endless"
    for each in inner.node_def:
        if each.op == "Relu":
            each.op = "PartitionedCall"
            each.attr.clear()
            each.attr["Tin"].list.type.append(tf.float32.as_datatype_enum)
            each.attr["Tout"].list.type.append(tf.float32.as_datatype_enum)
            each.attr["f"].func.name = "endless"
        each.input[:] = [tensor.replace(":activations:0", ":output:0") for tensor in each.input]
    context.context().add_function_def(inner)


BROKEN = {
    "attribute": (attribute, "second"),
    "too few inputs": (too_few_inputs, "second"),
    "too many inputs": (too_many_inputs, "second"),
    "endless": (endless, "nested more than 50 deep, or make more than 100000 nodes"),
    "shapes": (shapes, "Dimensions must be equal.*second"),
    "missing input": (missing_input, "nowhere.*second"),
    "types": (types, "expected type float != int32.*second"),
    "unknown function": (unknown_function, "node PartitionedCall calls nowhere, which is neither an op nor a function"),
    "unknown op": (unknown_op, "node second calls NoSuchOp, which is neither an op nor a function"),
    "control edge": (control_edge, "nowhere"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_node_is_named(name):
    change, message = BROKEN[name]
    scorer = changed(name, change)
    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.NotFoundError), match=f"(?s){message}"):
        rewrite_scorer(scorer, specs(USER), DIM)


def test_extents_of_zero_are_left_alone():
    """First contact, line 12: nothing in an axis of the user's or of the item's, at any place."""
    empty, wide = weights(0, 6), weights(4, 6)

    def nothing(u: tf.Tensor, h: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        n = tf.shape(items)[1]
        x = tf.matmul(tf.reshape(items, [-1, 4]), wide) + tf.matmul(tf.reshape(items[..., :0], [n, 0]), empty)
        beside = tf.concat([x, tf.tile(tf.reduce_sum(h, 1), [n, 1]), tf.reshape(items[..., 2:2], [n, 0])], 1)
        x = tf.nn.relu(tf.matmul(beside, tf.concat([wide, wide, wide[:2]], 0)) + 1.0) * tf.reduce_sum(u)
        attended = tf.matmul(tf.nn.softmax(tf.matmul(items, h, transpose_b=True)), h)
        return one_score(x) + one_score(attended)

    user = [USER[0], tf.zeros([1, 0, 4])]
    for passes in ([], *([name] for name in ("flatten_rows", "concat_matmul_split", "broadcast_elimination"))):
        for fold_items in (False, True):
            rewritten = rewrite_scorer(trace_scorer(nothing, specs(user), DIM), specs(user), DIM, fold_items, passes)
            assert [row.reason for row in rewritten.report if row.name != "item_fold" and row.reason] == []
            check(rewritten, nothing, user, DIM)


def test_a_cycle_is_an_error():
    def cycle(function: Any) -> None:
        node(function, "first").input[0] = "second:product:0"

    with pytest.raises(tf.errors.InvalidArgumentError, match="cycle"):
        rewrite_scorer(changed("cycle", cycle), specs(USER), DIM)


def test_a_function_that_does_not_exist():
    with pytest.raises(tf.errors.NotFoundError, match="never_defined"):
        rewrite_scorer(Scorer("never_defined", []), specs(USER), DIM)


@pytest.mark.parametrize("passes", [[], ["flatten_rows"], ["projection_absorption"]])
def test_attributes_that_are_left_out_have_their_defaults(passes):
    """As in a SavedModel, which may leave them out."""

    def strip(function: Any) -> None:
        for each in function.node_def:
            for name in ("transpose_a", "transpose_b", "grad_a", "grad_b", "begin_mask", "end_mask"):
                if name in each.attr and not each.attr[name].b and not each.attr[name].i:
                    del each.attr[name]

    rewritten = rewrite_scorer(
        changed(f"attributes {len(passes and passes[0])}", strip), specs(USER), DIM, passes=passes
    )
    check(rewritten, score, USER, DIM)


def test_more_user_tensors_than_the_function_takes():
    with pytest.raises(tf.errors.InvalidArgumentError):
        rewrite_scorer(trace_scorer(score, specs(USER), DIM), [*specs(USER), *specs(USER)], DIM)


def test_another_width_than_the_function_was_traced_for():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"evenly divisible by 4 but is 5000015.*node Reshape"):
        rewrite_scorer(trace_scorer(score, specs(USER), DIM), specs(USER), DIM + 1)


@pytest.fixture
def line(tmp_path: Path) -> Searcher:
    return Searcher(tmp_path, dim=DIM).open(LINE, EMBEDDINGS)


def looped(u: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """The items' sums, doubled three times."""
    return tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x * 2.0), [0, one_score(items) * u[:, :1]])[1]


def test_a_search_whose_scorer_has_a_loop_in_a_v1_session(line):
    """Such a session takes loops apart, into nodes that cannot be read: the scorer runs as it is."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        index = ops.index_handle(shared_name="v1")
        opened = ops.index_open(index, LINE.write(line.folder, EMBEDDINGS), dim=DIM)
        user = tf.compat.v1.placeholder(tf.float32, [None, 4])
        found = any_search(index, [user], looped, DIM, **ALL)
        session.run(opened)
        scores, ids = session.run([found.scores, found.item_ids], {user: USER[0].numpy()})
    wanted = EMBEDDINGS.sum(1) * 8 * USER[0].numpy()[0, 0]
    np.testing.assert_allclose(scores[0], -np.sort(-wanted), rtol=1e-5)
    np.testing.assert_array_equal(ids[0], np.argsort(-wanted) * 10)


def switched(u: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Twice the items' sums where the user is positive, as graphs branched before functions did."""
    x = one_score(items)
    no, yes = tf.raw_ops.Switch(data=x, pred=u[0, 0] > 0)
    return tf.raw_ops.Merge(inputs=[no, yes * 2.0]).output


def test_branches_between_nodes_are_an_error_that_names_one():
    scorer = trace_scorer(switched, specs(USER), DIM)
    with pytest.raises(
        tf.errors.UnimplementedError, match=r"node \w+ is a \w+: control flow between nodes is not read"
    ):
        rewrite_scorer(scorer, specs(USER), DIM)


def test_a_search_whose_scorer_cannot_be_read_answers(line):
    for user in (tf.ones([1, 4]), -tf.ones([1, 4])):
        found = any_search(line.index, [user], switched, DIM, **ALL)
        wanted = EMBEDDINGS.sum(1) * (2 if user[0, 0] > 0 else 1)
        np.testing.assert_allclose(found.scores[0], -np.sort(-wanted), rtol=1e-5)


def test_a_loop_that_is_a_node_is_kept():
    rewritten = rewrite_scorer(trace_scorer(looped, specs(USER), DIM), specs(USER), DIM)
    check(rewritten, looped, USER, DIM)


def test_a_search_whose_scorer_only_fits_one_number_of_items(line):
    """Traced for any number, it takes 16: the passes cannot read it, and the search asks for 16."""
    wide = weights(4, 3)

    def sixteen(u: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        x = tf.reshape(items, [4, 4, 4])
        return tf.reshape(tf.reduce_sum(tf.matmul(x, wide), -1), [1, 16]) * u[:, :1]

    found = any_search(line.index, USER, sixteen, DIM, **ALL, batch_sizes=[16])
    wanted = (EMBEDDINGS @ wide.numpy()).sum(1) * USER[0].numpy()[0, 0]
    np.testing.assert_allclose(found.scores[0], -np.sort(-wanted), rtol=1e-4, atol=1e-5)
