"""Several replicas train as one device with the whole batch would."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tfserving_ext.errors import NannError
from tfserving_ext.training import TrainingConfig, load_model, loop, train

CONFIG = {"steps": 6, "batch_size": 16, "negatives": 40, "schedule": "constant", "weight_decay": 0.0}
TWO_DEVICES = """
import json, sys
import tensorflow as tf
from tfserving_ext.models import TwoSidedConfig
from tfserving_ext.training import TrainingConfig, loop, train
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
loop._cluster = lambda: loop._Cluster(strategy, True)
report = train(sys.argv[1], sys.argv[2], TrainingConfig(**json.loads(sys.argv[3])), TwoSidedConfig())
print(strategy.num_replicas_in_sync, json.dumps(report))
"""
WORKER = """
import json, sys
from tfserving_ext.models import TwoSidedConfig
from tfserving_ext.training import TrainingConfig, train
report = train(sys.argv[1], sys.argv[2], TrainingConfig(**json.loads(sys.argv[3])), TwoSidedConfig())
print(json.dumps(report))
"""


def test_two_devices_learn_about_what_one_does(world, tmp_path):
    from tfserving_ext.models import TwoSidedConfig

    command = [sys.executable, "-c", TWO_DEVICES, world.data, tmp_path / "two", json.dumps(CONFIG)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    replicas, _, report = ran.stdout.splitlines()[-1].partition(" ")
    assert replicas == "2"
    one = train(world.data, tmp_path / "one", TrainingConfig(**CONFIG), TwoSidedConfig())
    # Each replica draws negatives of its own: not the same numbers, but the same loss.
    assert json.loads(report)["softmax_loss"] == pytest.approx(one["softmax_loss"], rel=0.1)
    tables = [np.asarray(load_model(tmp_path / name).model.item_table) for name in ("one", "two")]
    assert np.corrcoef(tables[0].ravel(), tables[1].ravel())[0, 1] > 0.99


def test_two_workers_by_tf_config_agree(world, tmp_path):
    ports = []
    for _ in range(2):
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            ports.append(opened.getsockname()[1])
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    processes = []
    for index in range(2):
        environment = os.environ | {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        }
        command = [sys.executable, "-c", WORKER, world.data, tmp_path / "model", json.dumps(CONFIG)]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    losses = [json.loads(output.splitlines()[-1])["softmax_loss"] for output, _ in outputs]
    assert losses[0] == losses[1]
    load_model(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("text", ["{", "[]", '{"task": {"index": 1}}'])
def test_a_bad_tf_config_is_named(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(NannError, match="TF_CONFIG is"):
        loop._cluster()
