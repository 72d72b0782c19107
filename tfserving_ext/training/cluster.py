"""The devices that train: a single one, all GPUs of a machine, or several machines as TF_CONFIG lists them."""

import json
import os
from typing import Any, NamedTuple

import tensorflow as tf

from tfserving_ext.errors import NannError


class Cluster(NamedTuple):
    """This process's place among those that train.

    Attributes:
      strategy: distributes variables and steps over the devices.
      chief: whether this process writes the model and the checkpoints.
      workers: the number of processes.
    """

    strategy: tf.distribute.Strategy
    chief: bool
    workers: int = 1


def workers() -> int:
    """Returns the number of worker processes in TF_CONFIG; 1 without it.

    Raises:
      NannError: TF_CONFIG is not the JSON of a cluster.
    """
    return _config()[2]


def join_cluster() -> Cluster:
    """Joins the workers that TF_CONFIG lists; without it, takes all GPUs of this machine, or its CPU.

    Raises:
      NannError: TF_CONFIG is not the JSON of a cluster.
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
    """Returns the cluster, this process's task and the number of workers; without TF_CONFIG, {}, {} and 1."""
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
