"""Wrong parameters are refused with a message that says what was got and what is allowed."""

import re

import numpy as np
import pytest
import tensorflow as tf

from tests.ops.conftest import ITEMS, Searcher, table_score, timeless
from tests.ops.reference import Graph
from tfserving_ext import ops

InvalidArgumentError = tf.errors.InvalidArgumentError
GOOD = {"k": 3, "ef": [2, 3, 4], "rounds": [1, 1, 2]}
ONE_USER = np.zeros([1, ITEMS], np.float32)


@pytest.fixture(scope="module")
def small(searcher) -> Searcher:
    """Five items in a ring, two layers."""
    ring = [[(i + 1) % 5] for i in range(5)]
    return searcher.open(Graph(np.arange(5), [0], [ring, ring]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is 0, allowed are 1 to 1000000"),
        ({"k": -3}, "k is -3, allowed are 1 to 1000000"),
        ({"k": 1_000_001}, "k is 1000001, allowed are 1 to 1000000"),
        ({"k": 2**31 - 1}, "k is 2147483647, allowed are 1 to 1000000"),
        ({"ef": [0, 3, 4]}, "ef[0] is 0, allowed are 1 to 1000000"),
        ({"ef": [2, -1, 4]}, "ef[1] is -1, allowed are 1 to 1000000"),
        ({"ef": [2, 3, 6_000_000]}, "ef[2] is 6000000, allowed are 1 to 1000000"),
        ({"ef": [2, 3, -(2**31)]}, "ef[2] is -2147483648, allowed are 1 to 1000000"),
        ({"ef": [2, 3]}, "ef has 2 entries and rounds has 3; this index needs 3 of each"),
        ({"ef": [2, 3, 4, 5]}, "ef has 4 entries and rounds has 3; this index needs 3 of each"),
        ({"ef": []}, "ef has 0 entries and rounds has 3; this index needs 3 of each"),
        ({"rounds": []}, "ef has 3 entries and rounds has 0; this index needs 3 of each"),
        ({"rounds": [1, 0, 1]}, "rounds[1] is 0, allowed are 1 to 10000"),
        ({"rounds": [1, 1, -5]}, "rounds[2] is -5, allowed are 1 to 10000"),
        ({"rounds": [1, 1, 10_001]}, "rounds[2] is 10001, allowed are 1 to 10000"),
        ({"rounds": [2, 1, 1]}, "rounds[0] is 2, allowed are 1 to 1"),
        ({"rounds": [0, 1, 1]}, "rounds[0] is 0, allowed are 1 to 1"),
    ],
)
def test_values_out_of_range(small, change, message):
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        small(ONE_USER, **GOOD | change)


@pytest.mark.parametrize(
    ("level_topn", "message"),
    [
        ([0, 3, 4], "level_topn[0] is 0, allowed are 1 to 1000000"),
        ([2, 3, -4], "level_topn[2] is -4, allowed are 1 to 1000000"),
        ([2, 3, 4, 6_000_000], "level_topn[3] is 6000000, allowed are 1 to 1000000"),
        ([2, 3], "level_topn has 3 entries; this index needs at least 4"),
        ([], "level_topn has 1 entries; this index needs at least 4"),
    ],
)
def test_level_topn_out_of_range(small, level_topn, message):
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        small(ONE_USER, 3, level_topn, algorithm="deployed")


def test_the_limits_themselves_are_allowed(small):
    found = small(ONE_USER, 1_000_000, [1_000_000] * 3, [1, 10_000, 10_000])
    assert found.item_ids.shape == (1, 1_000_000)
    assert found.item_ids[0, :6].tolist() == [0, 1, 2, 3, 4, -1]
    assert np.isneginf(found.scores[0, 5:]).all()
    deployed = small(ONE_USER, 2, [1_000_000] * 9, algorithm="deployed")
    assert deployed.item_ids.tolist() == [[0, 1]]


def test_too_large_an_answer_is_refused_before_it_is_allocated(small):
    users = np.zeros([68, ITEMS], np.float32)
    with pytest.raises(InvalidArgumentError, match=r"68 users x k = 1000000 is above 67108864 entries"):
        small(users, **GOOD | {"k": 1_000_000})
    assert small(users, **GOOD | {"k": 3}).item_ids.shape == (68, 3)


def test_exclude_and_users_must_agree(small):
    with pytest.raises(InvalidArgumentError, match=re.escape("a user tensor has shape [2,43]; exclude says that the")):
        small(np.zeros([2, ITEMS], np.float32), **GOOD, exclude=np.zeros([3, 1], np.int64), seeds=np.zeros([3, 0]))
    with pytest.raises(InvalidArgumentError, match=re.escape("seeds has shape [3,1]; exclude says that")):
        small(np.zeros([2, ITEMS], np.float32), **GOOD, seeds=np.zeros([3, 1], np.int64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ef": [0, 5]}, "frontier is 0, allowed are 1 to 1000000"),
        ({"ef": [2, -5]}, "pool is -5, allowed are 1 to 1000000"),
        ({"ef": [6_000_000, 5]}, "frontier is 6000000, allowed are 1 to 1000000"),
        ({"rounds": [-1]}, "max_steps is -1, allowed are 1 to 10000, and 0 for no limit"),
        ({"rounds": [10_001]}, "max_steps is 10001, allowed are 1 to 10000, and 0 for no limit"),
        ({"budget": -1}, "budget is -1 and deadline_ms is 0, allowed are 0 (no limit) and above"),
        ({"deadline_ms": -7}, "budget is 0 and deadline_ms is -7, allowed are 0 (no limit) and above"),
    ],
)
def test_best_first_parameters_out_of_range(small, change, message):
    good = {"k": 3, "ef": [2, 5], "rounds": [9], "algorithm": "best_first"}
    with pytest.raises(InvalidArgumentError, match=re.escape(message)):
        small(ONE_USER, **good | change)
    assert small(ONE_USER, **good).item_ids.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("k", [3], "k has shape [1], it must have rank 0"),
        ("ef", [[2, 3, 4]], "ef has shape [1,3], it must have rank 1"),
        ("ef", 2, "ef has shape [], it must have rank 1"),
        ("rounds", [[1, 1, 2]], "rounds has shape [1,3], it must have rank 1"),
        ("exclude", np.zeros([1], np.int64), "exclude has shape [1], it must have rank 2"),
        ("exclude", np.zeros([1, 1, 1], np.int64), "exclude has shape [1,1,1], it must have rank 2"),
        ("seeds", np.zeros([1], np.int64), "seeds has shape [1], it must have rank 2"),
        ("budget", [5], "budget has shape [1], it must have rank 0"),
        ("deadline_ms", [5], "deadline_ms has shape [1], it must have rank 0"),
        ("user", np.float32(1), "a user tensor has shape []"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_wrong_ranks(small, name, value, message, known):
    """They are refused when the graph is built if the shapes are known, and else by the kernel."""
    none = np.zeros([1, 0], np.int64)
    inputs = {"k": 3, "ef": [2, 3, 4], "rounds": [1, 1, 2], "exclude": none, "seeds": none, "user": ONE_USER}
    inputs |= {"budget": 0, "deadline_ms": 0}
    dtypes = {"exclude": tf.int64, "seeds": tf.int64, "budget": tf.int64, "user": tf.float32}
    tensors = {key: tf.constant(given, dtypes.get(key, tf.int32)) for key, given in (inputs | {name: value}).items()}
    shape = {key: tensor.shape if known else None for key, tensor in tensors.items()}
    score = tf.function(table_score).get_concrete_function(
        tf.TensorSpec([1, ITEMS]), tf.TensorSpec([1, None, 2], tf.float32)
    )

    @tf.function(input_signature=[{key: tf.TensorSpec(shape[key], tensors[key].dtype) for key in tensors}])
    def search(given):
        lists = {"user": [given["user"]], "captured": [], "filters": [], "caps": []}
        return ops.load().nann_rounds_search(index=small.index, **given | lists, scorer=[score], batch_sizes=[8])

    with pytest.raises(ValueError if known else InvalidArgumentError) as refused:
        search(tensors)
    assert known or message in str(refused.value)
    assert not known or re.search(r"Shape must be (at least )?rank \d but is rank \d", str(refused.value))


def best_first(index, **changed):
    """Calls the op itself, with attributes that the Python functions never use."""
    none = tf.zeros([1, 0], tf.int64)
    shared = {"index": index, "exclude": none, "seeds": none, "budget": 0, "deadline_ms": 0}
    own = {"k": 3, "frontier": 2, "pool": 5, "max_steps": 9}
    lists = {"user": [tf.zeros([1, 2])], "captured": [], "filters": [], "caps": []}
    return ops.load().nann_best_first_search(**shared | own | lists | {"metric": "dot"} | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"filters": [[1, 2], [3]]},
            "filters holds tensors of the types [int32, int32], but this version",
        ),
        ({"placement": "gpu"}, 'Value for attr \'placement\' of "gpu" is not in the list of allowed values: "cpu"'),
        ({"metric": "none"}, "scorer holds 0 functions; without a metric it must hold 1"),
        ({"user": [tf.zeros([1, 2])] * 2}, "user has the types [float, float]; the metric dot needs none and one"),
        ({"user": [tf.zeros([1, 2], tf.float64)]}, "user has the types [double]; the metric dot needs none and one"),
    ],
)
def test_what_this_version_does_not_know_is_refused(small, changed, message):
    with pytest.raises((InvalidArgumentError, tf.errors.UnimplementedError), match=re.escape(message)):
        best_first(small.index, **changed)
    assert best_first(small.index).index_sequence.numpy().tolist() == [0]


def test_a_metric_and_a_function_at_once_are_refused(small):
    scorer = ops.trace_scorer(lambda user, items: items[..., 0], [tf.zeros([1, 2])], 2)
    with pytest.raises(InvalidArgumentError, match="there are 1 functions in scorer"):
        best_first(small.index, scorer=[scorer.plain])


@pytest.mark.parametrize("grid", [(), (0,), (-1, 4), (8, 8), (16, 4), (1_000_001,)])
def test_a_grid_of_batch_sizes_must_increase(small, grid):
    listed = re.escape(", ".join(map(str, grid)))
    with pytest.raises(InvalidArgumentError, match=rf"batch_sizes is \[{listed}\], it must increase from 1 to at most"):
        small(ONE_USER, **GOOD, batch_sizes=grid)


def test_an_index_that_was_never_opened_is_refused(tmp_path):
    with pytest.raises((tf.errors.NotFoundError, tf.errors.FailedPreconditionError)):
        Searcher(tmp_path)(ONE_USER, **GOOD)


def test_a_refusal_leaves_the_next_request_unharmed(small):
    before = small(ONE_USER, **GOOD)
    with pytest.raises(InvalidArgumentError):
        small(ONE_USER, **GOOD | {"k": 0})
    for part, other in zip(timeless(small(ONE_USER, **GOOD)), timeless(before), strict=True):
        np.testing.assert_array_equal(part, other)
