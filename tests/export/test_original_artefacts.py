"""The artefacts of alibaba/nann, a frozen graph and its meta graph, are exported or refused with a reason."""

import shutil

import numpy as np
import pytest
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from export_tools import Defaults, export
from tests.export.moving import move_and_verify
from tests.export.sources import LOGITS, USER, original_artefacts
from tfserving_ext.errors import NannError
from tfserving_ext.retrieval import BestFirst
from tfserving_ext.serving.models import load_servable


@pytest.fixture(scope="module")
def original(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "delivery"
    original_artefacts(world, folder)
    return folder


@pytest.mark.slow
def test_the_original_s_artefacts(world, original, tmp_path):
    exported = export(original, original, tmp_path / "1", Defaults(k=20, best_first=BestFirst(pool=600)))
    servable, found = move_and_verify(exported, tmp_path)
    assert found["signatures"]["serving_default"]["top_k"]["dtype"] == "int64"
    # The same weights by the usual export; alibaba/nann's table and requests have half precision.
    ours = load_servable(world.saved_model)
    rng = np.random.default_rng(4)
    comm_seq = rng.normal(size=[1, 3200]).astype(np.float16)
    request = {"comm_seq": comm_seq, "level_topn": np.array([100, 200, 200, 200, 200, 50], np.int32)}
    wanted, got = (one.signature("serving_default").run(request)["top_k"][0] for one in (ours, servable))
    assert len(set(wanted) & set(got)) >= 48
    # `retrieve`, for REST, takes single precision and any number of users.
    both = np.concatenate([comm_seq, comm_seq[:, ::-1]]).astype(np.float32)
    answer = servable.signature("retrieve").run({"comm_seq": both})
    single = servable.signature("retrieve").run({"comm_seq": both[1:]})
    assert answer["item_ids"].shape == (2, 20)
    np.testing.assert_array_equal(answer["item_ids"][1], single["item_ids"][0])
    assert "half" not in str(servable.signature("retrieve").proto)


def graph_of(folder):
    return graph_pb2.GraphDef.FromString((folder / "frozen_graph.pb").read_bytes())


def with_node(name, op):
    def change(folder):
        graph = graph_of(folder)
        graph.node.add(name=name, op=op)
        (folder / "frozen_graph.pb").write_bytes(graph.SerializeToString())

    return change


def without(name):
    def change(folder):
        graph = graph_of(folder)
        nodes = [node for node in graph.node if node.name != name]
        del graph.node[:]
        graph.node.extend(nodes)
        (folder / "frozen_graph.pb").write_bytes(graph.SerializeToString())

    return change


def other_width(folder):
    meta = meta_graph_pb2.MetaGraphDef.FromString((folder / "exec.meta.pb").read_bytes())
    meta.signature_def["predict"].inputs["comm_seq"].tensor_shape.dim[1].size = 1600
    (folder / "exec.meta.pb").write_bytes(meta.SerializeToString())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_node("x", "BlazeXlaOp"), "node x is a BlazeXlaOp, which this TensorFlow does not have"),
        (with_node("x", "VarHandleOp"), "node x is a VarHandleOp; a frozen scorer holds no state"),
        (with_node("x", "ReadFile"), "reads no files"),
        (without(LOGITS), f"no node {LOGITS}"),
        (without(USER), f"no node {USER}"),
        (other_width, "1600"),
        (lambda folder: (folder / "frozen_graph.pb").write_bytes(b"\xff" * 9), "frozen_graph.pb is not a GraphDef"),
        (lambda folder: (folder / "exec.meta.pb").write_bytes(b"\xff" * 9), "exec.meta.pb is not a MetaGraphDef"),
        (lambda folder: (folder / "enter_points.npy").unlink(), "enter_points.npy does not exist"),
    ],
)
def test_broken_artefacts_of_the_original_are_refused(original, tmp_path, change, words):
    folder = shutil.copytree(original, tmp_path / "delivery")
    change(folder)
    with pytest.raises(NannError) as error:
        export(folder, folder, tmp_path / "1", Defaults(k=20))
    assert words in str(error.value)
    assert not (tmp_path / "1").exists()
