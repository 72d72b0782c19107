"""The source of a model that `nann train` wrote."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from export_tools.sources.source import Sequence, Source
from tfserving_ext.artifacts import sha256
from tfserving_ext.models import SequenceModel, UserTensors
from tfserving_ext.models.checkpoint import item_categories, item_function, load_model

# How many behaviours a request of alibaba/nann carries; a model of longer histories gets padding before them.
ORIGINAL_BEHAVIORS = 50


def checkpoint_source(folder: Path) -> Source:
    """Makes the source of a trained model.

    If a request leaves out the categories, each item gets the category that it had in training.

    Raises:
      NannError: the folder holds no model, or a damaged one.
    """
    trained = load_model(folder)
    model = trained.model
    known_categories = item_categories(trained)

    def user(features: dict[str, tf.Tensor]) -> UserTensors:
        history, categories = features["item_history"], features["category_history"]
        # REST requires every input to be sent; there, [[]] stands for one that is left out.
        left_out = tf.equal(tf.size(categories), 0)
        check = tf.debugging.Assert(
            tf.reduce_all(tf.shape(categories) == tf.shape(history)) | left_out,
            ["category_history must have the shape of item_history or be empty; got", tf.shape(categories)],
        )
        with tf.control_dependencies([check]):  # Otherwise a later op could fail first, with another message.
            history, categories = tf.identity(history), tf.identity(categories)
        known = known_categories(history)
        categories = tf.cond(left_out, lambda: known, lambda: categories)
        return model.user({"item_history": history, "category_history": tf.ensure_shape(categories, [None, None])})

    length = model.config.history_length
    sent = min(length, ORIGINAL_BEHAVIORS)

    def user_of_sequence(comm_seq: tf.Tensor) -> UserTensors:
        sequence = tf.reshape(tf.cast(comm_seq, tf.float32), [1, sent, model.item_dim])
        return model.user_from_sequence(tf.pad(sequence, [[0, 0], [length - sent, 0], [0, 0]]))

    ids = tf.TensorSpec([None, None], tf.int64)
    return Source(
        kind="nann_checkpoint",
        user=user,
        score=model.score,
        features={"item_history": ids, "category_history": ids},
        defaults={"category_history": tf.zeros([0, 0], tf.int64)},
        seeds="item_history",
        # alibaba/nann's signature carries behaviours embedded in the same way as sequence models embed them here.
        sequence=Sequence(sent * model.item_dim, user_of_sequence) if isinstance(model, SequenceModel) else None,
        inputs={path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()},
        description=trained.manifest,
        item=item_function(trained),
        item_ids=np.asarray(trained.item_ids),
    )
