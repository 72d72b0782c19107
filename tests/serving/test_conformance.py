"""Compares the local server's answers with those that TensorFlow Serving 2.20.0 gave to the same requests.

`pytest tests/serving/test_conformance.py --target HOST:PORT --rest-target HOST:PORT` asks a running server instead,
which must serve the models of golden/models.py: `python -m tests.serving.golden.models BASE >models.config` writes them,
`tensorflow_model_server --model_config_file=$PWD/models.config --rest_api_port=8501
--allow_version_labels_for_unavailable_models` serves them, and so does `nann serve` with the same flags.
Cases that were recorded with other flags are never sent to a running server, only to the local one.
"""

import base64
import contextlib
import http.client
import io
import json
import math
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from grpc_health.v1 import health_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

from tests.serving.deviations import DEVIATIONS, MESSAGES
from tests.serving.golden import models as golden
from tfserving_ext.serving import LocalServer, ServerOptions
from tfserving_ext.serving.grpc_service import GrpcOptions
from tfserving_ext.serving.model_config import parse_config, read_config
from tfserving_ext.serving.rest import RestOptions
from tfserving_ext.serving.versions import LoadOptions

GOLDEN = Path(__file__).parent / "golden"
PROTOS = {
    "Predict": (predict_pb2.PredictRequest, predict_pb2.PredictResponse),
    "GetModelMetadata": (
        get_model_metadata_pb2.GetModelMetadataRequest,
        get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, get_model_status_pb2.GetModelStatusResponse),
    "Classify": (classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
    "Regress": (regression_pb2.RegressionRequest, regression_pb2.RegressionResponse),
    "HandleReloadConfigRequest": (
        model_management_pb2.ReloadConfigRequest,
        model_management_pb2.ReloadConfigResponse,
    ),
    "MultiInference": (inference_pb2.MultiInferenceRequest, inference_pb2.MultiInferenceResponse),
    "Check": (health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
}
SETS = ["grpc_predict", "grpc_get_model_metadata", "grpc_get_model_status", "grpc_classify_regress_multi"]
REST_SETS = ["rest_predict", "rest_status_metadata_routing", "rest_classify_regress"]
# The local server's options for the flags that a set was recorded with.
FLAGS = {
    "flags": {
        "grpc": GrpcOptions(as_content=True),
        "rest": RestOptions(cors=True, metrics_path="/monitoring/prometheus/metrics"),
    },
    "flags_2": {"check_methods": True},
}
# These need a model that takes seconds, or were recorded abridged; test_limits.py and test_options.py have similar ones.
LEFT_OUT = {"rest_timeout", "grpc_deadline", "metrics", "metrics_post"}


# The request and the answer of a case with two thousand values, which the recording abridges.
MANY = {"body": json.dumps({"instances": [1.0] * 2000})}, json.dumps({"predictions": [3.5] * 2000})


def cases(name):
    found = json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
    found = [case for case in found if case["id"] not in LEFT_OUT]
    for case in found:
        if case["id"] == "cors_post":
            del case["body"]  # TensorFlow Serving answers with a wrong number here.
        if case.get("response_wire_hex"):
            response = health_pb2.HealthCheckResponse.FromString(bytes.fromhex(case["response_wire_hex"]))
            case["response"] = json_format.MessageToDict(response)
        if case["id"] == "accept_gzip_larger":
            case["request"] |= MANY[0]
            case["body"] = MANY[1]
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The configuration of the models with which the answers were recorded."""
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        golden.main([str(tmp_path_factory.mktemp("golden") / "models")])
    return read_config(parse_config(written.getvalue()))


@contextlib.contextmanager
def serving(models, **flags):
    """Starts a local server and yields its addresses for gRPC and REST."""
    options = ServerOptions(grpc_port=0, rest_port=0, load=LoadOptions(labels_ahead=True), **flags)
    with LocalServer(models, options) as server:
        yield f"127.0.0.1:{server.grpc_port}", f"127.0.0.1:{server.rest_port}"


@pytest.fixture(scope="module")
def targets(request):
    """Addresses for gRPC and REST."""
    given = request.config.getoption("--target"), request.config.getoption("--rest-target")
    if any(given):
        yield given
        return
    with serving(request.getfixturevalue("models")) as addresses:
        yield addresses


def ask_grpc(target, case):
    """Sends a request as it was recorded; returns the status name, the message and the response."""
    # An unknown method is called with any message.
    request_type, response_type = PROTOS.get(case["method"].rsplit("/", 1)[1], PROTOS["Predict"])
    if "request_wire_hex" in case:
        wire = bytes.fromhex(case["request_wire_hex"])
    else:
        wire = json_format.ParseDict(case["request"], request_type()).SerializeToString()
    with grpc.insecure_channel(target) as channel:
        call = channel.unary_unary(f"/{case['method']}", lambda raw: raw, response_type.FromString)
        try:
            return "OK", "", call(wire, timeout=20)
        except grpc.RpcError as error:
            return error.code().name, error.details(), None


def same_tensor(got, wanted):
    """Compares the field that holds the values too, since some clients read only one field."""
    if got.dtype != wanted.dtype or got.tensor_shape != wanted.tensor_shape:
        return False
    if {field.name for field, _ in got.ListFields()} != {field.name for field, _ in wanted.ListFields()}:
        return False
    if got.dtype == tf.string.as_datatype_enum:
        return got == wanted
    a, b = tf.make_ndarray(got), tf.make_ndarray(wanted)
    return np.allclose(a, b, rtol=1e-6, equal_nan=True)


def same_response(got, wanted):
    if isinstance(got, predict_pb2.PredictResponse):
        return (
            got.model_spec == wanted.model_spec
            and set(got.outputs) == set(wanted.outputs)
            and all(same_tensor(got.outputs[name], wanted.outputs[name]) for name in got.outputs)
        )
    if isinstance(got, get_model_metadata_pb2.GetModelMetadataResponse):
        unpacked = []
        for response in (got, wanted):
            signatures = get_model_metadata_pb2.SignatureDefMap()
            response.metadata["signature_def"].Unpack(signatures)
            unpacked.append(shape_of_signatures(signatures))
        return got.model_spec == wanted.model_spec and unpacked[0] == unpacked[1]
    return got == wanted


def shape_of_signatures(signatures):
    """Returns what a client sees of signatures, without the graph's node names, which depend on the export."""
    return {
        name: (
            {key: (info.dtype, str(info.tensor_shape)) for key, info in signature.inputs.items()},
            {key: (info.dtype, str(info.tensor_shape)) for key, info in signature.outputs.items()},
            signature.method_name,
        )
        for name, signature in signatures.signature_def.items()
    }


def check_grpc(target, case):
    """Returns whether status and response agree, whether the message does (None if not the server's), and the answer."""
    code, message, response = ask_grpc(target, case)
    agree = code == case["code"]
    if agree and code == "OK":
        wanted = json_format.ParseDict(case["response"], PROTOS[case["method"].rsplit("/", 1)[1]][1]())
        agree = same_response(response, wanted)
    if not case["message"] or not worded_by_serving(case["message"]):
        return agree, None, (code, message, response)
    return agree, message == case["message"], (code, message, response)


def worded_by_serving(message):
    """Returns whether a message is the server's own, not an op's, which names graph nodes, or the gRPC library's."""
    library = ("Exception deserializing", "Method not found", "Error parsing", "Failed to", "Deadline Exceeded")
    return "{{node" not in message and not message.startswith(library)


def ask_rest(target, request):
    host, port = target.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    body = request.get("body")
    if "body_b64" in request:
        body = base64.b64decode(request["body_b64"])
    elif body is not None:
        body = body.encode()
    try:
        connection.request(request["verb"], request["path"], body, request.get("headers", {}))
        response = connection.getresponse()
        page = {name: value for name, value in response.getheaders() if name.lower().startswith("access-control-")}
        return response.status, response.read(), {name.lower(): value for name, value in page.items()}
    finally:
        connection.close()


def same_json(got, wanted):
    if isinstance(wanted, dict) and isinstance(got, dict):
        return set(got) == set(wanted) and all(
            (key == "name" and "tensor_shape" in wanted) or same_json(got[key], wanted[key]) for key in wanted
        )
    if isinstance(wanted, list) and isinstance(got, list):
        return len(got) == len(wanted) and all(map(same_json, got, wanted))
    if isinstance(wanted, float) or isinstance(got, float):
        numbers = isinstance(wanted, (int, float)) and isinstance(got, (int, float))
        return numbers and (
            (wanted == got) or math.isclose(wanted, got, rel_tol=1e-6) or (wanted != wanted and got != got)
        )
    return type(got) is type(wanted) and got == wanted


def loads(body):
    try:
        return json.loads(body)
    except (ValueError, UnicodeDecodeError):
        return body if isinstance(body, bytes) else body.encode()


def check_rest(target, case):
    status, body, for_pages = ask_rest(target, case["request"])
    wanted_for_pages = {
        name.lower(): value for name, value in case["headers"].items() if name.startswith("Access-Control-")
    }
    agree = status == case["status"] and for_pages == wanted_for_pages
    wanted = case.get("body", "")
    if agree and status == 200 and "body" in case:
        agree = same_json(loads(body), loads(wanted))
    parsed, wanted_json = loads(body), loads(wanted)
    if not isinstance(wanted_json, dict) or "error" not in wanted_json or "{{node" in wanted:
        return agree, None, (status, body)
    return agree, isinstance(parsed, dict) and parsed.get("error") == wanted_json["error"], (status, body)


@pytest.mark.parametrize("name", [*SETS, *REST_SETS])
def test_answers_are_those_of_tensorflow_serving(name, targets, request):
    given = request.config.getoption("--target"), request.config.getoption("--rest-target")
    real = any(given) and not is_local(*given)
    check, target = (check_grpc, targets[0]) if name in SETS else (check_rest, targets[1])
    if target is None:
        pytest.fail(f"{name} needs {'--target' if name in SETS else '--rest-target'}")
    compare(name, lambda case: check(target, case), real)


@pytest.mark.parametrize("name", FLAGS)
def test_answers_behind_flags_are_those_of_tensorflow_serving(name, models, request):
    """Flags that change answers change them as recorded. First contact, line 21."""
    with serving(models, **FLAGS[name]) as (grpc_target, rest_target):
        compare(
            name,
            lambda case: check_grpc(grpc_target, case) if "method" in case else check_rest(rest_target, case),
            real=False,
        )


def is_local(target, rest_target):
    """Returns whether a running server is `nann serve`, which has health services without a flag."""
    if rest_target is not None:
        return ask_rest(rest_target, {"verb": "GET", "path": "/healthz"})[0] == 200
    return ask_grpc(target, {"method": "grpc.health.v1.Health/Check", "request": {}})[0] == "OK"


def compare(name, check, real):
    """Checks that a server agrees with a set of recorded cases except for the listed deviations."""
    agreed, worded, same_words = 0, 0, 0
    problems = []
    found = cases(name)
    for case in found:
        key = f"{name}/{case['id']}"
        agree, message, got = check(case)
        agreed += agree
        worded += message is not None and key not in DEVIATIONS
        same_words += bool(message) and key not in DEVIATIONS
        if not agree and (real or key not in DEVIATIONS):
            problems.append(
                f"{key}: {got} is not {case.get('code', case.get('status'))} {case.get('message', case.get('body'))!r}"
            )
        if agree and message is False and not real and key not in MESSAGES:
            problems.append(f"{key}: says {got[1]!r}, not {case.get('message', case.get('body'))!r}")
        if not real and key in DEVIATIONS and agree:
            problems.append(f"{key}: is listed as a deviation, but agrees")
        if not real and key in MESSAGES and message is not False:
            problems.append(f"{key}: is listed as worded otherwise, but is not")
    print(f"{name}: {agreed} of {len(found)} agree, {same_words} of {worded} messages")
    assert not problems, "\n".join(problems)
    assert agreed >= 0.85 * len(found)
    assert same_words >= 0.8 * worded


@pytest.mark.medium
def test_reloading_is_that_of_tensorflow_serving(tmp_path, request):
    """The cases are a sequence: each one finds the server in the state that the previous one left."""
    if request.config.getoption("--target"):
        pytest.skip("a running server has models of its own")
    base = tmp_path / "models"
    golden.write_models(base)
    options = ServerOptions(grpc_port=0, rest_port=0, load=LoadOptions(poll_seconds=0.2))
    problems, agreed = [], 0
    found = cases("grpc_reload_config")
    with LocalServer({"half_plus": base / "half_plus"}, options) as server:
        for case in found:
            case.pop("request_wire_hex", None)
            case = json.loads(json.dumps(case).replace('"/models/', f'"{base}/'))
            agree, message, got = check_grpc(f"127.0.0.1:{server.grpc_port}", case)
            agreed += agree
            key = f"grpc_reload_config/{case['id']}"
            if (agree and message is not False) == (key in DEVIATIONS):
                problems.append(f"{key}: {got} and {case['code']} {case['message']!r} {case.get('response')}")
    print(f"grpc_reload_config: {agreed} of {len(found)} agree")
    assert not problems, "\n".join(problems)


def test_every_deviation_is_of_a_case_and_has_a_reason():
    known = {
        f"{name}/{case['id']}" for name in (*SETS, *REST_SETS, *FLAGS, "grpc_reload_config") for case in cases(name)
    }
    assert set(DEVIATIONS) | set(MESSAGES) <= known
    assert all(len(reason) > 10 for reason in (*DEVIATIONS.values(), *MESSAGES.values()))
