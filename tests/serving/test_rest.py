"""The REST API over the wire; the error texts are TensorFlow Serving 2.20's."""

import contextlib
import gzip
import http.client
import json
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from tfserving_ext.serving import rest

MODEL = "/v1/models/half_plus"
PREDICT = f"{MODEL}:predict"


@pytest.fixture
def ask(toy_server):
    def call(method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(urlsplit(toy_server.url).netloc, timeout=20)
        body = json.dumps(body) if isinstance(body, (dict, list)) else body
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.headers.get("Content-Type", "").startswith("application/json") and text
        return response.status, json.loads(text) if is_json else text

    return call


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [1.0, 2]}, {"predictions": [2.5, 3.0]}),
        ({"instances": [{"x": 1.0}, {"x": 2.0}]}, {"predictions": [2.5, 3.0]}),
        ({"inputs": {"x": [1.0, 2.0]}}, {"outputs": [2.5, 3.0]}),
        ({"inputs": [1.0]}, {"outputs": [2.5]}),
        ({"inputs": 1.0}, {"outputs": 2.5}),
        ({"inputs": []}, {"outputs": []}),
        ({"signature_name": "", "instances": [1.0]}, {"predictions": [2.5]}),
        ({"inputs": {"x": [1.0], "z": [1.0]}}, {"outputs": [2.5]}),
        (
            {"signature_name": "rest", "instances": [{"i": 2**63 - 1, "f": 0.5, "s": "é", "b": True}]},
            {"predictions": [{"i_out": 2**63 - 1, "f_out": 0.5, "s_out": "é", "b_out": True}]},
        ),
        (
            {"signature_name": "rest", "inputs": {"i": [-(2**53) - 1], "f": [0], "s": [{"b64": "/w=="}], "b": [False]}},
            {"outputs": {"i_out": [-(2**53) - 1], "f_out": [0.0], "s_out": [{"b64": "/w=="}], "b_out": [False]}},
        ),
        ({"signature_name": "total", "inputs": [[1, 2, 3]]}, {"outputs": 6.0}),
    ],
)
def test_predict(ask, body, answer):
    assert ask("POST", PREDICT, body) == (200, answer)
    assert ask("POST", f"{MODEL}/versions/10:predict", body) == (200, answer)


def test_not_a_number(ask):
    status, answer = ask("POST", PREDICT, '{"instances": [NaN, Infinity, -Infinity]}')
    assert status == 200
    np.testing.assert_array_equal(answer["predictions"], [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/nope:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nope)"),
        (f"{MODEL}/versions/77:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(half_plus, 77)"),
        (f"{MODEL}/versions/2:predict", {"instances": [1]}, 404, "Servable not found for request: Specific(half_plus, 2)"),
        (f"{MODEL}/labels/nope:predict", {"instances": [1]}, 400, "Unrecognized servable version label: nope"),
        (f"{MODEL}/versions/abc:predict", {"instances": [1]}, 400, f"Malformed request: POST {MODEL}/versions/abc:predict"),
        (PREDICT, {"signature_name": "nope", "instances": [1]}, 400, 'Serving signature name: "nope" not found in signature def'),
        (PREDICT, {"signature_name": "x"}, 400, "Missing 'inputs' or 'instances' key"),
        (PREDICT, {"inputs": {}}, 400, "Missing named input: x in 'inputs' object."),
        (PREDICT, {"signature_name": "types", "inputs": {"i": [1], "h": [[1.5, 2]], "s": ["a"]}}, 501, "Conversion of JSON Value: 1.5 to type: half"),
        (PREDICT, {"signature_name": "total", "instances": [[1, 2, 3]]}, 400, "Tensor name: total has no shape information "),
        (PREDICT, b"", 400, "JSON Parse error: The document is empty"),
        (PREDICT, b"[" * 100_000, 400, None),
        (PREDICT, b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", 400, None),
        (PREDICT, {"signature_name": "third", "instances": [0, 7]}, 400, None),
        (f"{MODEL}:classify", {"examples": [{"x": 1.0}]}, 400, None),
        (MODEL, {}, 400, f"Malformed request: POST {MODEL}"),
        (f"{PREDICT}/", {"instances": [1]}, 400, f"Malformed request: POST {PREDICT}/"),
    ],
)  # fmt: skip
def test_refusals(ask, path, body, status, message):
    got, answer = ask("POST", path, body)
    assert got == status
    assert set(answer) == {"error"}
    assert message is None or answer["error"] == message
    assert ask("POST", PREDICT, {"instances": [1.0]}) == (200, {"predictions": [2.5]})


def test_a_body_that_is_too_long(ask, monkeypatch):
    monkeypatch.setattr(rest, "MAX_BODY_BYTES", 1000)
    status, answer = ask("POST", PREDICT, {"instances": [1.0] * 1000})
    assert status == 413
    assert "more than 1000 bytes" in answer["error"]
    assert ask("POST", PREDICT, {"instances": [1.0]}) == (200, {"predictions": [2.5]})


GZIP = {"Content-Encoding": "gzip"}


def test_a_zipped_body(ask, monkeypatch):
    body = gzip.compress(b'{"instances": [1.0]}')
    assert ask("POST", PREDICT, body, GZIP) == (200, {"predictions": [2.5]})
    assert ask("POST", PREDICT, {"instances": [1.0]}, GZIP) == (
        400,
        {"error": "JSON Parse error: The document is empty"},
    )
    monkeypatch.setattr(rest, "MAX_BODY_BYTES", 1000)
    assert ask("POST", PREDICT, gzip.compress(b" " * 1_000_000), GZIP)[0] == 413


def test_paths_are_matched_as_they_were_sent(ask):
    encoded = "/v1/models/half_plus%3Apredict"
    assert ask("POST", encoded, {"instances": [1]}) == (400, {"error": f"Malformed request: POST {encoded}"})
    assert ask("GET", f"{MODEL}?a=b") == (404, {"error": "Could not find any versions of model half_plus?a=b"})


def test_status(ask):
    entry = {"version": "10", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in (MODEL, f"{MODEL}/versions/10", "/v1/models/half%5Fplus"):
        assert ask("GET", path) == (200, {"model_version_status": [entry]})
    assert ask("GET", f"{MODEL}/versions/77") == (404, {"error": "Could not find version 77 of model half_plus"})
    assert ask("GET", "/v1/models/nope") == (404, {"error": "Could not find any versions of model nope"})


def test_metadata(ask):
    status, answer = ask("GET", f"{MODEL}/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "half_plus", "version": "10", "signature_name": ""}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signature["inputs"] == {"x": {"name": "serving_default_x:0", "dtype": "DT_FLOAT", "tensor_shape": shape}}
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert ask("GET", "/v1/models/nope/metadata") == (404, {"error": "Servable not found for request: Latest(nope)"})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{MODEL}/"),
        ("GET", f"{MODEL}/foo"),
        ("GET", f"{MODEL}/versions/abc"),
        ("GET", PREDICT),
        ("DELETE", MODEL),
        ("PATCH", PREDICT),
        ("POST", f"{MODEL}/metadata"),
        ("POST", f"{MODEL}:foo"),
        ("GET", "/v1/"),
    ],
)
def test_other_requests(ask, method, path):
    assert ask(method, path) == (400, {"error": f"Malformed request: {method} {path}"})


def test_other_paths(ask):
    for path in ("/v1/models", "/v1/models/versions/1"):
        assert ask("GET", path) == (400, {"error": "Missing model name in request."})
    for path in ("/", "/nope", "/v2/models/half_plus"):
        assert ask("GET", path)[0] == 404


def test_no_answer_waits_for_an_acknowledgement(toy_server):
    """Headers and body are two writes: by Nagle's algorithm the body waits 40 ms unless TCP_NODELAY is set."""
    connection = http.client.HTTPConnection(urlsplit(toy_server.url).netloc, timeout=20)
    connection.request("GET", MODEL)
    connection.getresponse().read()
    client = connection.sock.getsockname()
    accepted = []
    for path in Path("/proc/self/fd").iterdir():
        if not path.is_socket():
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(path.name))) as one:
            if one.getpeername() == client:  # OSError for a socket that listens.
                accepted.append(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    connection.close()
    assert len(accepted) == 1 and accepted[0]
