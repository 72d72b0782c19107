"""The devices of a training: one, all GPUs of a machine, or several machines by TF_CONFIG."""

import json
import os
from typing import Any, NamedTuple

import tensorflow as tf

from tfserving_ext.errors import NannError


class Cluster(NamedTuple):
    """The part of this process in a training of several."""

    strategy: tf.distribute.Strategy
    chief: bool
    workers: int = 1


def workers() -> int:
    """How many processes TF_CONFIG says that there are; 1 without it.

    Raises:
      NannError: TF_CONFIG is no JSON of a cluster.
    """
    return _config()[2]


def join_cluster() -> Cluster:
    """By TF_CONFIG several workers; else all GPUs of this machine, or its CPU.

    Raises:
      NannError: TF_CONFIG is no JSON of a cluster.
    """
    cluster, task, count = _config()
    if cluster:
        try:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise _no_cluster(error) from error
        chief = task.get("type") == "chief" or ("chief" not in cluster and task.get("index") == 0)
        return Cluster(strategy, chief, count)
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return Cluster(tf.distribute.MirroredStrategy(), True)
    return Cluster(tf.distribute.get_strategy(), True)


def _config() -> tuple[dict[str, Any], dict[str, Any], int]:
    """The cluster, this process' task and the number of workers; without TF_CONFIG empty, empty and 1."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        return {}, {}, 1
    try:
        config = json.loads(text)
        cluster, task = dict(config["cluster"]), dict(config.get("task", {}))
        return cluster, task, sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _no_cluster(error) from error


def _no_cluster(error: Exception) -> NannError:
    text = os.environ.get("TF_CONFIG")
    return NannError(f"TF_CONFIG is {text!r}: {error}; it must be the JSON of a cluster and a task")
