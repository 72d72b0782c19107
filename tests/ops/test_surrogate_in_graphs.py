"""The surrogate search in larger graphs: static shapes, saved modules, sessions, XLA and rewritten scorers."""

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.test_surrogate_requests import timeless
from tfserving_ext import ops
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.index.resource import MappedIndex
from tfserving_ext.retrieval import NeuralTopK

N, DIM, USERS = 800, 8, 5
WIDTHS = {"frontier": 4, "pool": 20, "batch": 16}


class Network(tf.Module):
    """A dense layer on a user vector and an item, with captured weights."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.hidden = tf.Variable(rng.normal(size=[2 * DIM, 16]).astype(np.float32) / 3)
        self.out = tf.Variable(rng.normal(size=[16]).astype(np.float32))

    def __call__(self, user: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        user = tf.broadcast_to(user[:, None], [1, tf.shape(items)[1], DIM])
        return tf.linalg.matvec(tf.tanh(tf.concat([user, items], axis=-1) @ self.hidden), self.out)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Index:
    rng = np.random.default_rng(8)
    embeddings = rng.normal(size=[20, DIM])[rng.integers(0, 20, N)] + 0.5 * rng.normal(size=[N, DIM])
    folder = tmp_path_factory.mktemp("graphs") / "index"
    return build_index(np.arange(N) + 500, embeddings.astype(np.float32), folder, Hnsw(threads=1))


@pytest.fixture(scope="module")
def index(built) -> MappedIndex:
    return MappedIndex(built)


@pytest.fixture(scope="module")
def users() -> tf.Tensor:
    return tf.constant(np.random.default_rng(6).normal(size=[USERS, DIM]), tf.float32)


class Searching(tf.Module):
    def __init__(self, index: MappedIndex) -> None:
        super().__init__()
        self.index, self.network = index, Network()

    @tf.function(input_signature=[tf.TensorSpec([None, DIM]), tf.TensorSpec([], tf.int32)])
    def search(self, users, k):
        scorer = ops.trace_scorer(self.network, [users], DIM)
        found, statistics = ops.surrogate_search(self.index.resource_handle, [users], scorer, k, **WIDTHS)
        return {**found._asdict(), **statistics._asdict()}


@pytest.fixture(scope="module")
def answer(index, users) -> dict[str, np.ndarray]:
    """The answer outside any graph."""
    scorer = ops.trace_scorer(Network(), [users], DIM)
    found, statistics = ops.surrogate_search(index.resource_handle, [users], scorer, 10, **WIDTHS)
    return {name: part.numpy() for name, part in {**found._asdict(), **statistics._asdict()}.items()}


def agree(found: dict[str, np.ndarray], answer: dict[str, np.ndarray]) -> None:
    """Scores may differ by rounding, where the scorer is compiled in another way."""
    assert set(found) == set(answer)
    for name, wanted in answer.items():
        if name.endswith("_us"):
            continue
        if wanted.dtype == np.float32:
            np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(found[name], wanted)


def test_it_evaluates_what_it_says(answer):
    assert (answer["item_ids"] >= 500).all()
    assert (answer["items_scored"] < N).all()
    assert (answer["candidates"] >= answer["items_scored"]).all()
    assert (answer["estimated_coverage"] > 0).any()
    assert (answer["prediction_error"] > 0).all()
    assert answer["fell_back"].dtype == bool


@pytest.mark.parametrize(("batch", "k"), [(3, 7), (None, 7), (3, None)])
def test_shapes_are_static_where_they_are_known(index, batch, k):
    seen, network = [], Network()

    @tf.function(input_signature=[tf.TensorSpec([batch, DIM]), tf.TensorSpec([], tf.int32)])
    def search(users, some_k):
        scorer = ops.trace_scorer(network, [users], DIM)
        found, statistics = ops.surrogate_search(index.resource_handle, [users], scorer, k or some_k, **WIDTHS)
        seen.append([part.shape.as_list() for part in (*found, *statistics)])
        seen.append([part.dtype for part in statistics])
        return found

    search.get_concrete_function()
    assert seen == [[[batch, k]] * 2 + [[batch]] * 15, [tf.int64, tf.float32, tf.float32, tf.bool]]


@pytest.mark.parametrize("name", ["k", "max_steps", "batch", "expected_coverage"])
def test_a_parameter_that_is_no_scalar_is_refused_when_traced(index, users, name):
    scorer = ops.trace_scorer(Network(), [users], DIM)

    @tf.function
    def search(users):
        return ops.surrogate_search(index.resource_handle, [users], scorer, **{"k": 3, **WIDTHS, name: [1]})[0]

    with pytest.raises(ValueError, match="Shape must be rank 0 but is rank 1"):
        search(users)


def test_in_a_function_and_in_a_saved_module(index, users, answer, tmp_path):
    module = Searching(index)
    agree({name: part.numpy() for name, part in module.search(users, 10).items()}, answer)
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"search": module.search})
    (tmp_path / "saved").rename(tmp_path / "moved")
    loaded = tf.saved_model.load(str(tmp_path / "moved"))
    agree({name: part.numpy() for name, part in loaded.search(users, 10).items()}, answer)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "moved")).signature_def["search"]
        feed = {signature.inputs["users"].name: users.numpy(), signature.inputs["k"].name: 10}
        agree(session.run({name: info.name for name, info in signature.outputs.items()}, feed), answer)


def test_a_rewritten_scorer_answers_alike(index, users, answer):
    traced = ops.trace_scorer(Network(), [users], DIM)
    rewritten = ops.rewrite_scorer(traced, [users], DIM).scorer
    for scorer, options in ((rewritten, {}), (traced, {"rewrite": False})):
        found, statistics = ops.surrogate_search(index.resource_handle, [users], scorer, 10, **WIDTHS, **options)
        agree({name: part.numpy() for name, part in {**found._asdict(), **statistics._asdict()}.items()}, answer)


def test_a_scorer_that_xla_compiles_answers_alike(index, users, answer):
    scorer = ops.trace_scorer(Network(), [users], DIM, xla=True)
    found, statistics = ops.surrogate_search(
        index.resource_handle, [users], scorer, 10, **WIDTHS, batch_sizes=(16, 64, 256)
    )
    agree({name: part.numpy() for name, part in {**found._asdict(), **statistics._asdict()}.items()}, answer)


def test_under_a_metric(index, users):
    """The metric is that of the features, up to their rounding, so that few evaluations suffice."""
    found, statistics = ops.surrogate_search(index.resource_handle, [users], "dot", 10, **WIDTHS)
    embeddings = ops.index_gather(index.resource_handle, np.arange(N), DIM).numpy()
    best = np.argsort(-users.numpy() @ embeddings.T, axis=1)[:, :10] + 500
    shares = [np.isin(row, ids).mean() for row, ids in zip(best, found.item_ids.numpy(), strict=True)]
    assert np.mean(shares) > 0.9
    assert found.items_scored.numpy().mean() < N / 2
    assert not statistics.fell_back.numpy().any()


def test_by_the_layer(built, users, answer):
    network = Network()
    layer = NeuralTopK(built, lambda user, items: network(user[0], items))
    found = layer.surrogate((users,), k=10, **WIDTHS)
    wanted = {name: part for name, part in answer.items() if not name.endswith("_us")}
    for part, name in zip(
        timeless(tuple(type(each)(*(x.numpy() for x in each)) for each in found)), wanted, strict=True
    ):
        np.testing.assert_allclose(part.astype(np.float64), wanted[name].astype(np.float64), rtol=1e-5, atol=1e-5)
