import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import user_tensors
from tfserving_ext.index import Index
from tfserving_ext.retrieval import BestFirst, BruteForce, NeuralTopK, Rounds
from tfserving_ext.training import load_model


@pytest.fixture(scope="module")
def parts(world):
    trained, index = load_model(world.model), Index.open(world.index)
    user = user_tensors(trained, world.sequences, world.sequences.cases("test"))
    return trained, index, user


def exact_scores(trained, index, user):
    """Returns each user's scores of all items from one call, float32 [B, n]."""
    scores = [
        trained.model.score(tuple(part[b : b + 1] for part in user), tf.constant(index.item_embeddings)[None])[0]
        for b in range(user[0].shape[0])
    ]
    return np.stack([row.numpy() for row in scores])


@pytest.mark.parametrize("chunk", [64, 100_000])
def test_brute_force_is_the_sort_of_all_scores(parts, chunk):
    trained, index, user = parts
    scores = exact_scores(trained, index, user)
    result = BruteForce(index, trained.model.score, chunk=chunk).search(user, tf.constant(15))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :15]
    np.testing.assert_allclose(result.scores.numpy(), np.take_along_axis(scores, order, axis=1), rtol=1e-4, atol=1e-5)
    agree = (result.item_ids.numpy() == np.asarray(index.item_ids)[order]).mean()
    assert agree > 0.99  # Scores that differ in the last bit between batch sizes may swap neighbours.
    assert (result.items_scored.numpy() == len(index.item_ids)).all()


def test_brute_force_pads_beyond_the_corpus(parts):
    trained, index, user = parts
    n = len(index.item_ids)
    result = BruteForce(index, trained.model.score).search(user, tf.constant(n + 3))
    assert (result.item_ids.numpy()[:, n:] == -1).all()
    assert np.isneginf(result.scores.numpy()[:, n:]).all()
    assert sorted(result.item_ids.numpy()[0, :n]) == sorted(index.item_ids)


def test_wide_search_finds_what_brute_force_finds(parts):
    trained, index, user = parts
    exact = BruteForce(index, trained.model.score).search(user, tf.constant(20)).item_ids.numpy()
    result = NeuralTopK(index, trained.model.score).rounds(user, k=20, ef=[600, 600, 600], rounds=[1, 5, 20])
    found = result.item_ids.numpy()
    assert np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found, exact, strict=True)]) > 0.99
    assert (result.items_scored.numpy() <= len(index.item_ids)).all()


def test_narrower_search_scores_fewer_items(parts):
    trained, index, user = parts
    search = NeuralTopK(index, trained.model.score)
    narrow = search.rounds(user, k=5, ef=[5, 5, 10], rounds=[1, 1, 1]).items_scored.numpy()
    wide = search.rounds(user, k=5, ef=[100, 200, 400], rounds=[1, 1, 3]).items_scored.numpy()
    assert (narrow < wide).all()


def test_excluded_ids_are_never_returned(parts):
    trained, index, user = parts
    search = NeuralTopK(index, trained.model.score)
    before = search.best_first(user, k=20).item_ids.numpy()
    exclude = np.concatenate([before[:, :4], np.full([len(before), 1], 10**15)], axis=1)
    after = search.best_first(user, k=20, exclude=tf.constant(exclude)).item_ids.numpy()
    for row in range(len(before)):
        kept = [item for item in before[row] if item not in set(exclude[row])]
        assert after[row][: len(kept)].tolist() == kept


def test_search_and_brute_force_return_scores_and_ids(parts):
    trained, index, user = parts
    for layer, full in (
        (NeuralTopK(index, trained.model.score), lambda twin: twin.best_first(user, 7)),
        (BruteForce(index, trained.model.score), lambda twin: twin.search(user, 7)),
    ):
        scores, item_ids = layer(user, k=7)
        np.testing.assert_array_equal(item_ids, full(layer).item_ids)
        np.testing.assert_array_equal(scores, full(layer).scores)


def test_parameters_must_fit_the_index(parts):
    trained, index, _ = parts
    with pytest.raises(NannError, match=r"ef is \[1, 2\], the index needs 3 values"):
        NeuralTopK(index, trained.model.score).check(Rounds(ef=(1, 2)))
    search = NeuralTopK(index, trained.model.score)
    for parameters, k, words in [
        (BestFirst(pool=0), 1, "pool is 0, allowed are 1 to 1000000"),
        (BestFirst(frontier=10**8), 1, "frontier is 100000000, allowed are 1 to 1000000"),
        (BestFirst(max_steps=10**5), 1, "max_steps is 100000, allowed are 1 to 10000"),
        (Rounds(rounds=(1, 1, 0)), 1, r"rounds is \(1, 1, 0\), allowed are 1 to 10000"),
        (BestFirst(), 0, "k is 0, allowed are 1 to 1000000"),
        (BestFirst(), 10**7, "k is 10000000, allowed are 1 to 1000000"),
    ]:
        with pytest.raises(NannError, match=words):
            search.check(parameters, k)
