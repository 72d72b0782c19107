"""A history gives the same answer wherever its padding and unknown ids stand.

Clients that turn ragged rows into dense tensors pad at the end. That must not push the behaviours out of the window
that a model sees.

First contact, line 6.
"""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from export_tools import Defaults
from export_tools.signatures import signatures
from export_tools.sources.checkpoint import checkpoint_source
from tfserving_ext.index import Index
from tfserving_ext.models import Dnn, DnnConfig, TwoSided, TwoSidedConfig
from tfserving_ext.models.histories import last_known
from tfserving_ext.retrieval import NeuralTopK
from tfserving_ext.training import load_model

LENGTH = 12  # The models' history length; histories are shorter and longer.
PARAMETERS = {"k": 20, "frontier": 16, "pool": 30, "max_steps": 1000, "budget": 0, "deadline_ms": 0}


def by_hand(known: np.ndarray, part: np.ndarray, length: int, missing: int) -> np.ndarray:
    found = np.full([len(known), length], missing, part.dtype)
    for row, (counts, values) in enumerate(zip(known, part, strict=True)):
        last = values[counts][-length:]
        found[row, length - len(last) :] = last
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), users=st.integers(0, 5), width=st.integers(0, 20), share=st.floats(0, 1))
def test_the_last_known_behaviours_in_their_order(seed, users, width, share):
    rng = np.random.default_rng(seed)
    known = rng.random([users, width]) < share
    parts = {"ids": rng.integers(-9, 9, [users, width]), "times": rng.integers(0, 99, [users, width]).astype(np.int32)}
    for length in (1, 7):
        found = last_known(tf.constant(known), {name: tf.constant(part) for name, part in parts.items()}, length, -1)
        for got, part in zip(found, parts.values(), strict=True):
            assert got.dtype == part.dtype
            np.testing.assert_array_equal(got, by_hand(known, part, length, -1))


@pytest.mark.parametrize("width", [0, 1, 9])
def test_the_same_in_a_session_and_by_xla(width):
    rng = np.random.default_rng(width)
    known, ids = rng.random([4, width]) < 0.6, rng.integers(0, 99, [4, width])
    wanted = by_hand(known, ids, 5, 0)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        places = tf.compat.v1.placeholder(tf.bool, [None, None]), tf.compat.v1.placeholder(tf.int64, [None, None])
        (found,) = last_known(places[0], {"ids": places[1]}, 5, 0)
        np.testing.assert_array_equal(session.run(found, dict(zip(places, (known, ids), strict=True))), wanted)
    (found,) = tf.function(lambda known, ids: last_known(known, {"ids": ids}, 5, 0), jit_compile=True)(known, ids)
    np.testing.assert_array_equal(found, wanted)


def test_a_part_of_another_length_is_refused():
    known = tf.ones([2, 3], tf.bool)
    for shape in ([2, 4], [2, 2], [2, 0], [0, 0], [1, 3]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="category_history must have an entry for each of"):
            last_known(known, {"category_history": tf.zeros(shape, tf.int64)}, 2, 0)


@pytest.fixture(scope="module", params=["nann_attention", "dnn", "two_sided"])
def retrieve(request, world) -> Callable[..., dict[str, np.ndarray]]:
    """The exported signature of each model: a trained one, and ones with random weights."""
    trained = load_model(world.model)
    if request.param != "nann_attention":
        kind, config = {"dnn": (Dnn, DnnConfig), "two_sided": (TwoSided, TwoSidedConfig)}[request.param]
        ids = (trained.model.items.ids.numpy(), trained.model.categories.ids.numpy())
        trained = trained._replace(model=kind(*ids, None, config(history_length=LENGTH)))
        rng = np.random.default_rng(5)
        for variable in trained.model.trainable_variables:
            variable.assign(rng.normal(scale=0.3, size=variable.shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export_tools.sources.checkpoint.load_model", lambda folder: trained)
        source = checkpoint_source(world.model)
    index = Index.open(world.index)
    search = NeuralTopK(index, source.score)
    signature = signatures(source, search, Defaults(k=20))["retrieve"].get_concrete_function()

    def ask(items: np.ndarray, categories: np.ndarray | None) -> dict[str, np.ndarray]:
        none = tf.zeros([0, 0], tf.int64)
        numbers = {
            name: tf.constant(value, tf.int64 if name == "budget" else tf.int32) for name, value in PARAMETERS.items()
        }
        found = signature(
            item_history=tf.constant(items, tf.int64),
            category_history=none if categories is None else tf.constant(categories, tf.int64),
            exclude=none,
            **numbers,
        )
        assert search is not None  # Keeps the index that the signature searches.
        return {name: value.numpy() for name, value in found.items()}

    return ask


def padded(rows: list[np.ndarray], place: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """Returns rows in one array, each with its entries at `place(length, width)` and -1 elsewhere."""
    width = max(map(len, rows), default=0) + 3
    found = np.full([len(rows), width], -1)
    for row, values in zip(found, rows, strict=True):
        row[place(len(values), width)] = values
    return found


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name in ("item_ids", "scores", "items_scored", "rounds", "stopped"):
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)


@pytest.mark.parametrize("with_categories", [True, False])
def test_padding_and_unknown_ids_may_stand_anywhere(world, retrieve, with_categories):
    rng = np.random.default_rng(6)
    model = load_model(world.model).model
    ids, categories = model.items.ids.numpy(), model.categories.ids.numpy()
    unknown = np.array([-1, 0, -7, 3, int(ids.max()) + 1, 2**62])
    assert not np.isin(unknown, ids).any()
    for _ in range(12):
        lengths = rng.choice([0, 1, LENGTH - 1, LENGTH, LENGTH + 9, 70], 6)
        items = [rng.choice(ids, length) for length in lengths]
        # Categories are chosen by the client: they differ from the items' categories in training, and some are unknown.
        kinds = [rng.choice([*categories, -1, 12345], length) for length in lengths]
        at_the_front = padded(items, lambda length, width: np.arange(width - length, width))
        beside = padded(kinds, lambda length, width: np.arange(width - length, width))
        wanted = retrieve(at_the_front, beside if with_categories else None)
        assert (wanted["item_ids"] >= 0).all()

        at_the_end = padded(items, lambda length, width: np.arange(length))
        beside = padded(kinds, lambda length, width: np.arange(length))
        same(retrieve(at_the_end, beside if with_categories else None), wanted)

        # Puts unknown ids in between, with known categories, which must be dropped with their items.
        width = max(lengths) + 30
        mixed, beside = rng.choice(unknown, [6, width]), rng.choice(categories, [6, width])
        for row, (values, own) in enumerate(zip(items, kinds, strict=True)):
            places = np.sort(rng.choice(width, len(values), replace=False))
            mixed[row, places], beside[row, places] = values, own
        same(retrieve(mixed, beside if with_categories else None), wanted)


def test_histories_already_in_place_give_the_same_bits(world):
    """Compares with histories that are cut to their last behaviours and padded at the front beforehand."""
    model = load_model(world.model).model
    cases = world.sequences.cases("test", positions_per_user=2)
    history = tf.constant(world.sequences.ids_of(cases.histories))
    categories = tf.random.stateless_uniform(tf.shape(history), [1, 2], 900, 912, tf.int64)
    length = model.config.history_length
    front = [[0, 0], [max(length - history.shape[1], 0), 0]]
    rows = [
        tf.pad(vocabulary.rows(ids)[:, -length:], front)
        for vocabulary, ids in ((model.items, history), (model.categories, categories))
    ]
    rows[1] = tf.where(rows[0] > 0, rows[1], 0)
    for got, wanted in zip(
        model.user({"item_history": history, "category_history": categories}), model.user_from_rows(*rows), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
