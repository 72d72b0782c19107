"""The outputs of a search, and the measurement of where its time went."""

from collections.abc import Callable

import tensorflow as tf

from export_tools.signatures.request import Request
from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.index.item_keys import NO_KEY
from tfserving_ext.models import UserTensors
from tfserving_ext.ops import SearchResult

LOWEST, HIGHEST = tf.float32.min, tf.float32.max


def answer(found: SearchResult, request: Request) -> dict[str, tf.Tensor]:
    """Makes the answer of every signature that takes raw features (docs/signatures.md).

    Every number in it is finite, as JSON has no others. The op gives a score of -inf to places without an item and to
    items whose score is NaN; here they get the lowest float32, and `num_results` and `nan_scores` give their counts.
    """
    none = NO_KEY if found.item_ids.dtype == tf.string else NO_ITEM
    return {
        "item_ids": found.item_ids,
        "scores": tf.clip_by_value(found.scores, LOWEST, HIGHEST),
        "num_results": tf.math.count_nonzero(found.item_ids != none, axis=1, dtype=tf.int32),
        "items_scored": found.items_scored,
        "rounds": found.rounds,
        "nan_scores": found.nan_scores,
        "stopped": found.stopped,
        "index_sequence": found.index_sequence,
        **({"exact": found.exact} if request.by_attributes else {}),
    }


def timed(
    user_tensors: Callable[[dict[str, tf.Tensor]], UserTensors], features: dict[str, tf.Tensor]
) -> tuple[UserTensors, tf.Tensor]:
    """Computes the user tensors; returns them and the microseconds that this took, int64 [].

    For TensorFlow a read of the clock is stateful, so that no pass folds or merges two of them. The computation is kept
    between the two reads by control dependencies, which passes preserve.
    """
    with tf.control_dependencies(list(features.values())):
        begin = tf.timestamp()
    with tf.control_dependencies([begin]):
        tensors = user_tensors({name: tf.identity(value) for name, value in features.items()})
    # On the CPU, where the search reads them: a GPU kernel counts as done for its dependents once it is launched.
    with tf.device("CPU:0"):
        tensors = tuple(tf.identity(tensor) for tensor in tensors)
    with tf.control_dependencies(list(tensors)):
        end = tf.timestamp()
    with tf.control_dependencies([end]):  # Otherwise the search could begin before the clock is read.
        tensors = tuple(tf.identity(tensor) for tensor in tensors)
    # The machine's clock may have been set back in between.
    return tensors, tf.cast(tf.maximum(end - begin, 0) * 1e6, tf.int64)
