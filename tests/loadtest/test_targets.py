"""Load tests of servers over real sockets: the stub and the local server."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from benchmarks.serving.load_stub import running_stub
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest import InputSpec, ModelSpec, Scenario, bench
from tfserving_ext.loadtest.inputs import make_inputs
from tfserving_ext.loadtest.targets.grpc_server import GrpcTarget
from tfserving_ext.loadtest.targets.target import TargetError
from tfserving_ext.serving import LocalServer, ServerOptions

STUB = ModelSpec(name="stub")


def log_of(stub):
    with urllib.request.urlopen(f"{stub.rest}/log") as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def half_plus(tmp_path_factory):
    """A folder of versions, with version 1 of y = x / 2 + plus, where plus is 2 by default, and t = s, a word."""

    class HalfPlus(tf.Module):
        @tf.function
        def run(self, x, s, plus):
            return {"y": x / 2 + plus, "t": s}

    module = HalfPlus()
    base = tmp_path_factory.mktemp("models") / "half_plus"
    words = tf.TensorSpec([None], tf.string, "s")
    function = module.run.get_concrete_function(
        tf.TensorSpec([None], tf.float32, "x"), words, tf.TensorSpec([], name="plus")
    )
    tf.saved_model.save(module, str(base / "1"), signatures={"serving_default": function})
    saved = saved_model_pb2.SavedModel.FromString((base / "1" / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def["serving_default"]
    signature.defaults["plus"].CopyFrom(tf.make_tensor_proto(2.0))
    (base / "1" / "saved_model.pb").write_bytes(saved.SerializeToString())
    return base


@pytest.fixture(scope="module")
def server(half_plus):
    from tfserving_ext.serving.versions import LoadOptions

    options = ServerOptions(grpc_port=0, rest_port=0, load=LoadOptions(poll_seconds=0.1))
    with LocalServer({"half_plus": half_plus}, options) as running:
        yield running


@pytest.mark.slow
@pytest.mark.medium
def test_every_target_answers_the_same_scenario(half_plus, server):
    model = ModelSpec(name="half_plus", path=half_plus / "1", inputs={"x": InputSpec(shape=[3], low=1, high=2)})
    for target in (
        f"grpc://127.0.0.1:{server.grpc_port}",
        f"http://127.0.0.1:{server.rest_port}",
        "session",
        "function",
    ):
        result = bench(Scenario(target=target, models=[model], concurrency="2", warm_up=0, seconds=2))
        (level,) = result["levels"]
        assert level["answered"] == level["requests"] > 10 and not level["errors"], target
        assert result["models"][0]["inputs"] == {"x": "float32 [3]", "s": "string [1]"}
        assert len(result["models"][0]["sha256"]) == 64
        json.dumps(result)


@pytest.mark.slow
def test_a_run_with_two_models_and_swaps(half_plus, server):
    models = [
        ModelSpec(name="half_plus", weight=3),
        ModelSpec(name="half_plus", weight=1, inputs={"x": InputSpec(shape=[64])}),
    ]
    result = bench(
        Scenario(
            target=f"grpc://127.0.0.1:{server.grpc_port}",
            models=models,
            rate="60",
            warm_up=0,
            seconds=7,
            swap={"every": 2, "base_path": half_plus},
            pid=os.getpid(),
        )
    )
    (level,) = result["levels"]
    assert not level["errors"]
    shares = [one["requests"] for one in level["models"]]
    assert sum(shares) == level["requests"] and shares[0] == pytest.approx(3 * shares[1], rel=0.5)
    served = [swap for swap in level["swaps"] if swap["served"] is not None]
    assert len(served) >= 2 and all(swap["served"] >= swap["put"] for swap in served)
    assert [swap["version"] for swap in level["swaps"]] == list(range(2, 2 + len(level["swaps"])))
    assert level["swaps"][0]["latency_ms"]["p50"] is not None
    assert level["process"]["rss_mb_max"] > 50
    assert sorted(path.name for path in half_plus.iterdir()) == ["1"]  # The new versions were removed.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": [ModelSpec(name="nobody")]}, "nobody"),
        ({"models": [ModelSpec(name="half_plus", signature="none")]}, "no signature 'none'; it has serving_default"),
        ({"models": [ModelSpec(name="half_plus", inputs={"z": InputSpec()})]}, "no input 'z'; it has plus, s, x"),
        ({"models": [ModelSpec(name="half_plus", inputs={"x": InputSpec(value="word")})]}, "'x' must be float32"),
        ({"models": [ModelSpec(name="half_plus", inputs={"x": InputSpec(shape=[2, 2])})]}, r"shape \[2, 2\]"),
        ({"target": "grpc://127.0.0.1:1"}, "no server answers at 127.0.0.1:1"),
        ({"target": "http://127.0.0.1:1"}, "no server answers at http://127.0.0.1:1"),
        ({"pid": 2**22 + 1}, "cannot watch process"),
        ({"prometheus": "http://127.0.0.1:1/metrics"}, "cannot read metrics"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(server, change, message):
    scenario = Scenario(
        **{"target": f"grpc://127.0.0.1:{server.grpc_port}", "models": [ModelSpec(name="half_plus")], "seconds": 1}
        | change
    )
    with pytest.raises(NannError, match=message) as caught:
        bench(scenario)
    assert "\n" not in str(caught.value)


def test_requests_from_files(half_plus, server, tmp_path):
    from tfserving_ext.serving.models import load_servable

    servable = load_servable(half_plus / "1")
    signatures = servable.signature_defs
    servable.close()
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"x": [1, 2], "s": ["é"]}, {"x": [3.5], "s": ["b"]}]}))
    found = make_inputs(ModelSpec(name="half_plus", input_data=tmp_path / "a.json"), signatures, 0)
    assert [one["x"].tolist() for one in found] == [[1, 2], [3.5]] and found[0]["x"].dtype == np.float32
    assert found[0]["s"].tolist() == ["é".encode()]
    np.savez(tmp_path / "b.npz", x=np.arange(6, dtype=np.float32).reshape(3, 2), s=np.array([["a"], ["b"], ["c"]]))
    found = make_inputs(ModelSpec(name="half_plus", input_data=tmp_path / "b.npz"), signatures, 0)
    assert len(found) == 3 and found[2]["x"].tolist() == [4, 5] and found[2]["s"].tolist() == [b"c"]
    np.savez(tmp_path / "c.npz", x=np.array([{}], dtype=object))
    for name, text, message in (
        ("c.npz", None, "not an npz file of plain arrays"),
        ("d.json", "[]", "non-empty"),
        ("e.json", "{", "not JSON"),
        ("f.json", '{"y": [1]}', "no input 'y'"),
        ("g.npz", "no zip", "not an npz file"),
        ("missing.json", None, "cannot read"),
        ("h.json", '[{"x": [1], "s": ["a"]}, {"x": [1]}]', "needs input 's', which a request in .*h.json lacks"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(NannError, match=message):
            make_inputs(ModelSpec(name="half_plus", input_data=tmp_path / name), signatures, 0)


def test_what_rest_cannot_carry_is_said(tmp_path):
    class Half(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float16, "x")])
        def run(self, x):
            return {"y": x}

    module = Half()
    tf.saved_model.save(module, str(tmp_path / "half" / "1"), signatures={"serving_default": module.run})
    with (
        LocalServer({"half": tmp_path / "half"}, ServerOptions(grpc_port=0, rest_port=0)) as server,
        pytest.raises(NannError, match=r"REST cannot call signature 'serving_default': .*half; use gRPC"),
    ):
        bench(Scenario(target=f"http://127.0.0.1:{server.rest_port}", models=[ModelSpec(name="half")], seconds=1))


def nann(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", "from tfserving_ext.cli import main; main()", "bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def nann_at_work(stub, folder):
    """Starts a long run and returns once it has sent some hundred requests."""
    flags = ("--warm-up", "0", "--seconds", "600", "-o", str(folder / "r.json"))
    process = nann("--target", stub.grpc, "--model", "stub", *flags)
    while len(log_of(stub)) < 400 and process.poll() is None:
        time.sleep(0.1)
    return process


@pytest.mark.slow
def test_ctrl_c_reports_what_was_measured(tmp_path):
    with running_stub("--service", "fixed:5") as stub:
        process = nann_at_work(stub, tmp_path)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["stopped_by"] == "interrupted" and result["levels"][0]["answered"] > 0
    assert (tmp_path / "r.html").exists() and "1 clients" in out


@pytest.mark.slow
def test_a_server_that_dies_is_one_line_and_the_report_stays(tmp_path):
    with running_stub("--service", "fixed:5") as stub:
        process = nann_at_work(stub, tmp_path)
        stub.process.kill()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("\n") == 1 and "no longer answers" in err
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["stopped_by"] == "server lost" and result["levels"][0]["answered"] > 100


@pytest.mark.slow
def test_conditions_decide_the_exit_status_and_two_results_compare(tmp_path):
    with running_stub("--service", "fixed:5") as stub:
        common = ("--target", stub.rest, "--model", "stub", "--warm-up", "0", "--seconds", "6")
        bad = nann(*common, "--fail-if", "p50_ms > 4", "-o", str(tmp_path / "a.json"))
        assert "failed: p50_ms > 4 at 1 clients" in bad.communicate(timeout=60)[1] and bad.returncode == 1
        good = nann(*common, "--fail-if", "errors > 0", "-o", str(tmp_path / "b.json"))
        assert good.communicate(timeout=60)[1] == "" and good.returncode == 0
    compared = nann("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "-o", str(tmp_path / "c.json"))
    out, _ = compared.communicate(timeout=60)
    ratios = json.loads((tmp_path / "c.json").read_text())["levels"][0]["ratios"]
    for name, key in (("p50_ms", "p50"), ("p99_ms", "p99")):
        a, b = (json.loads((tmp_path / f).read_text())["levels"][0]["latency_ms"][key] for f in ("a.json", "b.json"))
        assert ratios[name]["ratio"] == pytest.approx(b / a)
        assert ratios[name]["interval"][0] <= b / a <= ratios[name]["interval"][1]
    assert "p99_ms" in out


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("Server Threadpool Exhausted", "start it with --grpc_max_threads=64 or more"),
        ("Concurrent RPC limit exceeded!", "--grpc_max_queue"),
        ("Received message larger than max (9 vs. 4)", ""),
    ],
)
def test_the_cause_of_a_refusal_is_named(words, cause):
    """TensorFlow Serving's gRPC server refuses requests that exceed its threads, with only three words.

    First contact, line 24.
    """

    def refuse(_, context):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, words)

    async def ask():
        target = GrpcTarget(f"127.0.0.1:{port}")
        await target.open()
        try:
            await target.send(b"", 10.0)
        finally:
            await target.close()

    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Predict": grpc.unary_unary_rpc_method_handler(refuse)}
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", handlers)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pytest.raises(TargetError) as refused:
        asyncio.run(ask())
    server.stop(None).wait()
    assert refused.value.code == "RESOURCE_EXHAUSTED"
    assert refused.value.message.startswith(words)
    assert cause in refused.value.message if cause else refused.value.message == words
