"""branch_switch: a request of one scenario runs that scenario's network alone."""

import numpy as np
import pytest
import tensorflow as tf

from tests.passes.patterns import DIM, one_score, rows_of
from tests.passes.scorers import numbers, ops_of, rewrite_and_check, rewrites, run, weights

PASS = ["branch_switch"]
VECTOR, SCENARIOS = numbers(1, 4, seed=3), 2
FIRST = [weights(4, 5, seed=seed) for seed in range(SCENARIOS)]
BIAS = [weights(5, seed=seed) for seed in range(SCENARIOS)]
LAST = [weights(5, 2, seed=seed) for seed in range(SCENARIOS)]


def user(scenario):
    return [VECTOR, tf.constant([scenario], tf.int32)]


def network(which, x):
    return tf.matmul(tf.nn.relu(tf.matmul(x, FIRST[which]) + BIAS[which]), LAST[which])


def count(items):
    return tf.shape(items)[1]


def repeated(scenario, items):
    return tf.repeat(scenario, count(items))


def switched(items, partitions, networks=network, order=None, stitch=tf.dynamic_stitch):
    """Each row through the network of its partition; `order` is where the rows go."""
    order = tf.range(count(items)) if order is None else order
    places = tf.dynamic_partition(order, partitions, SCENARIOS)
    parts = tf.dynamic_partition(rows_of(items), partitions, SCENARIOS)
    return stitch(places, [networks(which, part) for which, part in enumerate(parts)])


SWITCHES = {
    "repeated": lambda s, i: switched(i, repeated(s, i)),
    "filled": lambda s, i: switched(i, tf.fill([count(i)], s[0])),
    "tiled": lambda s, i: switched(i, tf.tile(s, [count(i)])),
    "in parallel": lambda s, i: switched(
        i,
        repeated(s, i),
        stitch=lambda places, data: tf.raw_ops.ParallelDynamicStitch(indices=places, data=data),
    ),
    "a constant of both": lambda s, i: switched(i, repeated(s, i), lambda which, x: network(which, x * 2.0)),
    "one network's part twice": lambda s, i: switched(
        i, repeated(s, i), lambda which, x: (lambda y: y * y)(network(which, x))
    ),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_one_network_of_chosen_weights_is_left(name):
    def score(u, s, items):
        return one_score(SWITCHES[name](s, items) * u[:, :2])

    rewritten = rewrite_and_check(score, user(0), DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 1
    assert ops_of(rewritten)["MatMul"] == 2
    assert ops_of(rewritten)["DynamicPartition"] == 0
    items = numbers(1, 5, DIM)
    for scenario in range(SCENARIOS):
        wanted = score(*user(scenario), items)
        np.testing.assert_allclose(run(rewritten, user(scenario), items), wanted, rtol=1e-4, atol=1e-4)


def _squared(which, x, depth=60):
    """A chain in which every step needs the one before twice: 2^60 ways from its end to its beginning."""
    x = tf.matmul(x, FIRST[which])
    for _ in range(depth):
        x = (x + x) * 0.5
    return x


def test_a_network_that_needs_its_parts_again_and_again_is_looked_through_once():
    """First contact, line 12: the work is bounded by the graph's size, not by its ways."""
    rewritten = rewrite_and_check(
        lambda u, s, i: one_score(switched(i, repeated(s, i), _squared)), user(1), DIM, ["branch_switch"]
    )
    assert rewrites(rewritten, PASS[0]) == 1


def _by_item(items):
    return tf.cast(rows_of(items)[:, 0] > 0, tf.int32)


UNTOUCHED = {
    "a permutation": lambda s, i: switched(i, repeated(s, i), order=tf.range(count(i) - 1, -1, -1)),
    "a permutation that is computed": lambda s, i: switched(
        i, repeated(s, i), order=tf.reverse(tf.range(count(i)), [0])
    ),
    "places with room between them": lambda s, i: switched(i, repeated(s, i), order=tf.range(0, 2 * count(i), 2))[::2],
    "places from the second on": lambda s, i: switched(i, repeated(s, i), order=tf.range(1, count(i) + 1))[1:],
    "a scenario for each item": lambda s, i: switched(i, _by_item(i)),
    "a scenario for each half": lambda s, i: switched(i, tf.range(count(i)) % 2),
    "a scenario that is changed after it was repeated": lambda s, i: switched(i, tf.abs(repeated(s - 1, i))),
    "networks that are not alike": lambda s, i: switched(
        i, repeated(s, i), lambda which, x: (tf.nn.relu, tf.tanh)[which](network(which, x))
    ),
    "networks of other widths": lambda s, i: switched(
        i, repeated(s, i), lambda which, x: tf.matmul(x[:, : 2 + which], FIRST[which][: 2 + which])
    ),
    "one that is transposed": lambda s, i: switched(
        i,
        repeated(s, i),
        lambda which, x: tf.matmul(x, (FIRST[0], tf.transpose(FIRST[1]))[which], transpose_b=bool(which)),
    ),
    "networks that look at all rows": lambda s, i: switched(
        i, repeated(s, i), lambda which, x: network(which, x - tf.reduce_sum(x, 0))
    ),
    "rows that are put below each other": lambda s, i: switched(
        i, repeated(s, i), lambda which, x: tf.concat([x, FIRST[which][:0, :4]], 0)
    ),
}


@pytest.mark.parametrize("name", UNTOUCHED)
def test_near_misses_stay(name):
    """First contact, line 27: what a pass must not take for its pattern."""
    rewritten = rewrite_and_check(lambda u, s, i: one_score(UNTOUCHED[name](s, i)), user(0), DIM, PASS)
    assert rewrites(rewritten, PASS[0]) == 0
    items = numbers(1, 6, DIM)
    wanted = one_score(UNTOUCHED[name](user(1)[1], items))
    np.testing.assert_allclose(run(rewritten, user(1), items), wanted, rtol=1e-4, atol=1e-4)
