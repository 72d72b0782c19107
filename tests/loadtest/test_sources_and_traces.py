"""Other parts of a run: recorded requests, the server's metrics, a profile."""

import json
import urllib.request

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.serving.load_stub import running_stub
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import ModelSpec, Scenario, bench
from tfserving_ext.serving import LocalServer, ServerOptions
from tfserving_ext.serving.rest import RestOptions

STUB = ModelSpec(name="stub")
METRICS = "/monitoring/prometheus/metrics"
XPLANE_LEAST = 1000  # Bytes; a trace without any event is much smaller.


@pytest.fixture(scope="module")
def doubling(tmp_path_factory):
    """A folder of versions, with version 1 of the model y = 2 x."""

    class Doubling(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def run(self, x):
            return {"y": 2 * x}

    module = Doubling()
    base = tmp_path_factory.mktemp("models") / "doubling"
    tf.saved_model.save(module, str(base / "1"), signatures={"serving_default": module.run})
    return base


@pytest.mark.slow
@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_recording_is_sent_at_its_times(tmp_path, speed):
    times = [0.0, 0.4, 0.4, 1.2, 2.0, 4.0]
    recording = tmp_path / "requests.jsonl"
    recording.write_text("".join(json.dumps({"time": 7 + t, "inputs": {"x": [[1, 2, 3, 4]]}}) + "\n" for t in times))
    with running_stub() as stub:
        result = bench(Scenario(target=stub.rest, models=[STUB], replay=recording, speed=speed, warm_up=0))
        with urllib.request.urlopen(f"{stub.rest}/log") as answer:
            log = np.array(json.load(answer))
    (level,) = result["levels"]
    assert level["answered"] == len(times) and not level["errors"]
    # The first request in the log is the one that `bench` sends before the load.
    begins = np.sort(log[1:, 0])
    assert len(begins) == len(times)
    np.testing.assert_allclose(begins - begins[0], np.array(times) / speed, atol=0.15)


@pytest.mark.medium
def test_the_servers_own_count_of_requests_is_reported(doubling):
    options = ServerOptions(grpc_port=0, rest_port=0, rest=RestOptions(metrics_path=METRICS))
    with LocalServer({"doubling": doubling}, options) as server:
        scenario = Scenario(
            target=f"grpc://127.0.0.1:{server.grpc_port}",
            models=[ModelSpec(name="doubling")],
            prometheus=f"http://127.0.0.1:{server.rest_port}{METRICS}",
            warm_up=0,
            seconds=2,
        )
        (level,) = bench(scenario)["levels"]
    counted = level["prometheus"][':tensorflow:serving:request_latency_count{API="Predict",model_name="doubling"}']
    # The server also counts requests that were too late for the level.
    assert 10 < level["answered"] <= counted <= 1.05 * level["answered"] + 5


def test_a_profile_is_a_trace_for_tensorboard(doubling, tmp_path):
    scenario = Scenario(
        target="session",
        models=[ModelSpec(name="doubling", path=doubling / "1")],
        profile=tmp_path / "profile",
        warm_up=0,
        seconds=1,
    )
    bench(scenario)
    (trace,) = (tmp_path / "profile" / "plugins" / "profile").glob("*/*.xplane.pb")
    assert trace.stat().st_size > XPLANE_LEAST


@pytest.mark.medium
def test_a_server_without_a_profiler_says_so(doubling, tmp_path):
    with running_stub() as stub, pytest.raises(NannError, match="profile needs profile_server"):
        bench(Scenario(target=stub.grpc, models=[STUB], profile=tmp_path / "profile", warm_up=0, seconds=1))
    assert not (tmp_path / "profile").exists()
