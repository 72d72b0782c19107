"""The source of a model of alibaba/nann: its frozen scorer, and the signature of its deployed graph.

There, `convert_meta.py` writes frozen_graph.pb, and `build_opt_graph.py` exec.meta.pb or .pbtxt. This project's own op
does the search of that deployed graph, so only the signature is read from exec.meta.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_registry

from export_tools.sources.source import Sequence, Source
from tfserving_ext.artifacts import sha256
from tfserving_ext.errors import NannError
from tfserving_ext.models import UserTensors

USER, ITEMS, LOGITS = (
    "inference_feed_inputs/user_seq_emb",
    "inference_feed_inputs/item_emb",
    "inference_fetch_outputs/logits",
)
# Ops that read files are refused, although TensorFlow counts them as stateless: a frozen scorer only computes.
_REFUSED = ("ReadFile", "MatchingFiles")


def original_source(folder: Path) -> Source:
    """Makes the source of a folder with frozen_graph.pb and, optionally, exec.meta.pb or exec.meta.pbtxt.

    Raises:
      NannError: a file is damaged, the graph is not a scorer of alibaba/nann, or it uses an op that is not in this
        TensorFlow or that a frozen scorer may not use.
    """
    path = folder / "frozen_graph.pb"
    graph = _read(path, graph_pb2.GraphDef())
    nodes = {node.name: node for node in graph.node}
    for name in (USER, ITEMS, LOGITS):
        if name not in nodes:
            raise NannError(f"{path} has no node {name}; it is not a scorer that convert_meta.py of alibaba/nann wrote")
    _check_ops(path, graph)
    user_shape, item_shape = (_shape(path, nodes[name]) for name in (USER, ITEMS))
    if len(user_shape) != 3 or user_shape[0] != 1 or -1 in user_shape:
        raise NannError(f"{USER} of {path} has shape {user_shape}, it must be [1, length, width]")
    length, width = user_shape[1:]
    if len(item_shape) != 2:
        raise NannError(f"{ITEMS} of {path} has shape {item_shape}, it must be [None, d]")
    inputs = {path.name: sha256(path)}
    for meta in (folder / "exec.meta.pb", folder / "exec.meta.pbtxt"):
        if meta.exists():
            _check_signature(meta, length * width)
            inputs[meta.name] = sha256(meta)
            break
    types = [tf.dtypes.as_dtype(nodes[name].attr["dtype"].type) for name in (USER, ITEMS)]
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    scorer = imported.prune([f"{USER}:0", f"{ITEMS}:0"], f"{LOGITS}:0")

    def score(user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        logits = scorer(tf.cast(user[0], types[0]), tf.cast(items[0], types[1]))  # [N, 1], as there is one user.
        return tf.reshape(tf.cast(logits, tf.float32), [1, -1])

    return Source(
        kind="alibaba_nann",
        user=lambda features: (tf.reshape(features["comm_seq"], [-1, length, width]),),
        score=score,
        features={"comm_seq": tf.TensorSpec([None, length * width], tf.float32)},
        sequence=Sequence(
            length * width, lambda comm_seq: (tf.reshape(tf.cast(comm_seq, tf.float32), [1, length, width]),)
        ),
        inputs=inputs,
        description={"history_length": length, "behaviour_width": width, "item_dim": item_shape[1]},
    )


def _read(path: Path, proto: Any) -> Any:
    """Reads a proto, as text if the suffix is .pbtxt, else as binary.

    Raises:
      NannError: the file does not hold such a proto.
    """
    try:
        if path.suffix == ".pbtxt":
            # It may use ops that this TensorFlow does not have, as the graph is only read and never imported.
            return text_format.Parse(path.read_text(), proto, allow_unknown_field=True)
        proto.ParseFromString(path.read_bytes())
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise NannError(f"{path} is not a {type(proto).__name__}: {error}") from error
    return proto


def _check_ops(path: Path, graph: graph_pb2.GraphDef) -> None:
    for node in graph.node:
        op = op_def_registry.get(node.op)
        if op is None:
            raise NannError(f"{path}: node {node.name} is a {node.op}, which this TensorFlow does not have")
        if (op.is_stateful and node.op != "Placeholder") or node.op in _REFUSED:
            raise NannError(
                f"{path}: node {node.name} is a {node.op}; a frozen scorer holds no state and reads no files"
            )


def _shape(path: Path, node: Any) -> list[int]:
    if node.op != "Placeholder":
        raise NannError(f"{path}: {node.name} is a {node.op}, it must be a Placeholder")
    return [dim.size for dim in node.attr["shape"].shape.dim]


def _check_signature(path: Path, width: int) -> None:
    """Checks that clients of the deployed graph can use the new model without a change.

    Raises:
      NannError: the graph's signature is not the one that this project serves.
    """
    signatures = _read(path, meta_graph_pb2.MetaGraphDef()).signature_def
    if "predict" not in signatures:
        raise NannError(f"{path} has no signature 'predict'; it has {', '.join(sorted(signatures)) or 'none'}")
    signature = signatures["predict"]
    wanted = {"comm_seq": (np.float16, [1, width]), "level_topn": (np.int32, [6])}
    found = {
        name: (tf.dtypes.as_dtype(info.dtype).as_numpy_dtype, [dim.size for dim in info.tensor_shape.dim])
        for name, info in signature.inputs.items()
    }
    if found != wanted or set(signature.outputs) != {"top_k"}:
        raise NannError(
            f"{path}: the signature takes {found} and returns {sorted(signature.outputs)}; "
            f"allowed are {wanted} and ['top_k']"
        )
