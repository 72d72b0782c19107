"""Scorers that are composed at random, of what models compose theirs of."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

DIM, BEHAVIOURS, VOCABULARY = 4, 3, 12


class Given(NamedTuple):
    """What scorers take of a user.

    Attributes:
      u: float32 [1, 4], a vector.
      h: float32 [1, 3, 4], behaviours.
      mask: float32 [1, 3], of them; what is positive counts.
      scale: float32 [1].
      long: float32 [1, any, 4], behaviours of which nobody says how many there are.
      ids: int32 [1, any], a feature of several values; 0 is none.
    """

    u: tf.Tensor
    h: tf.Tensor
    mask: tf.Tensor
    scale: tf.Tensor
    long: tf.Tensor
    ids: tf.Tensor


SPECS = [
    tf.TensorSpec([1, 4]),
    tf.TensorSpec([1, BEHAVIOURS, 4]),
    tf.TensorSpec([1, BEHAVIOURS]),
    tf.TensorSpec([1]),
    tf.TensorSpec([1, None, 4]),
    tf.TensorSpec([1, None], tf.int32),
]


def given(seed: int, length: int) -> Given:
    """A user with `length` behaviours and one value more, of which the last is none."""
    rng = np.random.default_rng(seed)
    shapes = ([1, 4], [1, BEHAVIOURS, 4], [1, BEHAVIOURS], [1], [1, length, 4])
    ids = rng.integers(1, VOCABULARY, [1, length + 1])
    ids[:, -1] = 0
    return Given(*(tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes), tf.constant(ids, tf.int32))


class RandomScorer:
    """A score function: each step takes what it has of the items, [1, n, c], and returns [1, n, another c]."""

    def __init__(self, steps: Sequence[tuple[str, int]], end: str) -> None:
        self.steps, self.end = list(steps), end
        self._weights: dict[tuple, tf.Variable] = {}

    def __repr__(self) -> str:
        return f"RandomScorer({self.steps}, {self.end!r})"

    def __call__(self, *tensors: tf.Tensor) -> tf.Tensor:
        *user, items = tensors
        given, x = Given(*user), items
        for number, (name, form) in enumerate(self.steps):
            x = STEPS[name](partial(self._weight, number), form, x, items, given)
        if self.end == "sum":
            return tf.reduce_sum(x, axis=-1)
        return tf.squeeze(tf.matmul(x, self._weight(-1, x.shape[-1], 1)), axis=-1)

    def _weight(self, number: int, *shape: int) -> tf.Variable:
        """A variable of its own for every shape of every step, made at the first use."""
        key = number, shape
        if key not in self._weights:
            rng = np.random.default_rng(len(self._weights))
            value = (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)
            with tf.init_scope():
                self._weights[key] = tf.Variable(value)
        return self._weights[key]


def _count(items: tf.Tensor) -> tf.Tensor:
    return tf.shape(items)[1]


def _dense(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    """As a batched product, as Keras flattens, and transposed."""
    wide, width = x.shape[-1], 3 + form // 3
    bias = weight(width)
    if form % 3 == 0:
        return tf.matmul(x, weight(wide, width)) + bias
    if form % 3 == 1:
        rows = tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, wide]), weight(wide, width)), bias)
        return tf.reshape(rows, [1, _count(items), width])
    return tf.matmul(x, weight(width, wide), transpose_b=True) + bias


def _by_user(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    wide, width = x.shape[-1], 2 + form
    matrix = tf.reshape(tf.matmul(g.u, weight(4, wide * width)), [1, wide, width] if form % 2 else [wide, width])
    if form % 2:
        return tf.matmul(x, matrix)
    return tf.reshape(tf.matmul(tf.reshape(x, [-1, wide]), matrix), [1, -1, width])


def _attention(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    query = tf.matmul(x, weight(x.shape[-1], 4))
    keys = tf.matmul(g.h, weight(4, 4)) if form % 2 else g.h
    logits = tf.matmul(query, keys, transpose_b=True) * 0.5
    if form >= 2:
        logits += (tf.cast(g.mask > 0, tf.float32)[:, None] - 1.0) * 9.0
    if form == 4:
        logits = tf.where((g.mask > 0)[:, None], logits, -9.0)
    return tf.concat([tf.matmul(tf.nn.softmax(logits), g.h), x], axis=-1)


def _beside_user(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    n = _count(items)
    repeated = [
        lambda: tf.tile(g.u[:, None], [1, n, 1]),
        lambda: tf.broadcast_to(g.u, [1, n, 4]),
        lambda: tf.gather(g.u, tf.zeros([n], tf.int32))[None],
        lambda: g.u[:, None] * tf.ones([1, n, 1]),
        lambda: tf.tanh(tf.tile(g.u[:, None], [1, n, 1])) * tf.ones_like(items[..., :1]),
    ][form]()
    parts = [repeated, x] if form % 2 else [x, repeated, repeated * x[..., :1]]
    return tf.concat(parts, axis=-1)


def _with_row(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    wide = x.shape[-1]
    row = tf.tanh(tf.matmul(g.u, weight(4, wide)))
    scale = g.scale
    return [
        lambda: x + row,
        lambda: row - x,
        lambda: x * row[:, None],
        lambda: (x * scale - scale) * weight(wide),
        lambda: x * weight(1, wide) + x[..., :1] * scale[:, None, None],
    ][form]()


def _batch_norm(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    wide = x.shape[-1]
    x = tf.matmul(x, weight(wide, wide))
    if form % 2:
        x = x + weight(wide)
    factor = tf.math.rsqrt(tf.square(weight(1, wide)) + 0.5)
    return x * factor + (weight(wide) - weight(wide) * factor) if form < 3 else (x - 0.3) * factor


def _prelu(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    a = weight(x.shape[-1])
    return [
        lambda: tf.nn.relu(x) - a * tf.nn.relu(-x),
        lambda: tf.nn.relu(x) + -a * tf.nn.relu(-x),
        lambda: tf.nn.relu(-x) * g.scale + tf.nn.relu(x),
        lambda: tf.where(x > 0, x, a * x),
        lambda: a * tf.nn.relu(-x) - tf.nn.relu(x),
    ][form]()


def _bent(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    wide = x.shape[-1]
    return [
        lambda: tf.sigmoid(tf.squeeze(tf.expand_dims(x, 2), 2)),
        lambda: tf.reshape(tf.tanh(tf.reshape(x, [-1, wide])), tf.shape(x)),
        lambda: tf.transpose(tf.nn.relu(tf.transpose(x, [0, 2, 1])), [0, 2, 1]),
        lambda: tf.where(x > 0.1, x, tf.zeros_like(x)),
        lambda: tf.reshape(tf.reduce_sum(tf.reshape(x, [-1, wide, 1]) * weight(wide), -1), [1, -1, wide]),
    ][form]()


def _each_behaviour(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    """Items beside, plus or times behaviours, [1, n, behaviours, c], reduced over the behaviours."""
    n, wide = _count(items), x.shape[-1]
    item, behaviours = x[:, :, None], tf.matmul(g.h, weight(4, wide))[:, None]
    if form < 2:
        tiled = tf.tile(item, [1, 1, BEHAVIOURS, 1]), tf.tile(behaviours, [1, n, 1, 1])
        both = tf.concat([*tiled, tiled[0] * tiled[1]][: 2 + form], axis=-1)
    else:
        both = [item + behaviours, item - behaviours, item * behaviours][form - 2]
    rows = tf.nn.relu(tf.matmul(tf.reshape(both, [-1, both.shape[-1]]), weight(both.shape[-1], 3)))
    return tf.reduce_sum(tf.reshape(rows, [1, n, BEHAVIOURS, 3]) * g.mask[:, None, :, None], axis=2)


def _residual(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    wide = x.shape[-1]
    other = tf.matmul(items, weight(DIM, wide))
    return [
        lambda: x + other,
        lambda: tf.concat([x, items], -1),
        lambda: tf.nn.relu(x) * tf.sigmoid(other),
        lambda: tf.concat([other, x, x], -1),
        lambda: x - tf.reduce_mean(items, -1, keepdims=True),
    ][form]()


def _tensordot(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    """Products that are written for more than two dimensions, and what models put before them."""
    n, wide = _count(items), x.shape[-1]
    if form == 4:
        return tf.einsum("bnd,bld->bnl", tf.einsum("bnd,dh->bnh", x, weight(wide, 4)), g.h)
    if form == 1:
        x = tf.concat([tf.repeat(g.u[:, None], n, axis=1), x], axis=-1) * weight(4 + wide) + weight(1, 4 + wide)
    if form == 2:
        fields = [tf.tile(g.u[:, None, :, None], [1, n, 1, 1]), x[..., None]]
        x = tf.reshape(tf.concat(fields, axis=2), [1, n, 4 + wide])
    if form == 3:
        x = tf.nn.relu(x * g.u[:, None, :1] - weight(wide))
    return tf.tensordot(x, weight(x.shape[-1], 3), axes=1) + weight(3)


def _pooled(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    """A feature of several values, embedded and pooled beside a bias, as GlobalAveragePooling and its like do it."""
    wide = x.shape[-1]
    table, bias = weight(VOCABULARY, wide), weight(wide)
    ids = tf.repeat(g.ids, _count(items), axis=0) if form in (0, 3) else g.ids
    embedded = tf.gather(table, ids)
    known = tf.cast(ids > 0, tf.float32)[..., None]
    pooled = [
        lambda: tf.reduce_mean(embedded, 1),
        lambda: tf.math.divide_no_nan(tf.reduce_sum(embedded * known, 1), tf.reduce_sum(known, 1)),
        lambda: tf.reduce_mean(tf.boolean_mask(embedded, ids > 0), 0, keepdims=True),
        lambda: tf.reduce_max(tf.where(known > 0, embedded, -9.0), 1),
        lambda: tf.reduce_sum(tf.one_hot(ids, wide) * known, 1),
    ][form]()
    rows = tf.matmul(tf.reshape(x, [-1, wide]), weight(wide, wide))
    return tf.reshape(pooled + rows + bias, [1, _count(items), wide])


def _unknown_row(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    """What nobody can tell the shape of before it runs, though it always has the same."""
    wide = x.shape[-1]
    row, one = tf.matmul(g.u, weight(4, wide)), tf.shape(g.ids)[1] * 0 + 1
    some = tf.reshape(row, [one, wide])
    any_rank = tf.reshape(row, tf.repeat([1, wide], [one, 1]))
    x = tf.matmul(tf.reshape(x, [-1, wide]), weight(wide, wide))
    x = [
        lambda: some + x + weight(wide),
        lambda: any_rank + x + weight(wide),
        lambda: tf.nn.relu(x + weight(wide)) * some - any_rank,
        lambda: tf.matmul(tf.concat([tf.tile(some, [_count(items), 1]), x], -1), weight(2 * wide, wide)),
        lambda: tf.nn.relu(x * any_rank) - some * tf.nn.relu(-x * any_rank),
    ][form]()
    return tf.ensure_shape(tf.reshape(x, [1, _count(items), wide]), [1, None, wide])


def _long_attention(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    """Attention over behaviours of which nobody says how many there are, and a mask over them."""
    query, long = tf.matmul(x, weight(x.shape[-1], 4)), g.long
    if form % 2:
        long = tf.matmul(long, weight(4, 4))
    logits = tf.matmul(query, long, transpose_b=True)
    if form == 4:
        logits = tf.einsum("bnd,bld->bnl", query, long)
    if form >= 2:
        logits = tf.where(tf.range(tf.shape(long)[1])[None, None] < 2, logits, -9.0)
    return tf.concat([tf.matmul(tf.nn.softmax(logits), g.long), x], axis=-1)


def _recurrent(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, g: Given) -> tf.Tensor:
    """A gated recurrent unit over the behaviours, of the user's state or of a state for each item."""
    wide = x.shape[-1]
    gate, candidate = weight(4, wide), weight(1, 4, wide)[0]
    own = weight(wide, wide)

    def step(place: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        behaviour = g.long[:, place]
        z = tf.sigmoid(tf.matmul(behaviour, gate) + tf.matmul(state, own))
        return place + 1, z * state + (1.0 - z) * tf.tanh(tf.matmul(behaviour, candidate))

    start = tf.reshape(x, [-1, wide]) if form == 4 else tf.zeros([1, wide])
    shapes = [tf.TensorShape([]), tf.TensorShape([None, wide])]
    steps = tf.shape(g.long)[1]
    state = tf.while_loop(lambda place, _: place < steps, step, [0, start], shape_invariants=shapes)[1]
    if form == 4:
        return tf.reshape(state, [1, _count(items), wide])
    return [
        lambda: x + state + weight(wide),
        lambda: tf.concat([x, tf.tile(tf.reshape(state, [1, 1, wide]), [1, _count(items), 1])], -1),
        lambda: tf.matmul(x, weight(wide, wide)) * state[:, None],
        lambda: tf.cond(steps > 2, lambda: x * state, lambda: x - state),
    ][form]()


STEPS: dict[str, Callable[..., tf.Tensor]] = {
    "dense": _dense,
    "by_user": _by_user,
    "attention": _attention,
    "beside_user": _beside_user,
    "with_row": _with_row,
    "batch_norm": _batch_norm,
    "prelu": _prelu,
    "bent": _bent,
    "each_behaviour": _each_behaviour,
    "residual": _residual,
    "tensordot": _tensordot,
    "pooled": _pooled,
    "unknown_row": _unknown_row,
    "long_attention": _long_attention,
    "recurrent": _recurrent,
}


def random_scorers() -> st.SearchStrategy[RandomScorer]:
    step = st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 4))
    return st.builds(RandomScorer, st.lists(step, min_size=1, max_size=5), st.sampled_from(["sum", "dense"]))
