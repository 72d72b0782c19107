"""Searches of an index whose ids are texts answer what those of the same index with numbers answer."""

import numpy as np
import pytest
import tensorflow as tf

from tests.text_ids import UNKNOWN, spell, twin
from tfserving_ext.evaluation import user_tensors
from tfserving_ext.index import Index
from tfserving_ext.retrieval import BruteForce, NeuralTopK, coverage
from tfserving_ext.training import load_model

K = 9
SEARCHES = {
    "best_first": lambda search, user, **ids: search.best_first(user, K, **ids),
    "surrogate": lambda search, user, **ids: search.surrogate(user, K, **ids)[0],
    "rounds": lambda search, user, **ids: search.rounds(user, K, ef=[60, 60, 60], **ids),
    "deployed": lambda search, user, **ids: search.deployed(user, tf.constant([60, 60, 60, 60, 60, K]), **ids),
    "more than there are": lambda search, user, **ids: search.best_first(user, 700, **ids),
}


@pytest.fixture(scope="module")
def parts(world, tmp_path_factory):
    trained, index = load_model(world.model), Index.open(world.index)
    user = [part[:6] for part in user_tensors(trained, world.sequences, world.sequences.cases("test"))]
    return trained.model.score, user, index, twin(index, tmp_path_factory.mktemp("text") / "index")


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("given", [(), ("seeds",), ("exclude",), ("seeds", "exclude")])
def test_every_search_is_the_same_by_text(parts, name, given):
    score, user, index, keyed = parts
    rng = np.random.default_rng(3)
    ids = {what: rng.choice([*index.item_ids, UNKNOWN, -1], [len(user[0]), 40]) for what in given}
    by_number = SEARCHES[name](NeuralTopK(index, score), user, **ids)
    by_text = SEARCHES[name](NeuralTopK(keyed, score), user, **{what: spell(one) for what, one in ids.items()})
    np.testing.assert_array_equal(by_text.item_ids.numpy(), spell(by_number.item_ids.numpy()))
    for statistic in ("scores", "items_scored", "rounds", "unknown_ids", "stopped"):
        np.testing.assert_array_equal(getattr(by_text, statistic), getattr(by_number, statistic))


def test_numbers_are_still_taken(parts):
    score, user, index, keyed = parts
    ids = np.asarray(index.item_ids)[None, :5]
    found = [NeuralTopK(one, score).best_first(user, K, exclude=np.repeat(ids, 6, 0)) for one in (index, keyed)]
    np.testing.assert_array_equal(found[1].item_ids.numpy(), spell(found[0].item_ids.numpy()))


def test_brute_force_and_coverage_know_texts(parts):
    score, user, index, keyed = parts
    exact = [BruteForce(one, score)(user, K + 600)[1].numpy() for one in (index, keyed)]
    np.testing.assert_array_equal(exact[1], spell(exact[0]))
    found = NeuralTopK(keyed, score)(user, K + 600)[1].numpy()
    assert coverage(found[:, :K], exact[1][:, :K]).mean() > 0.9
    assert coverage(exact[1], exact[1]).tolist() == coverage(exact[0], exact[0]).tolist() == [1.0] * 6


def test_texts_for_an_index_of_numbers_are_refused(parts):
    score, user, index, _ = parts
    with pytest.raises(tf.errors.InvalidArgumentError, match="the index has no keys: its ids are numbers"):
        NeuralTopK(index, score).best_first(user, K, exclude=spell(np.ones([6, 1], int)))
