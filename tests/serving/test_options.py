"""The effects of the server's flags: TLS, metrics, bounds, deadlines, logs, configuration files."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tfserving_ext.errors import NannError
from tfserving_ext.serving import Client, LocalServer, ServerOptions
from tfserving_ext.serving.config_file import read_models
from tfserving_ext.serving.grpc_service import GrpcOptions
from tfserving_ext.serving.metrics import Metrics
from tfserving_ext.serving.model_config import parse_config, read_config
from tfserving_ext.serving.models import ServingError
from tfserving_ext.serving.rest import RestOptions
from tfserving_ext.serving.text_protos import read_metrics_path, read_tls

TLS = Path(__file__).parent / "tls"
NANN = Path(sys.executable).with_name("nann")
X = {"x": np.array([2.0], np.float32)}


def options(**more):
    return ServerOptions(grpc_port=0, rest_port=0, **more)


def read(name):
    return (TLS / name).read_bytes()


def write_ssl_config(path, **more):
    fields = {"server_key": read("server.key").decode(), "server_cert": read("server.pem").decode(), **more}
    path.write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items()))
    return path


def predict_securely(port, key=None, certificate=None):
    credentials = grpc.ssl_channel_credentials(read("ca.pem"), key, certificate)
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "half_plus"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(X["x"]))
        return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, 5).outputs["y"].float_val[0]


def test_tls(toy, tmp_path):
    tls = read_tls(write_ssl_config(tmp_path / "ssl.config"))
    with LocalServer({"half_plus": toy}, options(grpc=GrpcOptions(tls=tls))) as server:
        assert predict_securely(server.grpc_port) == 3.0
        with Client(f"127.0.0.1:{server.grpc_port}", "half_plus", timeout=2) as client, pytest.raises(NannError):
            client.predict("", X)


def test_clients_show_their_certificates(toy, tmp_path):
    config = write_ssl_config(tmp_path / "ssl.config", client_verify=True, custom_ca=read("ca.pem").decode())
    with LocalServer({"half_plus": toy}, options(grpc=GrpcOptions(tls=read_tls(config)))) as server:
        assert predict_securely(server.grpc_port, read("client.key"), read("client.pem")) == 3.0
        with pytest.raises(grpc.RpcError) as refused:
            predict_securely(server.grpc_port)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert predict_securely(server.grpc_port, read("client.key"), read("client.pem")) == 3.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server_key: 'x'", "has no server_cert"),
        ("server_key: 'x' server_cert: 'y' client_verify: true", "has client_verify but no custom_ca"),
        ("hello", "is not a SSLConfig in text form"),
    ],
)
def test_broken_tls_configurations_are_refused(tmp_path, text, words):
    (tmp_path / "ssl.config").write_text(text)
    with pytest.raises(NannError, match=words):
        read_tls(tmp_path / "ssl.config")
    with pytest.raises(NannError, match="does not exist"):
        read_tls(tmp_path / "none")


def test_an_invalid_key_is_refused(toy):
    with pytest.raises(NannError, match="TLS key and certificate are not usable"):
        LocalServer({"half_plus": toy}, options(grpc=GrpcOptions(tls=(b"x", b"y", None))))


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return response.read().decode()


def samples(text):
    """Returns the value of each sample by name and labels; fails if a line is not in Prometheus' text format.

    Every metric must have a HELP text just before its TYPE.

    First contact, line 22.
    """
    found, helped = {}, ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            helped, words = line.split()[2], line.split()[3:]
            assert len(words) > 3 and words[-1].endswith(".")
            continue
        if line.startswith("# TYPE "):
            assert line.split()[2] == helped
            assert line.split()[3] in ("counter", "histogram")
            continue
        assert helped and line.startswith(helped)
        match = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? ([-+0-9.e]+)", line)
        assert match, line
        found[match[1] + (match[2] or "")] = float(match[3])
    return found


def test_prometheus_reads_under_tensorflow_serving_s_names(world, tmp_path):
    (tmp_path / "monitoring.config").write_text('prometheus_config { enable: true path: "/metrics" }')
    path = read_metrics_path(tmp_path / "monitoring.config")
    with LocalServer({"nann": world.saved_model.parent}, options(rest=RestOptions(path))) as server:
        history = {"item_history": np.asarray(world.sequences.item_ids)[None, :5]}
        with Client(f"127.0.0.1:{server.grpc_port}", "nann") as client:
            client.predict("retrieve", history)
            client.predict("retrieve", history | {"budget": np.int64(3)})
            client.predict("retrieve", history | {"max_steps": np.int32(1), "frontier": np.int32(1)})
            with pytest.raises(NannError):
                client.predict("retrieve", history | {"k": np.int32(0)})
        with Client(f"127.0.0.1:{server.grpc_port}", "made\nup") as client, pytest.raises(NannError):
            client.predict("retrieve", history)
        get(server.rest_port, "/v1/models/nann")
        found = samples(get(server.rest_port, "/metrics"))
    assert found[':tensorflow:serving:request_count{model_name="nann",status="OK"}'] == 4
    assert found[':tensorflow:serving:request_count{model_name="nann",status="INVALID_ARGUMENT"}'] == 1
    assert found[':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"}'] == 1
    assert found[':tensorflow:serving:request_latency_count{model_name="nann",API="Predict"}'] == 4
    for name in ("items_scored", "rounds"):
        assert found[f':nann:{name}_count{{model_name="nann"}}'] == 3
    assert found[':nann:rounds_sum{model_name="nann"}'] >= 2
    assert found[':nann:search_stopped{model_name="nann",reason="budget"}'] == 1
    assert found[':nann:search_stopped{model_name="nann",reason="max_steps"}'] == 1
    assert found[':nann:search_stopped{model_name="nann",reason="complete"}'] == 1
    assert found[':nann:search_latency_bucket{model_name="nann",le="+Inf"}'] == 3


def test_buckets_count_what_is_at_most_their_bound():
    metrics = Metrics()
    for seconds in (1e-6, 1e-5, 1.1e-5, 100.0, 1e6):
        metrics.answered('a"b\\c\nd', "Predict", "OK", seconds)
    found = samples(metrics.text())
    name = ':tensorflow:serving:request_latency{part}{{model_name="a\\"b\\\\c\\nd",API="Predict"{le}}}'
    assert found[name.format(part="_bucket", le=',le="10"')] == 2
    assert found[name.format(part="_bucket", le=',le="18"')] == 3
    assert found[name.format(part="_bucket", le=',le="+Inf"')] == found[name.format(part="_count", le="")] == 5


def test_metrics_are_off_unless_asked_for(toy_server, tmp_path):
    (tmp_path / "off").write_text("prometheus_config { }")
    assert read_metrics_path(tmp_path / "off") is None
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(urllib.parse.urlsplit(toy_server.url).port, "/monitoring/prometheus/metrics")


def test_a_message_that_is_too_large_is_refused(toy):
    with (
        LocalServer({"half_plus": toy}, options(grpc=GrpcOptions(max_message_bytes=1 << 20))) as server,
        Client(f"127.0.0.1:{server.grpc_port}", "half_plus") as client,
    ):
        with pytest.raises(NannError, match="RESOURCE_EXHAUSTED"):
            client.predict("", {"x": np.zeros(1 << 19, np.float32)})
        assert client.predict("", X)["y"].tolist() == [3.0]


def test_health_and_reflection(toy_server):
    with grpc.insecure_channel(toy_server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == 1
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "tensorflow.serving.PredictionService" in database.get_services()
        pool = descriptor_pool.DescriptorPool(database)
        for service, method in (("PredictionService", "Predict"), ("ModelService", "GetModelStatus")):
            found = pool.FindServiceByName(f"tensorflow.serving.{service}")
            assert method in found.methods_by_name


def serve(*arguments):
    """Starts `nann serve` in a process and reads the ports from the first line of its standard output."""
    environment = {**os.environ, "COLUMNS": "250", "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        [NANN, "serve", "--port", "0", "--rest_api_port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    line = process.stdout.readline()
    ports = re.search(r"gRPC 127\.0\.0\.1:(\d+), REST http://127\.0\.0\.1:(\d+)/", line)
    assert ports, line + process.stderr.read()
    return process, line, int(ports[1]), int(ports[2])


def test_the_command_takes_tensorflow_serving_s_flags_and_files(toy, tmp_path):
    (tmp_path / "models.config").write_text(
        f'model_config_list {{ config {{ name: "a" base_path: "{toy}" model_platform: "tensorflow" '
        f'model_version_policy {{ all {{}} }} version_labels {{ key: "old" value: 2 }} }} '
        f'config {{ name: "b" base_path: "{toy}" model_platform: "tensorflow" }} }}'
    )
    (tmp_path / "monitoring.config").write_text("prometheus_config { enable: true }")
    process, line, grpc_port, rest_port = serve(
        f"--model_config_file={tmp_path / 'models.config'}",
        f"--monitoring_config_file={tmp_path / 'monitoring.config'}",
        "--allow_version_labels_for_unavailable_models=true",
        "--rest_api_enable_cors_support=false",
        "--enable_batching",
        "--file_system_poll_wait_seconds=5",
        "--log_requests",
    )
    assert "a version 2 10, b version 10" in line
    with Client(f"127.0.0.1:{grpc_port}", "b") as client:
        assert client.predict("", X)["y"].tolist() == [3.0]
    assert '"version": "2"' in get(rest_port, "/v1/models/a/labels/old/metadata")
    assert "request_count" in get(rest_port, "/monitoring/prometheus/metrics")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "note: --enable_batching=true is ignored: this server does not batch requests" in errors
    logs = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert [
        (one["api"], one["entry"], one["model"], one["version"], one["status"]) for one in logs if "api" in one
    ] == [
        ("grpc", "Predict", "b", 10, "OK"),
        ("rest", "GetModelMetadata", "a", 2, "OK"),
    ]
    events = [(one["event"], one["model"], one["version"]) for one in logs if "event" in one]
    assert sorted(events) == sorted(
        (event, model, version)
        for event in ("loading", "serving", "retiring", "unloaded")
        for model, version in (("a", 2), ("a", 10), ("b", 10))
    )


def test_a_model_configuration_of_more_than_16_megabytes_is_refused():
    comment = "#" + "x" * (16 * 2**20 - 1)
    with pytest.raises(ServingError, match="not supported"):  # Read, and found to be empty.
        read_config(parse_config(comment))
    with pytest.raises(NannError, match="has 16777217 characters, at most 16777216 are allowed"):
        parse_config(comment + "x")


def test_a_server_that_is_stopped_no_longer_watches_its_configuration(toy, tmp_path):
    path = tmp_path / "models.config"
    path.write_text(f"model_config_list {{ config {{ name: 'a' base_path: '{toy}' model_platform: 'tensorflow' }} }}")
    options = ServerOptions(grpc_port=0, rest_port=0, config_file=path, config_poll_seconds=0.1)
    with LocalServer(read_models(path), options):
        watching = [thread for thread in threading.enumerate() if thread.name == "watch the model config"]
        assert len(watching) == 1
    assert not watching[0].is_alive()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model_config_list { config { name: 'a' } }", "neither ModelServerConfig::model_type"),
        ("model_config_list { config { name: 'a' base_path: 'x' model_platform: 'tensorflow' } }", "absolute path"),
        ("model_config_list { config { name: 'a' base_path: '/x' model_platform: 'caffe' } }", "unsupported platform"),
        ("custom_model_config { }", "not supported"),
        ("hello", "not a ModelServerConfig"),
        ("", "not supported"),
    ],
)
def test_broken_model_configurations_are_refused(tmp_path, text, words):
    with pytest.raises((NannError, ServingError), match=words):
        read_config(parse_config(text))
    (tmp_path / "models.config").write_text(text)
    command = [NANN, "serve", "--model_config_file", tmp_path / "models.config"]
    if words == "absolute path":  # Only once by the command, which takes seconds to start.
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 1
        assert "absolute path" in run.stderr and "Traceback" not in run.stderr
