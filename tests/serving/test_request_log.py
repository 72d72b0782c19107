"""The log of requests and versions. First contact, line 22."""

import contextlib
import http.client
import json
import re
import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, predict_pb2

from tests.serving.test_lifecycle import eventually
from tfserving_ext.serving import LocalServer, ServerOptions
from tfserving_ext.serving.request_log import MAX_ERROR, address, log_events, log_json
from tfserving_ext.serving.versions import LoadOptions


@pytest.fixture(scope="module")
def logged(toy):
    """A server: `call(method, request)` and `post(path, body)` send a request and return its line of the log."""

    class Served:
        lines: list = []  # noqa: RUF012

        def call(self, method, request):
            name = f"/tensorflow.serving.PredictionService/{method}"
            with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                raw = request if isinstance(request, bytes) else request.SerializeToString()
                with contextlib.suppress(grpc.RpcError):
                    channel.unary_unary(name)(raw, 10)
            return self.last()

        def post(self, path, body):
            connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=20)
            connection.request("POST", path, json.dumps(body))
            connection.getresponse().read()
            mine = "{}:{}".format(*connection.sock.getsockname()) if connection.sock else None
            connection.close()
            return self.last(), mine

        def last(self):
            eventually(lambda: self.lines and "api" in self.lines[-1])
            return self.lines.pop()

    served = Served()
    options = ServerOptions(grpc_port=0, rest_port=0, log=lambda **facts: served.lines.append(facts))
    with LocalServer({"half_plus": toy}, options) as server:
        yield served


def predict(signature="", name="half_plus", version=None, **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    if version is not None:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


X = np.array([1], np.float32)


def test_a_failure_by_grpc_is_logged_with_all_that_is_known(logged):
    line = logged.call("Predict", predict("third", i=np.array([7], np.int32)))
    assert re.fullmatch(r"127\.0\.0\.1:\d+", line["client"])
    assert (line["api"], line["entry"], line["model"], line["version"]) == ("grpc", "Predict", "half_plus", 10)
    assert (line["signature"], line["status"]) == ("third", "INVALID_ARGUMENT")
    assert line["error"].startswith("indices[0] = 7 is not in [0, 3)")
    line = logged.call("Predict", predict("long_error", x=-X))
    assert len(line["error"]) == MAX_ERROR


def test_a_request_without_a_version_logs_none(logged):
    line = logged.call("Predict", predict(name="nobody\n", x=X))
    assert (line["model"], line["status"]) == ("nobody\n", "NOT_FOUND")
    assert "version" not in line and "Latest(nobody" in line["error"]
    line = logged.call("Predict", predict(version=77, x=X))
    assert "version" not in line and "Specific(half_plus, 77)" in line["error"]
    line = logged.call("Predict", b"\xff\xff")
    assert (line["model"], line["status"], line["error"]) == ("", "INTERNAL", "Exception deserializing request!")


def test_a_success_is_logged_with_the_version_that_answered(logged):
    line = logged.call("Predict", predict(x=X))
    assert (line["version"], line["status"]) == (10, "OK")
    assert "error" not in line and "signature" not in line
    assert 0 < line["seconds"] < 60


def test_requests_with_examples_are_logged_alike(logged):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "half_plus"
    line = logged.call("Classify", request)
    assert (line["entry"], line["model"], line["version"], line["status"]) == (
        *("Classify", "half_plus", 10, "INVALID_ARGUMENT"),
    )
    task = inference_pb2.InferenceTask(method_name="tensorflow/serving/regress")
    task.model_spec.name, task.model_spec.signature_name = "half_plus", "total"
    line = logged.call("MultiInference", inference_pb2.MultiInferenceRequest(tasks=[task]))
    assert (line["model"], line["version"], line["signature"]) == ("half_plus", 10, "total")


def test_a_failure_by_rest_is_logged_with_all_that_is_known(logged):
    body = {"signature_name": "third", "instances": [7]}
    line, client = logged.post("/v1/models/half_plus:predict", body)
    assert client is None or line["client"] == client
    assert re.fullmatch(r"127\.0\.0\.1:\d+", line["client"])
    assert (line["api"], line["entry"], line["model"], line["version"]) == ("rest", "Predict", "half_plus", 10)
    assert (line["signature"], line["status"]) == ("third", "INVALID_ARGUMENT")
    assert line["error"].startswith("indices[0] = 7 is not in [0, 3)")
    line, _ = logged.post("/v1/models/nobody:predict", {"instances": [1]})
    assert (line["model"], line["status"]) == ("nobody", "NOT_FOUND") and "version" not in line
    line, _ = logged.post("/v1/models/half_plus:predict", {"instances": [1.0]})
    assert (line["version"], line["signature"], line["status"]) == (10, "serving_default", "OK")


@pytest.mark.parametrize(
    ("peer", "shown"),
    [("ipv4:10.0.0.1:5", "10.0.0.1:5"), ("ipv6:%5B::1%5D:5", "[::1]:5"), ("unix:", "unix:")],
)
def test_addresses(peer, shown):
    assert address(peer) == shown


def test_the_events_of_a_version_are_logged_in_order(toy, tmp_path):
    events, base = [], tmp_path / "base"
    shutil.copytree(toy / "2", base / "1")

    def log(**facts):
        events.append(facts)

    options = ServerOptions(grpc_port=0, rest_port=0, load=LoadOptions(poll_seconds=0.05), log=log)
    with LocalServer({"m": base}, options):
        (base / "2").mkdir()
        eventually(lambda: any(one["event"] == "failed" for one in events))
        shutil.copytree(toy / "10", tmp_path / "made").rename(base / "3")
        eventually(lambda: any(one["event"] == "unloaded" for one in events))
    assert [(one["event"], one["version"]) for one in events] == [
        *(("loading", 1), ("serving", 1), ("loading", 2), ("failed", 2), ("loading", 3), ("serving", 3)),
        *(("retiring", 1), ("unloaded", 1), ("retiring", 3), ("unloaded", 3)),
    ]
    by_event = {one["event"]: one for one in events}
    assert by_event["loading"]["path"] == str(base / "3")
    assert "does not appear to contain a SavedModel" in by_event["failed"]["error"]
    assert all(by_event[event]["seconds"] >= 0 for event in ("serving", "failed", "unloaded"))
    assert by_event["retiring"]["requests"] == 0


def test_lines(capsys):
    log_events(api="grpc", status="OK")
    log_events(event="serving", model="m", version=3, seconds=0.5)
    log_events(event="model config not applied", path="/a", error="no")
    log_json(event="serving", model="a\nb")
    first, second, third = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\S+\+00:00 m version 3: serving, seconds 0.5", first)
    assert re.fullmatch(r"\S+\+00:00 model config not applied, path /a, error no", second)
    assert json.loads(third)["model"] == "a\nb"


def test_lines_are_strict_json(capsys):
    """Log collectors refuse NaN and Infinity, which Python would write."""

    def refuse(name):
        raise AssertionError(name)

    log_json(event="failed", retry_after_seconds=float("inf"), seconds=float("nan"), more=[{"a": float("-inf")}, 1.5])
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line, parse_constant=refuse)
    assert (found["retry_after_seconds"], found["seconds"], found["more"]) == (None, None, [{"a": None}, 1.5])
