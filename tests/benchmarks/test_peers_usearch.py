import ctypes

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.search.peers import Workload
from benchmarks.search.peers.usearch_numba import UsearchNumba
from benchmarks.search.peers.usearch_tuned import UsearchTuned
from tfserving_ext.evaluation import user_tensors
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.models import NannAttentionConfig
from tfserving_ext.retrieval import BruteForce
from tfserving_ext.training import TrainingConfig, extract, fit, load_model

pytestmark = pytest.mark.slow

CASES = 6
FLOATS = ctypes.POINTER(ctypes.c_float)


@pytest.fixture(scope="module", params=["as_the_original", "matches_and_pools"])
def workload(request, world, tmp_path_factory):
    if request.param == "as_the_original":
        trained, index = load_model(world.model), Index.open(world.index)
    else:
        folder = tmp_path_factory.mktemp("model")
        sizes = NannAttentionConfig(history_length=60, attention_length=40, matches=3, pools=4)
        fit(world.data, folder / "model", TrainingConfig(steps=20, batch_size=32, negatives=20), sizes)
        extract(folder / "model", folder / "embeddings")
        arrays = (np.load(folder / "embeddings" / f"{name}.npy") for name in ("item_ids", "item_embs"))
        trained, index = load_model(folder / "model"), build_index(*arrays, folder / "index", Hnsw(threads=1))
    cases = world.sequences.cases("test", 1, trained.model.config.history_length)
    user = tuple(tensor[:CASES] for tensor in user_tensors(trained, world.sequences, cases))
    histories, targets = (world.sequences.ids_of(rows[:CASES]) for rows in (cases.histories, cases.targets))
    exact = BruteForce(index, trained.model.score)(user, 20)[1].numpy()
    scratch = tmp_path_factory.mktemp("scratch")
    return Workload(trained, world.sequences, index, user, histories, targets, exact, 20, 1, scratch)


@pytest.fixture(scope="module", params=[UsearchNumba, UsearchTuned])
def peer(request, workload):
    return request.param(workload)


def test_the_metric_is_the_models_score(workload, peer):
    embeddings = np.ascontiguousarray(workload.index.embeddings())
    rows = np.random.default_rng(0).integers(len(embeddings), size=[CASES, 50])
    wanted = workload.trained.model.score(workload.user, tf.constant(embeddings[rows])).numpy()
    got = np.zeros_like(wanted)
    query = np.zeros(embeddings.shape[1], np.float32)
    for user in range(CASES):
        query[0] = user
        for place, row in enumerate(rows[user]):
            got[user, place] = -peer.metric.ctypes(*(x.ctypes.data_as(FLOATS) for x in (query, embeddings[row])))
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_wide_search_answers_as_brute_force_does(workload, peer):
    np.testing.assert_array_equal(peer(0, CASES, 600), workload.exact)


def test_the_cases_asked_for_are_the_ones_answered(workload, peer):
    np.testing.assert_array_equal(peer(4, 5, 600), workload.exact[4:5])
