"""Keras rankers over features of any length, pooled, masked, recurrent or with several values, keep their scores."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from export_tools import Defaults, ExportOptions, explain, export
from export_tools.scorer import choose_scorer
from export_tools.sources import open_source
from tests.export.explained import check_explained
from tests.passes.scorers import check
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.retrieval import BestFirst
from tfserving_ext.serving.models import load_servable

DIM, ITEMS = 8, 60
EMBEDDINGS = np.random.default_rng(0).normal(size=(ITEMS, DIM)).astype(np.float32)
HISTORIES = [[[3, 1, 4, 1, 5]], [[9, 2]], [[6, 0, 0]]]  # 0 is padding, where there is a mask.


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build_index(
        np.arange(ITEMS), EMBEDDINGS, tmp_path_factory.mktemp("histories") / "index", Hnsw(threads=1)
    ).folder


def ranker(*features):
    """Concatenates the user's vectors and the item's, and adds a layer with a bias."""
    item = keras.Input([DIM], name="item_embedding")
    hidden = layers.Dense(16, activation="relu", bias_initializer="random_normal")(
        layers.Concatenate()([*(vector for _, vector in features), item])
    )
    return keras.Model([*(given for given, _ in features), item], layers.Dense(1)(hidden))


def history(name="history"):
    return keras.Input([None], dtype="int64", name=name)


def pooled():
    given = history()
    return ranker((given, layers.GlobalAveragePooling1D()(layers.Embedding(20, 6)(given))))


def masked():
    given = history()
    return ranker((given, layers.GlobalAveragePooling1D()(layers.Embedding(20, 6, mask_zero=True)(given))))


def largest():
    given = history()
    return ranker((given, layers.GlobalMaxPooling1D()(layers.Embedding(20, 6)(given))))


def recurrent():
    given = history()
    return ranker((given, layers.GRU(6)(layers.Embedding(20, 6, mask_zero=True)(given))))


def attentive():
    given = history()
    vectors = layers.Embedding(20, 6, mask_zero=True)(given)
    return ranker((given, layers.GlobalAveragePooling1D()(layers.Attention()([vectors, vectors]))))


def several_values():
    first, second = history("history"), history("tags")
    embedding = layers.Embedding(20, 6, mask_zero=True)
    return ranker(*((given, layers.GlobalAveragePooling1D()(embedding(given))) for given in (first, second)))


RANKERS = {made.__name__: made for made in (pooled, masked, largest, recurrent, attentive, several_values)}


@pytest.mark.parametrize("fold_items", [False, True])
@pytest.mark.parametrize("name", RANKERS)
def test_the_passes_leave_the_scores(index, tmp_path, name, fold_items):
    """Unknown extents of any kind make neither the process nor the export fail. First contact, line 12."""
    keras.utils.set_random_seed(3)
    RANKERS[name]().save(tmp_path / "ranker.keras")
    source = open_source(tmp_path / "ranker.keras", None)
    variant = choose_scorer(source, Index.open(index), fold_items, measured=False).variant
    # It was compared with the model's own scores, on random users as well.
    assert variant.rewritten is not None
    assert [row.reason for row in variant.rewritten.report if row.name != "item_fold" and row.reason] == []
    for values in HISTORIES:
        user = source.user_tensors({name: tf.constant(values, spec.dtype) for name, spec in source.features.items()})
        check(variant.rewritten, lambda *given: source.score(given[:-1], given[-1]), user, DIM)


@pytest.mark.slow
@pytest.mark.parametrize("rewrite", [True, False])
def test_an_export_of_one_answers_and_is_explained(index, tmp_path, rewrite):
    """The same models, through a whole export. First contact, lines 12 and 13."""
    model = masked()
    model.save(tmp_path / "ranker.keras")
    defaults = Defaults(k=ITEMS, best_first=BestFirst(pool=ITEMS))
    target = export(
        tmp_path / "ranker.keras", index, tmp_path / "models" / "1", defaults, options=ExportOptions(rewrite=rewrite)
    )
    check_explained(target, tmp_path, exact=False)
    assert explain(target, fold_items=True).after is not None
    servable = load_servable(target)
    for values in HISTORIES:
        answer = servable.signature("retrieve").run({"history": np.array(values)})
        wanted = model.predict([np.repeat(values, ITEMS, axis=0), EMBEDDINGS], verbose=0, batch_size=ITEMS)[:, 0]
        np.testing.assert_allclose(answer["scores"][0], -np.sort(-wanted), rtol=1e-4, atol=1e-5)
