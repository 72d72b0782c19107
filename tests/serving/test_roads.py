"""Every method that runs a model, by gRPC and by REST, handles deadlines, metrics and the log alike."""

import http.client
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from tests.serving.golden.models import write_examples
from tests.serving.test_lifecycle import eventually
from tests.serving.test_options import get, samples
from tfserving_ext.serving import LocalServer, ServerOptions
from tfserving_ext.serving.inference import Call
from tfserving_ext.serving.models import ServingError, Signature
from tfserving_ext.serving.rest import RestOptions

ROADS = ["Predict", "Classify", "Regress", "MultiInference", ":predict", ":classify", ":regress"]
EXAMPLE = tf.train.Example(
    features=tf.train.Features(feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=[1.0]))})
)
INPUT = input_pb2.Input(example_list=input_pb2.ExampleList(examples=[EXAMPLE]))
CLASSIFY, REGRESS = ("classify_x", "tensorflow/serving/classify"), ("regress_x_to_y", "tensorflow/serving/regress")
BODIES = {
    ":predict": {"instances": [[1.0]]},
    ":classify": {"signature_name": "classify_x", "examples": [{"x": 1.0}]},
    ":regress": {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}]},
}


def grpc_request(method):
    if method == "MultiInference":
        tasks = [
            inference_pb2.InferenceTask(model_spec={"name": "examples", "signature_name": name}, method_name=kind)
            for name, kind in (CLASSIFY, REGRESS)
        ]
        return inference_pb2.MultiInferenceRequest(tasks=tasks, input=INPUT)
    if method == "Predict":
        request = predict_pb2.PredictRequest(model_spec={"name": "examples"})
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones([1, 1], np.float32)))
        return request
    made, (name, _) = {
        "Classify": (classification_pb2.ClassificationRequest, CLASSIFY),
        "Regress": (regression_pb2.RegressionRequest, REGRESS),
    }[method]
    return made(model_spec={"name": "examples", "signature_name": name}, input=INPUT)


class Served:
    """A server of a model that supports all methods, with the lines that it logs."""

    def __init__(self, base):
        self.lines = []
        rest = RestOptions(metrics_path="/metrics")
        options = ServerOptions(grpc_port=0, rest_port=0, rest=rest, log=lambda **facts: self.lines.append(facts))
        self.server = LocalServer({"examples": base}, options)

    def ask(self, road):
        """Sends a request by the API of `road` and returns the error's text, "" if there is none."""
        if road in BODIES:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.rest_port, timeout=20)
            connection.request("POST", f"/v1/models/examples{road}", json.dumps(BODIES[road]))
            found = json.loads(connection.getresponse().read())
            connection.close()
            return found.get("error", "")
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}") as channel:
            try:
                getattr(prediction_service_pb2_grpc.PredictionServiceStub(channel), road)(grpc_request(road), 20)
            except grpc.RpcError as error:
                return error.details()
        return ""

    def last(self):
        eventually(lambda: self.lines and "api" in self.lines[-1])
        return self.lines.pop()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    base = tmp_path_factory.mktemp("examples")
    write_examples(base / "1")
    found = Served(base)
    with found.server:
        yield found


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("asked", [1, 2])
def test_nothing_runs_for_nobody(served, monkeypatch, road, asked):
    """The server checks that the client still waits before it parses a request, and again before the model runs."""
    asks, runs = [], []

    def nobody(self):
        asks.append(self)
        if len(asks) == asked:
            raise ServingError(grpc.StatusCode.CANCELLED, "nobody waits")

    monkeypatch.setattr(Call, "check_waits", nobody)
    monkeypatch.setattr(Signature, "run", lambda self, inputs: runs.append(inputs))
    assert served.ask(road) == "nobody waits"
    line = served.last()
    assert (line["status"], line["version"], line["error"]) == ("CANCELLED", 1, "nobody waits")
    assert len(asks) == asked and not runs


@pytest.mark.parametrize("road", ROADS)
def test_a_deadline_that_passes_while_a_request_is_read_is_kept(served, monkeypatch, road):
    """The deadline, by the server's own clock, has passed once the request has been parsed."""
    left, runs = [1.0, 0.0], []
    monkeypatch.setattr(Call, "seconds_left", lambda self: left.pop(0))
    monkeypatch.setattr(Signature, "run", lambda self, inputs: runs.append(inputs))
    assert served.ask(road) == "the deadline passed before the model was run"
    assert served.last()["status"] == "DEADLINE_EXCEEDED"
    assert not runs and not left


@pytest.mark.parametrize("road", ROADS)
def test_every_run_is_counted_and_logged(served, road):
    entry, runs = (road[1:].capitalize() if road in BODIES else road), 2 if road == "MultiInference" else 1
    name = ':tensorflow:serving:{}_latency_count{{model_name="examples",API="' + entry + '"{}}}'

    def counts():
        found = samples(get(served.server.rest_port, "/metrics"))
        return [found.get(name.format(*one), 0) for one in (("request", ""), ("runtime", ',runtime="TF1"'))]

    before = counts()
    assert served.ask(road) == ""
    line = served.last()
    assert (line["entry"], line["model"], line["version"], line["status"]) == (entry, "examples", 1, "OK")
    assert counts() == [before[0] + 1, before[1] + runs]
