"""The inputs and outputs of requests, by gRPC, by REST in both its forms, and in a session."""

import json
import math
import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, ExportOptions, export
from tests.serving.awkward import (
    DIM,
    FEATURES,
    FULL,
    IDS,
    ITEMS,
    LAYERS,
    TABLE,
    USERS,
    Awkward,
    check_short,
    columns,
    ordered,
    rows,
)
from tests.serving.test_options import get, samples
from tfserving_ext.errors import NannError
from tfserving_ext.index import Hnsw, build_index
from tfserving_ext.serving import Client, LocalServer, RestClient, ServerOptions
from tfserving_ext.serving.models import ServingError, load_servable
from tfserving_ext.serving.rest import RestOptions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("awkward")
    build_index(IDS, TABLE, root / "index", Hnsw(threads=1))
    return export(
        Awkward(),
        root / "index",
        root / "awkward" / "1",
        Defaults(k=10),
        options=ExportOptions(measure=False, allow_non_finite=["age"]),
    )


@pytest.fixture(scope="module")
def server(exported):
    options = ServerOptions(grpc_port=0, rest_port=0, rest=RestOptions(metrics_path="/metrics"))
    with LocalServer({"awkward": exported.parent}, options) as running:
        yield running


@pytest.fixture(scope="module")
def grpc_client(server):
    with Client(f"127.0.0.1:{server.grpc_port}", "awkward") as client:
        yield client


@pytest.fixture(scope="module")
def servable(exported):
    return load_servable(exported)


def no_constant(text):
    raise AssertionError(f"{text} is not JSON")


@pytest.fixture(scope="module")
def post(server):
    """Posts a body; returns the status and the answer, read as strictly as browsers do."""

    def ask(body, model="awkward", port=server.rest_port):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/models/{model}:predict", json.dumps(body, default=np.ndarray.tolist).encode()
        )
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, json.loads(response.read(), parse_constant=no_constant)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read(), parse_constant=no_constant)["error"]

    return ask


def test_places_without_an_item_are_counted_and_are_json(exported, grpc_client, post):
    """The op's -infinity is not valid JSON, so every number of an answer is finite: by gRPC, by REST and in process.

    First contact, line 9.
    """
    status, answer = post(columns())
    assert status == 200
    check_short(answer["outputs"])
    found = grpc_client.predict("retrieve", FEATURES)
    check_short(found)
    assert {key: value.dtype.name for key, value in found.items()} == {
        "item_ids": "int64",
        "scores": "float32",
        "num_results": "int32",
        "items_scored": "int64",
        "rounds": "int32",
        "nan_scores": "int64",
        "stopped": "int32",
        "index_sequence": "int64",
    }
    loaded = tf.saved_model.load(str(exported))  # Held: a signature alone does not keep the index open.
    dtypes = {"budget": tf.int64, "seeds": tf.int64, "exclude": tf.int64}
    full = {key: tf.constant(value, dtypes.get(key, tf.int32)) for key, value in FULL.items()}
    check_short(loaded.signatures["retrieve"](**full, **{key: tf.constant(value) for key, value in FEATURES.items()}))


def test_scores_that_are_infinite_or_nan_are_json_too(servable, post):
    """Infinite scores are replaced by finite numbers, and scores that are NaN are counted.

    First contact, lines 9 and 10.
    """
    status, answer = post(columns(factor=[1.0, 0.0, -1.0]))
    assert status == 200
    found = {key: np.asarray(value) for key, value in answer["outputs"].items()}
    assert found["num_results"].tolist() == [ITEMS] * 3
    assert found["nan_scores"].tolist() == [0, 0, ITEMS] and found["items_scored"].tolist() == [ITEMS] * 3
    assert (found["scores"][1:].astype(np.float32) == np.finfo(np.float32).min).all()
    assert (np.sort(found["item_ids"][:, :ITEMS]) == IDS).all()
    for name in ("retrieve_trace", "retrieve_rounds"):
        same = servable.signature(name).run({**FEATURES, "factor": np.array([1, 0, -1], np.float32)})
        np.testing.assert_array_equal(same["nan_scores"], found["nan_scores"])
        assert np.isfinite(same["scores"]).all()


def test_an_operator_sees_a_model_whose_scores_are_nan(server, grpc_client):
    """NaN scores are counted per model, whichever outputs were requested; the metric exists from the first search on."""

    def counted():
        return samples(get(server.rest_port, "/metrics"))[':nann:nan_scores{model_name="awkward"}']

    grpc_client.predict("retrieve", FEATURES)
    before = counted()
    grpc_client.predict("retrieve", FEATURES)
    assert counted() == before
    broken = {**FEATURES, "factor": np.array([1, -1, -1], np.float32)}
    grpc_client.predict("retrieve", broken)
    grpc_client.predict("retrieve_rounds", broken)
    assert counted() == before + 4 * ITEMS


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("signature", ["retrieve", "retrieve_trace", "retrieve_rounds", "serving_default"])
def test_features_that_are_not_finite_are_refused(servable, signature, value):
    """NaN used to give the ids in the order of the table, without an error. First contact, line 10."""
    vector = USERS.copy()
    vector[1, 2:] = value
    with pytest.raises(ServingError, match=r"vector holds NaN or infinity, allowed are finite.*\[2\]"):
        servable.signature(signature).run({**FEATURES, "vector": vector})


def test_a_feature_may_be_allowed_nan(servable, tmp_path, exported):
    """A model that handles missing values itself receives NaN. First contact, line 10."""
    missing = servable.signature("retrieve").run({**FEATURES, "age": np.full([3, 1], math.nan, np.float32)})
    zero = servable.signature("retrieve").run({**FEATURES, "age": np.zeros([3, 1], np.float32)})
    np.testing.assert_array_equal(missing["scores"], zero["scores"])
    with pytest.raises(
        NannError, match="allowed in 'ages', which is not a feature of floats; the model has vector, age"
    ):
        export(
            Awkward(),
            exported.parents[1] / "index",
            tmp_path / "1",
            options=ExportOptions(measure=False, allow_non_finite=["ages"]),
        )


def test_the_original_s_request_must_be_finite(nann_server):
    """Half precision overflows beyond 65504; such a request is refused, and the server answers the next one.

    First contact, line 10.
    """
    request = {"comm_seq": np.zeros([1, 3200], np.float16), "level_topn": np.full([6], 20, np.int32)}
    with Client(nann_server.target, "nann") as client:
        broken = request["comm_seq"].copy()
        broken[0, :5] = [np.nan, np.inf, -np.inf, 1, 2]
        with pytest.raises(NannError, match=r"INVALID_ARGUMENT: .*comm_seq holds NaN or infinity.*\[3\]"):
            client.predict("serving_default", {**request, "comm_seq": broken})
        assert client.predict("serving_default", request)["top_k"].shape == (1, 20)


def test_row_form_answers_as_column_form(post):
    """In row form, `instances` repeat the parameters for every user. First contact, line 23."""
    status, by_columns = post(columns())
    assert status == 200
    status, by_rows = post(rows())
    assert status == 200, by_rows
    for place, row in enumerate(by_rows["predictions"]):
        assert row == {key: value[place] for key, value in by_columns["outputs"].items()}
    status, one = post(rows(1))
    assert status == 200 and one["predictions"] == by_rows["predictions"][:1]


def test_rows_have_exclusions_and_seeds_of_their_own(post):
    """An input with one row per user in column form is a list in each instance in row form. First contact, line 23."""
    gone = ordered(USERS)[0][:, :2]
    status, answer = post(rows(exclude=gone.tolist(), seeds=[[int(IDS[0])]] * 3, k=[ITEMS - 2] * 3))
    assert status == 200, answer
    for row, ids in zip(answer["predictions"], ordered(USERS)[0], strict=True):
        assert row["item_ids"] == ids[2:].tolist() and row["num_results"] == ITEMS - 2
    status, text = post(rows(exclude=[[1], [1, 2], [1]]))
    assert status == 400 and "Expecting tensor size: 1 but got: 2" in text  # TensorFlow Serving's own words.


def test_row_form_of_the_paper_s_search(post):
    """In row form, the list parameters `ef` and `rounds` arrive with the shape [B, layers]. First contact, line 23."""
    parameters = {"ef": [20] * LAYERS, "rounds": [1, 5, 5]}
    dropped = ("frontier", "pool", "max_steps")
    by_columns = columns(**parameters)["inputs"]
    by_columns = {key: value for key, value in by_columns.items() if key not in dropped}
    status, wanted = post({"signature_name": "retrieve_rounds", "inputs": by_columns})
    assert status == 200, wanted
    body = rows(**{key: [value] * 3 for key, value in parameters.items()})["instances"]
    instances = [{key: value for key, value in one.items() if key not in dropped} for one in body]
    status, found = post({"signature_name": "retrieve_rounds", "instances": instances})
    assert status == 200, found
    assert [row["item_ids"] for row in found["predictions"]] == wanted["outputs"]["item_ids"]
    instances[1]["ef"] = [19] * LAYERS
    status, text = post({"signature_name": "retrieve_rounds", "instances": instances})
    assert status == 400 and "ef must be given once, or once for every user and equal" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": [10, 20, 10]}, "k must be given once, or once for every user and equal; k:] [10 20 10] [users:] [3]"),
        ({"pool": [20, 20, 21]}, "pool must be given once"),
        ({"max_steps": [1, 0, 0]}, "max_steps must be given once"),
        ({"budget": [0, 1, 0]}, "budget must be given once"),
        ({"deadline_ms": [0, 0, 9]}, "deadline_ms must be given once"),
        ({"k": [0, 0, 0]}, "k is 0, allowed are 1 to"),
        ({"k": [10.0, 10.0, 10.0]}, "Type: Number is not of expected type: int32"),
        ({"k": [1 << 40] * 3}, "Type: Number is not of expected type: int32"),
        ({"vector": [[0.0] * DIM, [0.0] * DIM, [math.nan] * DIM]}, "vector holds NaN or infinity"),
    ],
)
def test_rows_that_are_refused(post, changes, words):
    """All users of a request must have the same k; the error has the values that were sent. First contact, line 23."""
    status, text = post(rows(**changes))
    assert status == 400 and words in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": np.array([3, 3], np.int32)}, "[k must be given once, or once for every user and equal; k:] [3 3]"),
        ({"k": np.array([], np.int32)}, "k must be given once"),
        ({"k": np.array(3, np.int64)}, "Expects arg"),
        ({"k": np.array(3.0, np.float32)}, "Expects arg"),
    ],
)
def test_parameters_that_are_refused_by_grpc(grpc_client, changes, words):
    """Unlike REST, gRPC allows any shape. First contact, line 23."""
    with pytest.raises(NannError) as refused:
        grpc_client.predict("retrieve", {**FEATURES, **changes})
    assert "INVALID_ARGUMENT" in str(refused.value) and words in str(refused.value)


@pytest.mark.parametrize("ef", [7, [[7] * (LAYERS + 1)] * 3, [[[7] * LAYERS] * 3], np.zeros([3, 0]), []])
def test_beams_of_other_shapes_are_refused(servable, ef):
    """Scalars, lists of another length and three dimensions are refused with the parameter's name.

    First contact, line 23.
    """
    with pytest.raises(ServingError, match="ef"):
        servable.signature("retrieve_rounds").run({**FEATURES, "ef": np.asarray(ef, np.int32)})


@pytest.mark.parametrize("signature", ["retrieve", "retrieve_rounds", "retrieve_trace"])
@pytest.mark.parametrize(
    ("name", "sent", "wanted"),
    [
        ("vector", np.float32(1), rf"[?, {DIM}]"),
        ("vector", np.ones([DIM], np.float32), rf"[?, {DIM}]"),
        ("age", np.float32(1), "[?, 1]"),
        ("factor", np.float32(1), "[?]"),
        ("factor", np.ones([3, 2], np.float32), "[?]"),
        ("seeds", np.int64(1), "[?, ?]"),
        ("exclude", np.int64(1), "[?, ?]"),
        ("exclude", np.ones([3], np.int64), "[?, ?]"),
        ("exclude", np.ones([3, 1, 1], np.int64), "[?, ?]"),
    ],
)
def test_an_input_of_another_rank_is_refused_by_its_name(servable, signature, name, sent, wanted):
    """The error has the input, its shape and the wanted shape; a scalar, which has no rows, is refused too."""
    with pytest.raises(ServingError) as refused:
        servable.signature(signature).run({**FEATURES, name: sent})
    assert refused.value.code.name == "INVALID_ARGUMENT"
    assert f"{name} must have the shape {wanted}; got] [{' '.join(map(str, np.shape(sent)))}]" in refused.value.message


def test_no_ids_are_sent_in_any_shape(servable):
    """In REST's column form, [] has the shape [0] and [[]] the shape [1, 0]."""
    wanted = servable.signature("retrieve").run(FEATURES)["item_ids"]
    for shape in ([0], [0, 3], [1, 0], [3, 0]):
        none = {name: np.zeros(shape, np.int64) for name in ("seeds", "exclude")}
        np.testing.assert_array_equal(servable.signature("retrieve").run({**FEATURES, **none})["item_ids"], wanted)


def test_no_users_have_no_parameters(servable):
    """Without users, parameters in row form are empty and the defaults apply; REST refuses such a request.

    First contact, line 23.
    """
    none = {key: np.zeros([0, *value.shape[1:]], np.float32) for key, value in FEATURES.items()}
    for name, empty in (("retrieve", {"k": [0]}), ("retrieve_rounds", {"k": [0], "ef": [0, LAYERS]})):
        inputs = {key: np.zeros(shape, np.int32) for key, shape in empty.items()}
        assert servable.signature(name).run({**none, **inputs})["item_ids"].shape == (0, 10)


def test_a_client_s_deadline_counts_in_row_form_too(server, servable):
    """The deadline of each user is lowered to the time that the client waits. First contact, line 23."""
    from tfserving_ext.serving.inference import _stop_in_time

    for sent, wanted in (
        (np.zeros([3], np.int32), [2000] * 3),
        (np.full([3], 5000, np.int32), [2000] * 3),
        (np.full([3], 500, np.int32), [500] * 3),
        (np.array([0, 0, 9], np.int32), [0, 0, 9]),
        (np.array(0, np.int32), 2000),
    ):
        inputs = {"deadline_ms": sent}
        _stop_in_time(servable.signature("retrieve"), inputs, 2.0)
        assert inputs["deadline_ms"].tolist() == wanted


def test_metadata_say_that_the_shape_of_parameters_is_open(server):
    """Clients that build requests from the metadata see the types, and that the rank may vary.

    First contact, line 23.
    """
    with urllib.request.urlopen(f"http://127.0.0.1:{server.rest_port}/v1/models/awkward/metadata") as response:
        signatures = json.load(response)["metadata"]["signature_def"]["signature_def"]
    for name in ("k", "frontier", "pool", "max_steps", "budget", "deadline_ms"):
        found = signatures["retrieve"]["inputs"][name]
        assert found["tensor_shape"] == {"dim": [], "unknown_rank": True}
        assert found["dtype"] == ("DT_INT64" if name == "budget" else "DT_INT32")
    assert [dim["size"] for dim in signatures["retrieve"]["inputs"]["exclude"]["tensor_shape"]["dim"]] == ["-1", "-1"]


def test_rows_of_the_project_s_own_model(world, nann_server, post):
    """Histories are padded with -1 and categories are left empty, as docs/signatures.md shows.

    First contact, line 23.
    """
    history = world.sequences.ids_of(world.sequences.cases("test").histories[:3])
    parameters = {"k": 5, "frontier": 16, "pool": 20, "max_steps": 9, "exclude": [], "budget": 0, "deadline_ms": 0}
    instances = [{"item_history": row.tolist(), "category_history": [], **parameters} for row in history]
    port = int(nann_server.url.rsplit(":", 1)[1])
    status, found = post({"signature_name": "retrieve", "instances": instances}, "nann", port)
    assert status == 200, found
    by_columns = {**parameters, "item_history": history, "category_history": [[]], "exclude": [[]]}
    wanted = RestClient(nann_server.url, "nann").predict("retrieve", by_columns)
    assert [row["item_ids"] for row in found["predictions"]] == wanted["item_ids"].tolist()


def documented_requests():
    """The bodies of all curl commands in docs/start.md and docs/signatures.md."""
    texts = [(ROOT / name).read_text() for name in ("docs/start.md", "docs/signatures.md")]
    return [json.loads(body) for text in texts for body in re.findall(r"curl -s \S+ -d '([^']*)'", text)]


def test_the_documented_requests_are_answered(nann_server, post):
    """The documented requests are answered in both forms, although this index lacks their items.

    First contact, line 23.
    """
    port = int(nann_server.url.rsplit(":", 1)[1])
    forms = []
    for body in documented_requests():
        status, answer = post(body, "nann", port)
        assert status == 200, answer
        forms += answer
        found = answer.get("predictions") or [{"item_ids": ids} for ids in answer["outputs"]["item_ids"]]
        assert found and all(len(row["item_ids"]) == 5 for row in found)
    assert forms == ["outputs", "outputs", "predictions"]
