"""What requests carry and what they are answered, by gRPC, by REST in both its forms, and in a session."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf

from export_tools import Defaults, export
from tfserving_ext.index import build_index
from tfserving_ext.serving import GrpcClient, LocalServer, ServerOptions
from tfserving_ext.serving.models import load_servable

ROOT = Path(__file__).parents[2]
ITEMS, DIM = 7, 4  # Fewer items than are asked for.
LAYERS = 3
IDS = np.arange(ITEMS) * 11 + 100
TABLE = np.random.default_rng(2).normal(size=[ITEMS, DIM]).astype(np.float32)
# As REST has to send it: all inputs.
FULL = {
    "k": 10,
    "frontier": 4,
    "pool": 20,
    "max_steps": 1000,
    "budget": 0,
    "deadline_ms": 0,
    "seeds": [[]],
    "exclude": [[]],
}
USERS = np.random.default_rng(3).normal(size=[3, DIM]).astype(np.float32)
FEATURES = {"vector": USERS, "age": np.ones([3, 1], np.float32), "factor": np.ones([3], np.float32)}


class Awkward(tf.Module):
    """Dot products, plus the logarithm of `factor`: of 0 all scores are -infinity, of -1 all are NaN.

    `age` may be NaN, and counts as 0 then.
    """

    features: ClassVar = {
        "vector": tf.TensorSpec([None, DIM]),
        "age": tf.TensorSpec([None, 1]),
        "factor": tf.TensorSpec([None]),
    }

    def user(self, features):
        age = tf.where(tf.math.is_finite(features["age"]), features["age"], 0.0)
        return features["vector"], age, tf.math.log(features["factor"])[:, None]

    def score(self, user, items):
        vector, age, logarithm = user
        return tf.einsum("bd,bnd->bn", vector, items) + age + logarithm


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("awkward")
    build_index(IDS, TABLE, root / "index", threads=1)
    return export(Awkward(), root / "index", root / "awkward" / "1", Defaults(k=10))


@pytest.fixture(scope="module")
def server(exported):
    with LocalServer({"awkward": exported.parent}, ServerOptions(grpc_port=0, rest_port=0)) as running:
        yield running


@pytest.fixture(scope="module")
def grpc_client(server):
    with GrpcClient(f"127.0.0.1:{server.grpc_port}", "awkward") as client:
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


def columns(**changes):
    return {"signature_name": "retrieve", "inputs": {**FULL, **FEATURES, **changes}}


def ordered(users):
    """Ids and scores of all items, best first, in NumPy; an age of 1 is added to each score."""
    scores = users @ TABLE.T + 1
    order = np.argsort(-scores, axis=1)
    return IDS[order], np.take_along_axis(scores, order, axis=1)


def check_short(answer, users=USERS):
    """The answer of ten where there are seven."""
    ids, scores = ordered(users)
    answer = {key: np.asarray(value) for key, value in answer.items()}
    np.testing.assert_array_equal(answer["item_ids"], np.pad(ids, [(0, 0), (0, 3)], constant_values=-1))
    np.testing.assert_allclose(answer["scores"][:, :ITEMS], scores, rtol=1e-5)
    assert (answer["scores"][:, ITEMS:].astype(np.float32) == np.finfo(np.float32).min).all()
    assert answer["num_results"].tolist() == [ITEMS] * len(users)
    assert answer["nan_scores"].tolist() == [0] * len(users)


def test_places_without_an_item_are_counted_and_are_json(exported, grpc_client, post):
    """First contact, line 9: the op's -infinity is no JSON; every number of an answer is finite, on every road."""
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
    }
    loaded = tf.saved_model.load(str(exported))  # Held: a signature alone does not keep the index open.
    dtypes = {"budget": tf.int64, "seeds": tf.int64, "exclude": tf.int64}
    full = {key: tf.constant(value, dtypes.get(key, tf.int32)) for key, value in FULL.items()}
    check_short(loaded.signatures["retrieve"](**full, **{key: tf.constant(value) for key, value in FEATURES.items()}))


def test_scores_that_are_infinite_or_nan_are_json_too(servable, post):
    """First contact, lines 9 and 10: what a model makes of its features is finite in JSON, and NaN is counted."""
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
