"""Several replicas train as one device with the whole batch would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.models import import_models
from tfserving_ext.training import TrainingConfig, fit, load_model, loop
from tfserving_ext.training.cluster import Cluster, join_cluster

CONFIG = {"steps": 6, "batch_size": 16, "negatives": 40, "schedule": "constant", "weight_decay": 0.0}
TRANSFORMER = "examples.transformer_model:TransformerModel"
TWO_DEVICES = """
import json, sys
import keras
import tensorflow as tf
from tfserving_ext.models import ForeignConfig, import_models
from tfserving_ext.training import TrainingConfig, loop, fit
from tfserving_ext.training.cluster import Cluster
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import_models("examples.transformer_model")
model = ForeignConfig(model_class="examples.transformer_model:TransformerModel")
# What it moves is in proportion to the gradient; AdamW's step grows a rounding near 0 to a whole step.
keras.optimizers.AdamW = lambda rate, weight_decay: keras.optimizers.SGD(rate)
strategies = {"one": tf.distribute.get_strategy(), "two": tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])}
replicas = []
make_step = loop.make_step
def noted(*arguments):
    replicas.append(tf.distribute.get_strategy().num_replicas_in_sync)
    return make_step(*arguments)
loop.make_step = noted
for options in json.loads(sys.argv[3]):
    for name, strategy in strategies.items():
        loop.join_cluster = lambda: Cluster(strategy, True)
        target = f"{sys.argv[2]}/{name}_{options['clip_norm']}"
        report = fit(sys.argv[1], target, TrainingConfig(**options), model)
        print(replicas.pop(), report["softmax_loss"])
"""
WORKER = """
import json, os, sys, time
from pathlib import Path
from tfserving_ext.models import TwoSidedConfig
from tfserving_ext.training import TrainingConfig, state, fit
data, target, config, dies = sys.argv[1:]
if dies:
    save = state.TrainingState.save
    def last(self, step, seconds):
        save(self, step, seconds)
        if step == 4:
            # A worker whose peer is gone ends with an error of its own: both die once both have saved.
            index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
            Path(dies, f"saved-{index}").touch()
            while not all(Path(dies, f"saved-{one}").exists() for one in range(2)):
                time.sleep(0.01)
            os._exit(9)
    state.TrainingState.save = last
report = fit(data, target, TrainingConfig(**json.loads(config)), TwoSidedConfig())
print(json.dumps(report))
"""


@pytest.mark.slow
def test_two_devices_take_the_step_of_one_with_the_whole_batch(world, tmp_path):
    """Negatives are shared, a target has the same weight on every replica, and clipping is of the whole gradient."""
    options = [CONFIG | {"epsilon": 0.0, "learning_rate": 0.03, "clip_norm": clip} for clip in (0.0, 0.05)]
    command = [sys.executable, "-c", TWO_DEVICES, world.data, tmp_path, json.dumps(options)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root)
    assert ran.returncode == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines() if line[:2] in ("1 ", "2 ")]
    assert [replicas for replicas, _ in lines] == ["1", "2", "1", "2"]
    import_models(TRANSFORMER.partition(":")[0])
    weights = {path.name: load_model(path).model.get_weights() for path in tmp_path.iterdir()}
    for clip in (0.0, 0.05):
        losses = [float(loss) for _, loss in (lines[:2] if clip == 0 else lines[2:])]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        for one, two in zip(weights[f"one_{clip}"], weights[f"two_{clip}"], strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    moved = [
        np.abs(clipped - free).max() for clipped, free in zip(weights["one_0.05"], weights["one_0.0"], strict=True)
    ]
    assert max(moved) > 1e-3


def pair(world, target, dies: str) -> list[tuple[int, str, str]]:
    """Returns the exit codes and outputs of two workers on this machine, which die together if `dies` is a folder."""
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
        command = [
            sys.executable,
            "-c",
            WORKER,
            world.data,
            target,
            json.dumps(CONFIG | {"checkpoint_minutes": 0}),
            dies,
        ]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    try:
        outputs = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:  # A worker that lost its peer would wait for it.
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.slow
def test_two_workers_by_tf_config_agree_and_resume_together(world, tmp_path, tmp_path_factory):
    target = tmp_path / "model"
    killed = pair(world, target, str(tmp_path_factory.mktemp("dies")))
    assert [code for code, *_ in killed] == [9, 9], killed
    resumed = pair(world, target, "")
    assert [code for code, *_ in resumed] == [0, 0], resumed
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    never_killed = pair(world, tmp_path / "whole", "")
    reports = [json.loads(output.splitlines()[-1]) for _, output, _ in (*resumed, *never_killed)]
    assert len({report["softmax_loss"] for report in reports}) == 1, reports
    for one, other in zip(
        *(load_model(tmp_path / name).model.get_weights() for name in ("model", "whole")), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_workers_without_the_chiefs_checkpoint_are_refused(monkeypatch):
    class Worker:
        _workers = 2
        _strategy = SimpleNamespace(
            run=lambda function, args: function(*args), reduce=lambda how, value, axis: value / 2
        )
        _state = SimpleNamespace(folder=Path("work"))

    loop._Training._check_agreed(Worker(), 0)
    with pytest.raises(
        NannError, match="this worker would resume from step 8, others from another; let all of them see work"
    ):
        loop._Training._check_agreed(Worker(), 8)


def test_several_workers_refuse_a_limit_of_minutes(world, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "join_cluster", lambda: Cluster(tf.distribute.get_strategy(), True, 2))
    with pytest.raises(NannError, match=r"max_minutes is 1.0, but there are 2 workers"):
        fit(world.data, tmp_path / "model", TrainingConfig(max_minutes=1.0))


@pytest.mark.parametrize("text", ["{", "[]", '{"task": {"index": 1}}'])
def test_a_bad_tf_config_is_named(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(NannError, match="TF_CONFIG is"):
        join_cluster()
