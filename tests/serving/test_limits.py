"""How many requests are accepted, how long they may last, and what happens when their client no longer waits."""

import http.client
import json
import socket
import threading
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.serving.test_lifecycle import eventually
from tfserving_ext.errors import NannError
from tfserving_ext.serving import Client, LocalServer, ServerOptions, grpc_service, server
from tfserving_ext.serving import rest as rest_module
from tfserving_ext.serving.grpc_service import GrpcOptions
from tfserving_ext.serving.models import Signature
from tfserving_ext.serving.rest import RestOptions
from tfserving_ext.serving.versions import LoadOptions

LONG = {"n": np.int32(500_000)}


def options(**more):
    return ServerOptions(grpc_port=0, rest_port=0, **more)


class Runs:
    """The values of x of the model runs that have begun; each run waits until `go` is set."""

    def __init__(self):
        self.begun, self.go = [], threading.Event()


@pytest.fixture
def runs(monkeypatch):
    """Records and blocks the model runs, so that the tests need no timing."""
    found, run = Runs(), Signature.run

    def recorded(self, inputs):
        found.begun.append(float(inputs["x"][0]))
        assert found.go.wait(60)
        return run(self, inputs)

    monkeypatch.setattr(Signature, "run", recorded)
    yield found
    found.go.set()


class Grpc:
    """A client of a server's gRPC port."""

    def __init__(self, port):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def ask(self, x, timeout=60.0):
        """Begins a request; the future's `code()` waits for its status."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "half_plus"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto([np.float32(x)]))
        return prediction_service_pb2_grpc.PredictionServiceStub(self.channel).Predict.future(request, timeout)

    def settle(self):
        """Returns once the server has noticed what this client sent or cancelled before.

        A connection's frames are read in their order, and the library's own thread, which takes note of cancelled
        calls, also refuses a method that does not exist, without waiting for a thread of the pool.
        """
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as refused:
                self.channel.unary_unary("/no.such.Service/Method")(b"", timeout=60)
            assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def grpc_of_one(toy, runs):
    """A client of a server that runs one request at a time and lets two wait."""
    with LocalServer({"half_plus": toy}, options(grpc=GrpcOptions(threads=1, queue=2))) as one:
        client = Grpc(one.grpc_port)
        yield client
        runs.go.set()
        client.channel.close()


def test_a_request_whose_client_left_or_whose_deadline_passed_while_it_waited_never_runs(grpc_of_one, runs):
    """First contact, line 27."""
    first = grpc_of_one.ask(1)
    eventually(lambda: runs.begun == [1])
    late, left = grpc_of_one.ask(2, timeout=0.3), grpc_of_one.ask(3)
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    left.cancel()
    grpc_of_one.settle()
    runs.go.set()
    assert first.code() == grpc.StatusCode.OK
    assert grpc_of_one.ask(4).code() == grpc.StatusCode.OK
    assert runs.begun == [1, 4]


@pytest.mark.parametrize("ending", ["deadline", "cancel"])
def test_a_request_whose_client_is_gone_once_it_is_read_never_runs(grpc_of_one, runs, monkeypatch, ending):
    """gRPC itself no longer drops a request that a thread has begun to parse. First contact, line 27."""
    reading, go, parse = threading.Event(), threading.Event(), grpc_service.parse_tensor

    def held(proto):
        reading.set()
        assert go.wait(60)
        return parse(proto)

    runs.go.set()
    monkeypatch.setattr(grpc_service, "parse_tensor", held)
    gone = grpc_of_one.ask(1, timeout=1.0 if ending == "deadline" else 60.0)
    assert reading.wait(60)
    if ending == "cancel":
        gone.cancel()
    else:
        assert gone.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    grpc_of_one.settle()
    go.set()
    assert grpc_of_one.ask(2).code() == grpc.StatusCode.OK
    assert runs.begun == [2]


def test_what_waits_for_grpc_is_bounded(grpc_of_one, runs):
    first = grpc_of_one.ask(1)
    eventually(lambda: runs.begun == [1])
    waiting = [grpc_of_one.ask(x) for x in range(2, 10)]
    eventually(lambda: sum(one.done() for one in waiting) == 6)
    runs.go.set()
    codes = sorted(one.code().name for one in waiting)
    assert codes == ["OK"] * 2 + ["RESOURCE_EXHAUSTED"] * 6
    assert first.code() == grpc.StatusCode.OK
    assert grpc_of_one.ask(10).code() == grpc.StatusCode.OK


def test_a_search_has_no_more_time_than_its_client(world, monkeypatch):
    """The RPC's deadline becomes the deadline of the search. First contact, line 27."""
    seen, run = [], Signature.run

    def recorded(self, inputs):
        seen.append(inputs.get("deadline_ms"))
        return run(self, inputs)

    history = {"item_history": np.asarray(world.sequences.item_ids)[None, :5]}
    with (
        LocalServer({"nann": world.saved_model.parent}, options()) as one,
        Client(f"127.0.0.1:{one.grpc_port}", "nann", timeout=25) as client,
    ):
        monkeypatch.setattr(Signature, "run", recorded)
        for sent in ({}, {"deadline_ms": np.int32(0)}, {"deadline_ms": np.int32(60_000)}):
            client.predict("retrieve", history | sent)
            assert 0 < seen.pop() <= 26_000  # gRPC rounds up the deadline that it sends.
        client.predict("retrieve", history | {"deadline_ms": np.int32(9000)})  # The request's own deadline is earlier.
        assert seen.pop() == 9000
        topn = np.array([100, 200, 200, 200, 200, 200], np.int32)
        client.predict("serving_default", {"comm_seq": np.zeros([1, 3200], np.float16), "level_topn": topn})
        assert seen == [None]


def test_a_client_s_deadline_ends_its_wait_and_leaves_the_server_well(slow, toy):
    with LocalServer({"slow": slow, "half_plus": toy}, options()) as one:
        target = f"127.0.0.1:{one.grpc_port}"
        with Client(target, "slow", timeout=0.1) as client, pytest.raises(NannError, match="DEADLINE_EXCEEDED"):
            client.predict("", LONG)
        with Client(target, "half_plus") as client:
            assert client.predict("", {"x": np.array([2.0], np.float32)})["y"].tolist() == [3.0]


class Rest:
    """Clients of a server's REST port, each in a thread of its own."""

    def __init__(self, port):
        self.port, self.answers = port, []

    def connection(self, x):
        """Sends a request without waiting for the answer."""
        made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        made.request("POST", "/v1/models/half_plus:predict", json.dumps({"instances": [x]}))
        return made

    def begin(self, x):
        made = self.connection(x)

        def wait():
            response = made.getresponse()
            self.answers.append((x, response.status, json.loads(response.read())))
            made.close()

        threading.Thread(target=wait, daemon=True).start()

    def get(self, path):
        made = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        made.request("GET", path)
        response = made.getresponse()
        text = response.read().decode()
        made.close()
        return response.status, text


def rest_of_one(toy, **more):
    rest = RestOptions(threads=1, queue=2, metrics_path="/metrics", **more)
    return LocalServer({"half_plus": toy}, options(rest=rest))


def test_what_waits_for_rest_is_bounded(toy, runs):
    """Requests beyond the bound are refused at once; status and metrics are answered even then.

    First contact, line 22.
    """
    with rest_of_one(toy) as one:
        rest = Rest(one.rest_port)
        rest.begin(1)
        eventually(lambda: runs.begun == [1])
        for x in range(2, 10):
            rest.begin(x)
        eventually(lambda: len(rest.answers) == 6)
        assert {status for _, status, _ in rest.answers} == {503}
        assert "3 requests are running or waiting" in rest.answers[0][2]["error"]
        # Its health can still be queried, and refused requests are counted.
        assert rest.get("/healthz") == (200, "ok\n")
        assert rest.get("/readyz") == (200, "ok\n")
        assert '"AVAILABLE"' in rest.get("/v1/models/half_plus")[1]
        refused = 'request_count{model_name="half_plus",status="RESOURCE_EXHAUSTED"} 6'
        assert refused in rest.get("/metrics")[1]
        runs.go.set()
        eventually(lambda: len(rest.answers) == 9)
        assert [status for _, status, _ in rest.answers].count(200) == 3
        rest.begin(10)
        eventually(lambda: rest.answers[-1][:2] == (10, 200))


def test_bodies_that_wait_for_rest_are_bounded_together(toy, runs, monkeypatch):
    """The total size is bounded as well, since a few hundred bodies of 64 MiB fill any machine's memory.

    First contact, line 22.
    """
    monkeypatch.setattr(rest_module, "MAX_BODIES_BYTES", 30)
    with rest_of_one(toy) as one:
        rest = Rest(one.rest_port)
        rest.begin(1)  # A body of 18 bytes.
        eventually(lambda: runs.begun == [1])
        large = 1234567890.5  # A body of 29 bytes, too large together with the first.
        rest.begin(large)
        eventually(lambda: rest.answers)
        assert rest.answers[0][:2] == (large, 503)
        assert "take 18 bytes of at most 30" in rest.answers.pop()[2]["error"]
        runs.go.set()
        eventually(lambda: [status for _, status, _ in rest.answers] == [200])
        rest.begin(large)
        eventually(lambda: [status for _, status, _ in rest.answers] == [200, 200])


def test_a_rest_client_that_left_while_it_waited_is_not_answered(toy, runs):
    with rest_of_one(toy) as one:
        rest = Rest(one.rest_port)
        rest.begin(1)
        eventually(lambda: runs.begun == [1])
        left = rest.connection(2)
        rest.begin(3)
        left.close()
        for _ in range(2):  # The server's loop has gone around since the connection was closed.
            assert rest.get("/healthz") == (200, "ok\n")
        runs.go.set()
        eventually(lambda: len(rest.answers) == 2)
        assert runs.begun == [1, 3]


def test_a_rest_request_ends_at_its_time_and_what_waits_for_it_too(toy, runs):
    """--rest_api_timeout_in_ms; the status and the text are TensorFlow Serving's. First contact, line 21."""
    with rest_of_one(toy, timeout_seconds=0.4) as one:
        rest = Rest(one.rest_port)
        rest.begin(1)
        eventually(lambda: runs.begun == [1])
        rest.begin(2)
        eventually(lambda: len(rest.answers) == 2)
        assert {answer[1:] == (504, {"error": "Timed out waiting for notification"}) for answer in rest.answers} == {
            True
        }
        runs.go.set()
        eventually(lambda: not rest.begin(3) and any(status == 200 for _, status, _ in rest.answers))
        assert 2 not in runs.begun


def test_readiness_is_of_every_model(toy, tmp_path):
    """/healthz says that the process lives, /readyz that every model has a version that serves.

    First contact, line 22.
    """
    base = tmp_path / "base"
    base.mkdir()
    (base / "10").symlink_to(toy / "10")
    with LocalServer({"a": toy, "b": base}, options(load=LoadOptions(poll_seconds=0.05))) as one:
        rest = Rest(one.rest_port)
        assert rest.get("/readyz") == (200, "ok\n")
        (base / "10").unlink()
        eventually(lambda: rest.get("/readyz") == (503, "no version is available of b\n"))
        assert rest.get("/healthz") == (200, "ok\n")


@pytest.mark.parametrize("kind", ["grpc", "rest", "silent grpc", "silent rest"])
def test_a_server_without_requests_stops_at_once(toy, monkeypatch, kind):
    """Open connections do not delay the stop; if they did, this grace period would keep the test from ending.

    First contact, line 22.
    """
    monkeypatch.setattr(server, "GRACE_SECONDS", 3600.0)
    one = LocalServer({"half_plus": toy}, options())
    port = one.grpc_port if "grpc" in kind else one.rest_port
    if kind == "grpc":
        client = Grpc(port)
        assert client.ask(1).code() == grpc.StatusCode.OK
    elif kind == "rest":
        client = http.client.HTTPConnection(urlsplit(f"//127.0.0.1:{port}").netloc)
        client.request("GET", "/healthz")
        client.getresponse().read()
    else:
        client = socket.create_connection(("127.0.0.1", port))
    stopping = threading.Thread(target=one.stop, daemon=True)
    stopping.start()
    stopping.join(60)
    assert not stopping.is_alive()
    (client.channel if kind == "grpc" else client).close()


def test_requests_that_run_or_wait_are_answered_before_the_server_stops(toy, runs):
    with LocalServer({"half_plus": toy}, options(grpc=GrpcOptions(threads=1, queue=2))) as one:
        client = Grpc(one.grpc_port)
        asked = [client.ask(x) for x in (1, 2)]
        eventually(lambda: runs.begun)
        client.settle()
        stopping = threading.Thread(target=one.stop)
        stopping.start()
        runs.go.set()
        assert [one.code() for one in asked] == [grpc.StatusCode.OK] * 2
        stopping.join()
        client.channel.close()
