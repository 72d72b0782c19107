import numpy as np
import pytest

from benchmarks.search.peers.two_sided_rerank import TwoSidedRerank
from tfserving_ext.retrieval import coverage
from tfserving_ext.training import TrainingConfig

QUICK = TrainingConfig(steps=30, batch_size=32, negatives=50, epsilon=0.0)


@pytest.fixture(scope="module")
def peer(workload) -> TwoSidedRerank:
    return TwoSidedRerank(workload, QUICK)


def test_all_items_reranked_are_brute_force(workload, peer):
    assert coverage(peer(0, 24, 10**6), workload.exact).mean() > 0.99


def test_few_candidates_are_the_two_sided_models_own(workload, peer):
    """With n = k, the model can only sort the candidates, not choose among them."""
    found = peer(0, 24, workload.k)
    hits = (found == workload.targets[:, None]).any(axis=1).mean()
    assert peer.recall_all() == pytest.approx(hits)
    scores = workload.trained.model.score(workload.user, workload.index.embeddings()[None]).numpy()
    places = np.searchsorted(workload.index.item_ids, found)
    assert (np.diff(np.take_along_axis(scores, places, axis=1), axis=1) <= 1e-5).all()


def test_a_later_run_takes_the_trained_model(workload, peer):
    weights = (workload.scratch / "two_sided" / "weights.index").stat().st_mtime_ns
    again = TwoSidedRerank(workload, QUICK)
    np.testing.assert_array_equal(again(2, 5, 50), peer(2, 5, 50))
    assert (workload.scratch / "two_sided" / "weights.index").stat().st_mtime_ns == weights
    TwoSidedRerank(workload, TrainingConfig(steps=2, batch_size=32, negatives=50, epsilon=0.0))
    assert (workload.scratch / "two_sided" / "weights.index").stat().st_mtime_ns != weights
