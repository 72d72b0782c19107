"""The outputs of a search, and the measurement of where its time went."""

from collections.abc import Callable

import tensorflow as tf

from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.models import UserTensors
from tfserving_ext.ops import SearchResult

_LOWEST, _HIGHEST = tf.float32.min, tf.float32.max


def answer(found: SearchResult) -> dict[str, tf.Tensor]:
    """The answer of every signature that takes raw features (docs/signatures.md).

    Every number in it is finite, as JSON knows no others. The op marks places without an item, and items whose score is
    NaN, with a score of -inf; here they have the lowest float32, and `num_results` and `nan_scores` say how many they
    are.
    """
    return {
        "item_ids": found.item_ids,
        "scores": tf.clip_by_value(found.scores, _LOWEST, _HIGHEST),
        "num_results": tf.math.count_nonzero(found.item_ids != NO_ITEM, axis=1, dtype=tf.int32),
        "items_scored": found.items_scored,
        "rounds": found.rounds,
        "nan_scores": found.nan_scores,
        "stopped": found.stopped,
    }


def timed(
    user_tensors: Callable[[dict[str, tf.Tensor]], UserTensors], features: dict[str, tf.Tensor]
) -> tuple[UserTensors, tf.Tensor]:
    """User tensors, and the microseconds that they took, int64 [].

    Reads of the clock have a state for TensorFlow: no pass folds or merges them. What lies between them is held there
    by control dependencies, which passes keep.
    """
    with tf.control_dependencies(list(features.values())):
        begin = tf.timestamp()
    with tf.control_dependencies([begin]):
        tensors = user_tensors({name: tf.identity(value) for name, value in features.items()})
    # On the processor, where the search reads them: a GPU's kernel is done for its dependents once it is launched.
    with tf.device("CPU:0"):
        tensors = tuple(tf.identity(tensor) for tensor in tensors)
    with tf.control_dependencies(list(tensors)):
        end = tf.timestamp()
    with tf.control_dependencies([end]):  # The search would else begin beside it.
        tensors = tuple(tf.identity(tensor) for tensor in tensors)
    # The clock of a machine may be set back.
    return tensors, tf.cast(tf.maximum(end - begin, 0) * 1e6, tf.int64)
