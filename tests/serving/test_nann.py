"""The exported model behind the local server: the same answers by every API, and requests that are refused."""

import concurrent.futures
import importlib.util
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.serving import Client, RestClient, smoke

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def request_inputs(world):
    """The histories of three users, and all other inputs, as a REST client must send them."""
    history = world.sequences.ids_of(world.sequences.cases("test").histories[:3])
    return {
        "item_history": history,
        "category_history": np.zeros([1, 0], np.int64),
        "k": np.int32(10),
        "frontier": np.int32(4),
        "pool": np.int32(20),
        "max_steps": np.int32(1000),
        "exclude": np.zeros([1, 0], np.int64),
        "budget": np.int64(0),
        "deadline_ms": np.int32(0),
    }


@pytest.fixture
def grpc_client(nann_server):
    with Client(nann_server.target, "nann") as client:
        yield client


@pytest.fixture
def rest_client(nann_server):
    return RestClient(nann_server.url, "nann")


def test_the_same_answer_by_grpc_by_rest_and_in_process(world, request_inputs, grpc_client, rest_client):
    by_grpc = grpc_client.predict("retrieve", request_inputs)
    by_rest = rest_client.predict("retrieve", request_inputs)
    loaded = tf.saved_model.load(str(world.saved_model))
    answer = loaded.signatures["retrieve"](**{key: tf.constant(value) for key, value in request_inputs.items()})
    for name in ("item_ids", "scores", "items_scored", "rounds", "stopped"):
        np.testing.assert_array_equal(by_grpc[name], answer[name].numpy())
        np.testing.assert_array_equal(by_rest[name].astype(by_grpc[name].dtype), by_grpc[name])
    assert by_grpc["item_ids"].shape == (3, 10)
    assert np.isin(by_grpc["item_ids"], world.sequences.item_ids).all()


def test_a_trace_has_the_same_answer_by_grpc_and_by_rest(request_inputs, grpc_client, rest_client):
    expected = grpc_client.predict("retrieve", request_inputs)
    for client in (grpc_client, rest_client):
        found = client.predict("retrieve_trace", request_inputs)
        for name, value in expected.items():
            np.testing.assert_array_equal(found.pop(name).astype(value.dtype), value)
        assert set(found) == {"user_us", "walk_us", "gather_us", "scorer_us", "merge_us"}
        assert all(value.shape == (3,) and (value >= 0).all() for value in found.values())


def test_what_has_a_default_may_be_left_out(request_inputs, grpc_client):
    history = {"item_history": request_inputs["item_history"]}
    found = grpc_client.predict("retrieve", history)
    assert found["item_ids"].shape == (3, 20)  # The k of the export.
    full = {"frontier": np.int32(16), "pool": np.int32(200), "k": np.int32(20)}
    np.testing.assert_array_equal(grpc_client.predict("retrieve", history | full)["item_ids"], found["item_ids"])


def test_exclusions(request_inputs, grpc_client, rest_client):
    first = grpc_client.predict("retrieve", request_inputs)["item_ids"]
    excluded = request_inputs | {"exclude": first[:1, :3]}  # One row for all users.
    for client in (grpc_client, rest_client):
        assert not np.isin(client.predict("retrieve", excluded)["item_ids"], first[0, :3]).any()


def test_a_budget_is_kept_and_said(request_inputs, grpc_client):
    found = grpc_client.predict("retrieve", request_inputs | {"budget": np.int64(30)})
    assert found["items_scored"].tolist() == [30, 30, 30]
    assert found["stopped"].tolist() == [1, 1, 1]


def test_a_walk_that_max_steps_cut_says_so_and_without_a_limit_k_may_be_the_corpus(
    world, request_inputs, grpc_client, rest_client
):
    """A walk that the limit cut short does not report itself as complete, and a request can lift the limit.

    First contact, line 8.
    """
    items = world.sequences.item_ids
    whole = request_inputs | {"k": np.int32(len(items)), "frontier": np.int32(1)}
    for client in (grpc_client, rest_client):
        cut = client.predict("retrieve", whole | {"max_steps": np.int32(5)})
        assert cut["stopped"].tolist() == [3, 3, 3]
        assert (cut["item_ids"][:, -1] == -1).all()
        full = client.predict("retrieve", whole | {"max_steps": np.int32(0)})
        assert full["stopped"].tolist() == [0, 0, 0]
        for row in full["item_ids"]:
            np.testing.assert_array_equal(np.sort(row), items)
        # The exact number of steps suffices, one less does not.
        steps = [np.int32(len(items)), np.int32(len(items) - 1)]
        for most, stopped in zip(steps, (0, 3), strict=True):
            assert (client.predict("retrieve", whole | {"max_steps": most})["stopped"] == stopped).all()


def test_the_paper_s_search_has_a_signature_too(world, request_inputs, grpc_client):
    history = {"item_history": request_inputs["item_history"]}
    wide = {"ef": np.array([600, 600, 600], np.int32), "rounds": np.array([1, 20, 20], np.int32)}
    by_rounds = grpc_client.predict("retrieve_rounds", history | wide)
    best_first = grpc_client.predict("retrieve", history | {"pool": np.int32(600)})
    # Both walk nearly all of so small a corpus.
    agree = [len(set(a) & set(b)) / 20 for a, b in zip(by_rounds["item_ids"], best_first["item_ids"], strict=True)]
    assert min(agree) >= 0.9


def test_unknown_ids_count_as_missing(request_inputs, grpc_client):
    strangers = request_inputs | {"item_history": np.array([[-5, 0, 2**62]])}
    nobody = request_inputs | {"item_history": np.zeros([1, 0], np.int64)}
    found = grpc_client.predict("retrieve", strangers)
    np.testing.assert_array_equal(found["item_ids"], grpc_client.predict("retrieve", nobody)["item_ids"])
    assert np.isfinite(found["scores"]).all()


def retrieve(**changes):
    return "retrieve", changes


def by_rounds(**changes):
    history = {"item_history": np.zeros([2, 3], np.int64)}
    return "retrieve_rounds", history | changes


def deployed(level_topn, width=3200, dtype=np.float16):
    return "serving_default", {"comm_seq": np.zeros([1, width], dtype), "level_topn": np.array(level_topn, np.int32)}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (deployed([100, 200, 200, 200, 200, -1]), "level_topn[5] is -1, allowed are 1 to"),
        (deployed([100, 200, 200, 200, 200, 0]), "level_topn[5] is 0, allowed are 1 to"),
        (deployed([100, 200, 200, 200, 200, 6_000_000]), "level_topn[5] is 6000000, allowed are 1 to"),
        (deployed([-1, 200, 200, 200, 200, 200]), "is -1, allowed are 1 to"),
        (deployed([100, 0, 200, 200, 200, 200]), "is 0, allowed are 1 to"),
        (deployed([100, 200, 6_000_000, 200, 200, 200]), "is 6000000, allowed are 1 to"),
        (deployed([]), ""),
        (deployed([100]), ""),
        (deployed([100, 200, 200, 200, 200, 200], width=320), "comm_seq must have the shape [1, 3200]; got] [1 320]"),
        (
            ("serving_default", {**deployed([100, *[200] * 5])[1], "comm_seq": np.float16(1)}),
            "comm_seq must have the shape [1, 3200]; got] []",
        ),
        (deployed([100, 200, 200, 200, 200, 200], dtype=np.float32), "Expects arg[0] to be half but float is provided"),
        (retrieve(k=np.int32(0)), "k is 0, allowed are 1 to"),
        (retrieve(k=np.int32(-7)), "k is -7, allowed are 1 to"),
        (retrieve(k=np.int32(2_000_000_000)), "k is 2000000000, allowed are 1 to"),
        (retrieve(k=np.array([3, 4], np.int32)), ""),
        (retrieve(frontier=np.int32(0)), "frontier is 0, allowed are 1 to"),
        (retrieve(pool=np.int32(-1)), "pool is -1, allowed are 1 to"),
        (retrieve(max_steps=np.int32(-1)), "max_steps is -1, allowed are 1 to 10000, and 0 for no limit"),
        (retrieve(pool=np.int32(6_000_000)), "pool is 6000000, allowed are 1 to"),
        (retrieve(budget=np.int64(-1)), "budget is -1"),
        (retrieve(deadline_ms=np.int32(-1)), "deadline_ms is -1"),
        (by_rounds(ef=np.array([10, 20], np.int32)), "ef has 2 entries"),
        (by_rounds(ef=np.array([10, 20, 0], np.int32)), "is 0, allowed are 1 to"),
        (by_rounds(rounds=np.array([1, 1, 2_000_000], np.int32)), "is 2000000, allowed are"),
        (retrieve(item_history=np.zeros([2000, 3], np.int64)), "too many users, at most 1024"),
        (retrieve(item_history=np.zeros([3], np.int64)), "item_history must have the shape [?, ?]; got] [3]"),
        (retrieve(item_history=np.int64(3)), "item_history must have the shape [?, ?]; got] []"),
        (retrieve(exclude=np.int64(3)), "exclude must have the shape [?, ?]; got] []"),
        (retrieve(exclude=np.zeros([3], np.int64)), "exclude must have the shape [?, ?]; got] [3]"),
        (retrieve(category_history=np.zeros([3, 2], np.int64)), "category_history must have the shape of item_history"),
        (retrieve(exclude=np.zeros([2, 4], np.int64)), "exclude must have one row per user, or one row for all"),
    ],
)
def test_refuses_and_goes_on(request_inputs, grpc_client, rest_client, request_, words):
    signature, inputs = request_
    if signature == "retrieve":
        inputs = request_inputs | inputs
    with pytest.raises(NannError) as refused:
        grpc_client.predict(signature, inputs)
    assert "answered INVALID_ARGUMENT" in str(refused.value)
    assert words in str(refused.value)
    if signature == "retrieve":
        with pytest.raises(NannError, match="answered 400"):
            rest_client.predict(signature, inputs)
    assert grpc_client.predict("retrieve", request_inputs)["item_ids"].shape == (3, 10)


def test_many_requests_at_once(request_inputs, grpc_client, rest_client):
    expected = grpc_client.predict("retrieve", request_inputs)["item_ids"]
    bad = request_inputs | {"k": np.int32(0)}

    def ask(number):
        client = (grpc_client, rest_client)[number % 2]
        if number % 5 == 0:
            with pytest.raises(NannError):
                client.predict("retrieve", bad)
            return expected
        return client.predict("retrieve", request_inputs)["item_ids"]

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        for found in pool.map(ask, range(40)):
            np.testing.assert_array_equal(found, expected)


def test_the_smoke_client(world, nann_server):
    top_k = smoke(nann_server.target, "nann")["top_k"]
    assert (top_k.shape, top_k.dtype) == ((1, 200), np.int64)
    assert np.isin(top_k, world.sequences.item_ids).all()
    assert len(set(top_k[0].tolist())) == 200


def test_the_original_s_smoke_client(nann_server):
    """The example is the original's script; only the port is a parameter."""
    spec = importlib.util.spec_from_file_location("original_smoke_client", EXAMPLES / "original_smoke_client.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    top_k = script.main(urlsplit(f"//{nann_server.target}").port)
    np.testing.assert_array_equal(top_k, smoke(nann_server.target, "nann")["top_k"])


def test_the_smoke_client_takes_any_model(toy_server):
    assert smoke(toy_server.target, "half_plus") == {"y": [2.5]}
    with pytest.raises(NannError, match="NOT_FOUND"):
        smoke(toy_server.target, "nobody")


def test_the_smoke_example(nann_server, world):
    spec = importlib.util.spec_from_file_location("smoke_client", EXAMPLES / "smoke_client.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    history = np.asarray(world.sequences.item_ids)[:3].tolist()
    found = script.ask(nann_server.target, history, 5)
    with Client(nann_server.target, "nann") as client:
        expected = client.predict("retrieve", {"item_history": np.array([history]), "k": np.int32(5)})["item_ids"]
    np.testing.assert_array_equal(found, expected)


def test_clients_name_who_does_not_answer(request_inputs):
    with (
        Client("127.0.0.1:1", "nann") as client,
        pytest.raises(NannError, match=r"no server answers at 127.0.0.1:1"),
    ):
        client.predict("retrieve", request_inputs)
    with pytest.raises(NannError, match=r"no server answers at http://127.0.0.1:1/"):
        RestClient("http://127.0.0.1:1", "nann").predict("retrieve", request_inputs)
    with pytest.raises(NannError, match="url is 'ftp://x'"):
        RestClient("ftp://x", "nann")


def test_clients_say_what_was_refused(nann_server, request_inputs):
    with (
        Client(nann_server.target, "other") as client,
        pytest.raises(NannError, match=r"NOT_FOUND: .*Latest\(other\)"),
    ):
        client.predict("retrieve", request_inputs)
    with pytest.raises(NannError, match=r"answered 404: .*Latest\(other\)"):
        RestClient(nann_server.url, "other").predict("retrieve", request_inputs)
