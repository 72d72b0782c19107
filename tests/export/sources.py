"""Small working models of every kind that can be exported, all for one index of trained embeddings."""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfserving_ext.index import Index
from tfserving_ext.training import load_model

DIM = 64
# The signatures of an export whose index has features.
SIGNATURES = {
    "retrieve",
    "retrieve_best_first",
    "retrieve_rounds",
    "retrieve_surrogate",
    "retrieve_trace",
    "serving_default",
}
USER, ITEMS, LOGITS = (
    "inference_feed_inputs/user_seq_emb",
    "inference_feed_inputs/item_emb",
    "inference_fetch_outputs/logits",
)


class Ranker(tf.Module):
    """A network over the mean of the history's vectors and the item's."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        rng = tf.random.Generator.from_seed(3)
        self.ids = tf.Variable(index.item_ids, trainable=False)
        self.table = tf.Variable(index.embeddings(), trainable=False)
        self.hidden = tf.Variable(rng.normal([2 * DIM, 32]) * (2 * DIM) ** -0.5)
        self.out = tf.Variable(rng.normal([32, 1]))
        self.seeds = "item_history"

    @tf.function(input_signature=[{"item_history": tf.TensorSpec([None, None], tf.int64)}])
    def user(self, features):
        history = features["item_history"]
        rows = tf.minimum(tf.searchsorted(self.ids, tf.reshape(history, [-1])), tf.size(self.ids) - 1)
        known = tf.cast(tf.equal(tf.gather(self.ids, rows), tf.reshape(history, [-1])), tf.float32)
        vectors = tf.gather(self.table, rows) * known[:, None]
        shape = tf.concat([tf.shape(history), [DIM]], axis=0)
        return (tf.reduce_sum(tf.reshape(vectors, shape), axis=1),)

    @tf.function(input_signature=[(tf.TensorSpec([None, DIM]),), tf.TensorSpec([None, None, DIM])])
    def score(self, user, items):
        both = tf.concat([tf.broadcast_to(user[0][:, None, :], tf.shape(items)), items], axis=-1)
        return (tf.nn.relu(both @ self.hidden) @ self.out)[..., 0]


def keras_ranker(world: SimpleNamespace, path: Path) -> keras.Model:
    """Writes a .keras archive with a functional model, fitted to tell a user's next purchase from those of others."""
    keras.utils.set_random_seed(5)
    user = keras.Input([DIM], name="user_vector")
    age = keras.Input([1], name="age")
    item = keras.Input([DIM], name="item_embedding")
    hidden = keras.layers.Dense(48, activation="relu")(keras.layers.Concatenate()([user, age, item]))
    model = keras.Model([user, item, age], keras.layers.Dense(1)(hidden))
    cases = world.sequences.cases("validation", positions_per_user=20)
    index = Index.open(world.index)
    table = index.embeddings()
    rows = np.maximum(cases.histories - 1, 0) % len(table)
    users = table[rows].mean(axis=1)
    targets = table[np.maximum(cases.targets - 1, 0) % len(table)]
    labels = np.repeat([1.0, 0.0], len(users))
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    inputs = [np.tile(users, [2, 1]), np.concatenate([targets, targets[::-1]]), np.zeros([2 * len(users), 1])]
    model.fit(inputs, labels, epochs=3, verbose=0)
    model.save(path)
    return model


def original_artefacts(world: SimpleNamespace, folder: Path) -> None:
    """Writes the files that the scripts of alibaba/nann write, for the trained model and index of `world`."""
    model = load_model(world.model).model

    @tf.function(
        input_signature=[
            tf.TensorSpec([1, model.config.history_length, DIM], tf.float32),
            tf.TensorSpec([None, DIM], tf.float32),
        ]
    )
    def logits(sequence, items):
        return tf.reshape(model.score(model.user_from_sequence(sequence), items[None]), [-1, 1])

    frozen = convert_variables_to_constants_v2(logits.get_concrete_function())
    with tf.Graph().as_default() as graph:
        sequence = tf.compat.v1.placeholder(tf.float16, [1, model.config.history_length, DIM], USER)
        items = tf.compat.v1.placeholder(tf.float16, [None, DIM], ITEMS)
        feeds = [tensor.name.split(":")[0] for tensor in frozen.inputs]
        # alibaba/nann feeds half precision and casts after the placeholders.
        casts = [tf.cast(sequence, tf.float32), tf.cast(items, tf.float32)]
        (found,) = tf.graph_util.import_graph_def(
            frozen.graph.as_graph_def(), dict(zip(feeds, casts, strict=True)), [frozen.outputs[0].name], name="scorer"
        )
        tf.identity(found, LOGITS)
    folder.mkdir()
    graph_def = tf.compat.v1.graph_util.extract_sub_graph(graph.as_graph_def(), [LOGITS])
    (folder / "frozen_graph.pb").write_bytes(graph_def.SerializeToString())

    meta = meta_graph_pb2.MetaGraphDef()
    meta.graph_def.node.add(name="blaze", op="BlazeXlaOp")  # An op that only alibaba/nann's TensorFlow has.
    signature = meta.signature_def["predict"]
    for name, dtype, shape in (
        ("comm_seq", tf.float16, [1, model.config.history_length * DIM]),
        ("level_topn", tf.int32, [6]),
    ):
        signature.inputs[name].CopyFrom(_tensor_info(dtype, shape))
    signature.outputs["top_k"].CopyFrom(_tensor_info(tf.int64, [1, None]))
    (folder / "exec.meta.pb").write_bytes(meta.SerializeToString())

    index = Index.open(world.index)
    np.save(folder / "item_ids.npy", index.item_ids)
    np.save(folder / "item_embs.npy", index.embeddings().astype(np.float16))
    np.save(folder / "enter_points.npy", index.entry_points)
    for number, layer in enumerate(index.layers):
        np.save(folder / f"neighbors_level_{number}_values.npy", layer.neighbors)
        np.save(folder / f"neighbors_level_{number}_row_splits.npy", layer.row_splits)


def _tensor_info(dtype, shape):
    with tf.Graph().as_default():
        return tf.compat.v1.saved_model.build_tensor_info(tf.compat.v1.placeholder(dtype, shape))
