"""The tutorial of TensorFlow Recommenders, two towers of users and movies, with the searches in place of its layers."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext import build_index
from tfserving_ext.errors import NannError
from tfserving_ext.retrieval import BruteForce, NeuralTopK
from tfserving_ext.retrieval.top_k import inner_product

USERS, MOVIES, DIM, K = 40, 300, 8, 10
TITLES = np.array([f"Movie {number} (19{number % 100:02d})" for number in range(MOVIES)])
SEARCHES = {"neural": NeuralTopK, "exact": BruteForce}


def ratings():
    """Pairs of users and movies; a user likes movies of one tenth."""
    rng = np.random.default_rng(4)
    users = rng.integers(0, USERS, 2000)
    movies = (users % 10) * (MOVIES // 10) + rng.integers(0, MOVIES // 10, 2000)
    return np.array([str(user) for user in users]), TITLES[movies]


class Retrieval(keras.Model):
    """The tutorial's model: other movies of a batch are the negatives."""

    def __init__(self):
        super().__init__()
        users = keras.layers.StringLookup(vocabulary=[str(user) for user in range(USERS)])
        movies = keras.layers.StringLookup(vocabulary=TITLES.tolist())
        self.user_model = keras.Sequential([users, keras.layers.Embedding(USERS + 1, DIM)])
        self.movie_model = keras.Sequential([movies, keras.layers.Embedding(MOVIES + 1, DIM)])

    def call(self, batch):
        return tf.matmul(self.user_model(batch["user_id"]), self.movie_model(batch["movie_title"]), transpose_b=True)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    made = Retrieval()
    users, titles = ratings()
    batches = tf.data.Dataset.from_tensor_slices({"user_id": users, "movie_title": titles}).batch(100)
    batches = batches.map(lambda batch: (batch, tf.range(100)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.Adagrad(0.5), loss)
    made.fit(batches, epochs=3, verbose=0)
    return made


def candidates(model):
    movies = tf.data.Dataset.from_tensor_slices(TITLES)
    return tf.data.Dataset.zip((movies.batch(100), movies.batch(100).map(model.movie_model)))


@pytest.fixture(scope="module")
def layers(model):
    return {
        name: kind.from_dataset(candidates(model), query_model=model.user_model, k=K) for name, kind in SEARCHES.items()
    }


def scores_of(model, users):
    """Scores of all movies by NumPy, [users, MOVIES]."""
    queries = model.user_model(tf.constant(users)).numpy()
    return queries @ model.movie_model(tf.constant(TITLES)).numpy().T


def best(scores, k=K):
    return TITLES[np.argsort(-scores, axis=1, kind="stable")[:, :k]]


def texts(ids):
    return np.char.decode(ids.numpy().astype(bytes))


@pytest.mark.parametrize("name", SEARCHES)
def test_it_answers_titles_for_raw_queries(name, model, layers):
    users = ["42", "7", "39", "none of them"]
    wanted = scores_of(model, users)
    scores, titles = layers[name](tf.constant(users))
    np.testing.assert_array_equal(texts(titles), best(wanted))
    np.testing.assert_allclose(scores, -np.sort(-wanted)[:, :K], rtol=1e-5)
    _, three = layers[name](tf.constant(users), k=3)
    np.testing.assert_array_equal(texts(three), best(wanted)[:, :3])


@pytest.mark.parametrize("name", SEARCHES)
def test_excluded_titles_are_not_answered(name, model, layers):
    users = ["3", "11"]
    wanted = scores_of(model, users)
    seen = best(wanted)[:, ::2]
    scores, titles = layers[name].query_with_exclusions(tf.constant(users), tf.constant(seen), k=K)
    for row, each in enumerate(wanted):
        each[np.isin(TITLES, seen[row])] = -np.inf
    np.testing.assert_array_equal(texts(titles), best(wanted))
    np.testing.assert_allclose(scores, -np.sort(-wanted)[:, :K], rtol=1e-5)


@pytest.mark.parametrize("name", SEARCHES)
def test_where_most_are_excluded_the_rest_is_no_item(name, layers):
    excluded = tf.constant([TITLES[:-4], TITLES[4:]])
    scores, titles = layers[name].query_with_exclusions(tf.constant(["3", "11"]), excluded)
    assert [set(row) - {""} for row in texts(titles)] == [set(TITLES[-4:]), set(TITLES[:4])]
    assert (texts(titles)[:, 4:] == "").all()
    assert np.isneginf(scores[:, 4:]).all()


@pytest.mark.parametrize("name", SEARCHES)
def test_a_network_may_score(name, model):
    """What a layer of inner products cannot rank by."""
    network = keras.Sequential([keras.layers.Dense(16, activation="tanh"), keras.layers.Dense(1)])

    def score(user, items):
        users = tf.broadcast_to(user[0][:, None], tf.shape(items))
        return network(tf.concat([users, items, users * items], -1))[..., 0]

    movies = model.movie_model(tf.constant(TITLES))
    queries = model.user_model(tf.constant(["3", "11"]))
    wanted = score((queries,), tf.repeat(movies[None], 2, axis=0)).numpy()
    search = SEARCHES[name].from_dataset(candidates(model), score, query_model=model.user_model)
    _, titles = search(tf.constant(["3", "11"]), k=MOVIES)
    np.testing.assert_array_equal(texts(titles), best(wanted, MOVIES))


def test_every_search_takes_raw_queries(model, layers):
    users, search = tf.constant(["3", "11"]), layers["neural"]
    exact = layers["exact"](users)[1].numpy()
    for found in (
        search.best_first(users),
        search.surrogate(users, pool=MOVIES)[0],
        search.rounds(users, ef=[MOVIES] * 3, rounds=[1, 3, 9]),
        search.deployed(users, tf.constant([MOVIES] * 5 + [K])),
        layers["exact"].search(users),
    ):
        np.testing.assert_array_equal(found.item_ids.numpy(), exact)
    scores = search.scores_of(users, search.index.numbers(exact))
    np.testing.assert_allclose(scores, layers["exact"](users)[0], rtol=1e-5)


def test_it_is_saved_in_a_model(model, layers, tmp_path):
    class Served(tf.Module):
        def __init__(self):
            super().__init__()
            self.search = layers["neural"]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, users):
            return self.search(users, k=K)

    tf.saved_model.save(Served(), str(tmp_path / "model"))
    scores, titles = tf.saved_model.load(str(tmp_path / "model"))(tf.constant(["42", "7"]))
    wanted = layers["exact"](tf.constant(["42", "7"]))
    np.testing.assert_array_equal(titles, wanted[1])
    np.testing.assert_allclose(scores, wanted[0], rtol=1e-5)


def test_candidates_without_identifiers_are_numbered_and_queries_may_be_embeddings(model):
    embeddings = model.movie_model(tf.constant(TITLES)).numpy()
    queries = model.user_model(tf.constant(["3", "11"]))
    search = NeuralTopK.from_dataset(tf.data.Dataset.from_tensor_slices(embeddings).batch(70))
    order = np.argsort(-(queries.numpy() @ embeddings.T), axis=1, kind="stable")
    for given in (queries, (queries,)):
        np.testing.assert_array_equal(search(given, k=K)[1], order[:, :K])
    assert search(queries)[1].shape == (2, 200)


def test_the_index_is_kept_where_one_says(model, layers, tmp_path):
    kept = NeuralTopK.from_dataset(candidates(model), query_model=model.user_model, k=K, folder=tmp_path / "index")
    arrays = build_index(TITLES, model.movie_model(tf.constant(TITLES)).numpy(), tmp_path / "arrays")
    users = tf.constant(["42"])
    for search in (
        kept,
        NeuralTopK(arrays, inner_product, model.user_model, K),
    ):
        np.testing.assert_array_equal(search(users)[1], layers["exact"](users)[1])
    del kept, search
    gc.collect()
    assert (tmp_path / "index" / "manifest.json").exists()


def test_a_temporary_index_goes_with_its_search(model, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    search = NeuralTopK.from_dataset(candidates(model))
    assert [path.name[:16] for path in tmp_path.iterdir()] == ["nann_candidates_"]
    del search
    gc.collect()
    twice = tf.data.Dataset.from_tensor_slices((["a", "a"], np.eye(2, dtype=np.float32))).batch(2)
    with pytest.raises(NannError, match="'a' appears twice"):
        NeuralTopK.from_dataset(twice)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: np.eye(3, dtype=np.float32), "candidates are a ndarray, they must be a tf.data.Dataset"),
        (lambda: tf.data.Dataset.from_tensor_slices(np.eye(3)), r"\.batch\(1024\) makes batches"),
        (lambda: tf.data.Dataset.from_tensor_slices((np.eye(3), [1, 2, 3])).batch(2), "allowed are batches of"),
        (lambda: tf.data.Dataset.from_tensor_slices({"movie": np.eye(3)}).batch(2), "allowed are batches of"),
        (lambda: tf.data.Dataset.from_tensor_slices(np.eye(3)).batch(2).repeat(), "have no end"),
        (lambda: tf.data.Dataset.from_tensor_slices(np.eye(3)).batch(2).take(0), "no batches"),
        (
            lambda: tf.data.Dataset.from_generator(
                lambda: iter([np.ones([2, 3]), np.ones([2, 4])]), output_signature=tf.TensorSpec([None, None])
            ),
            "embeddings of 3 and of 4 values",
        ),
    ],
)
def test_other_candidates_are_refused(made, words):
    with pytest.raises(NannError, match=words):
        NeuralTopK.from_dataset(made())
