"""Scorers that are composed at random, of what models compose theirs of."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

DIM, BEHAVIOURS = 4, 3
# Of user vector, behaviours, mask and scale.
USER_SHAPES = ([1, 4], [1, BEHAVIOURS, 4], [1, BEHAVIOURS], [1])


class RandomScorer:
    """A score function: each step takes what it has of the items, [1, n, c], and returns [1, n, another c]."""

    def __init__(self, steps: Sequence[tuple[str, int]], end: str) -> None:
        self.steps, self.end = list(steps), end
        self._weights: dict[tuple, tf.Variable] = {}

    def __repr__(self) -> str:
        return f"RandomScorer({self.steps}, {self.end!r})"

    def __call__(self, *tensors: tf.Tensor) -> tf.Tensor:
        *user, items = tensors
        x = items
        for number, (name, form) in enumerate(self.steps):
            x = STEPS[name](partial(self._weight, number), form, x, items, *user)
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


def _dense(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, *user: tf.Tensor) -> tf.Tensor:
    """As a batched product, as Keras flattens, and transposed."""
    wide, width = x.shape[-1], 3 + form // 3
    bias = weight(width)
    if form % 3 == 0:
        return tf.matmul(x, weight(wide, width)) + bias
    if form % 3 == 1:
        rows = tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, wide]), weight(wide, width)), bias)
        return tf.reshape(rows, [1, _count(items), width])
    return tf.matmul(x, weight(width, wide), transpose_b=True) + bias


def _by_user(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, u: tf.Tensor, *user: tf.Tensor) -> tf.Tensor:
    wide, width = x.shape[-1], 2 + form
    matrix = tf.reshape(tf.matmul(u, weight(4, wide * width)), [1, wide, width] if form % 2 else [wide, width])
    if form % 2:
        return tf.matmul(x, matrix)
    return tf.reshape(tf.matmul(tf.reshape(x, [-1, wide]), matrix), [1, -1, width])


def _attention(
    weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, u: tf.Tensor, h: tf.Tensor, mask: tf.Tensor, *_
) -> tf.Tensor:
    query = tf.matmul(x, weight(x.shape[-1], 4))
    keys = tf.matmul(h, weight(4, 4)) if form % 2 else h
    logits = tf.matmul(query, keys, transpose_b=True) * 0.5
    if form >= 2:
        logits += (tf.cast(mask > 0, tf.float32)[:, None] - 1.0) * 9.0
    if form == 4:
        logits = tf.where((mask > 0)[:, None], logits, -9.0)
    return tf.concat([tf.matmul(tf.nn.softmax(logits), h), x], axis=-1)


def _beside_user(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, u: tf.Tensor, *user) -> tf.Tensor:
    n = _count(items)
    repeated = [
        lambda: tf.tile(u[:, None], [1, n, 1]),
        lambda: tf.broadcast_to(u, [1, n, 4]),
        lambda: tf.gather(u, tf.zeros([n], tf.int32))[None],
        lambda: u[:, None] * tf.ones([1, n, 1]),
        lambda: tf.tanh(tf.tile(u[:, None], [1, n, 1])) * tf.ones_like(items[..., :1]),
    ][form]()
    parts = [repeated, x] if form % 2 else [x, repeated, repeated * x[..., :1]]
    return tf.concat(parts, axis=-1)


def _with_row(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, u: tf.Tensor, *user: tf.Tensor) -> tf.Tensor:
    wide = x.shape[-1]
    row = tf.tanh(tf.matmul(u, weight(4, wide)))
    scale = user[2]
    return [
        lambda: x + row,
        lambda: row - x,
        lambda: x * row[:, None],
        lambda: (x * scale - scale) * weight(wide),
        lambda: x * weight(1, wide) + x[..., :1] * scale[:, None, None],
    ][form]()


def _batch_norm(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, *user: tf.Tensor) -> tf.Tensor:
    wide = x.shape[-1]
    x = tf.matmul(x, weight(wide, wide))
    if form % 2:
        x = x + weight(wide)
    factor = tf.math.rsqrt(tf.square(weight(1, wide)) + 0.5)
    return x * factor + (weight(wide) - weight(wide) * factor) if form < 3 else (x - 0.3) * factor


def _prelu(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, u: tf.Tensor, *user: tf.Tensor) -> tf.Tensor:
    a = weight(x.shape[-1])
    return [
        lambda: tf.nn.relu(x) - a * tf.nn.relu(-x),
        lambda: tf.nn.relu(x) + -a * tf.nn.relu(-x),
        lambda: tf.nn.relu(-x) * user[2] + tf.nn.relu(x),
        lambda: tf.where(x > 0, x, a * x),
        lambda: a * tf.nn.relu(-x) - tf.nn.relu(x),
    ][form]()


def _bent(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, *user: tf.Tensor) -> tf.Tensor:
    wide = x.shape[-1]
    return [
        lambda: tf.sigmoid(tf.squeeze(tf.expand_dims(x, 2), 2)),
        lambda: tf.reshape(tf.tanh(tf.reshape(x, [-1, wide])), tf.shape(x)),
        lambda: tf.transpose(tf.nn.relu(tf.transpose(x, [0, 2, 1])), [0, 2, 1]),
        lambda: tf.where(x > 0.1, x, tf.zeros_like(x)),
        lambda: tf.reshape(tf.reduce_sum(tf.reshape(x, [-1, wide, 1]) * weight(wide), -1), [1, -1, wide]),
    ][form]()


def _each_behaviour(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, u: tf.Tensor, *user) -> tf.Tensor:
    """Items beside, plus or times behaviours, [1, n, behaviours, c], reduced over the behaviours."""
    h, n, wide = user[0], _count(items), x.shape[-1]
    item, behaviours = x[:, :, None], tf.matmul(h, weight(4, wide))[:, None]
    if form < 2:
        tiled = tf.tile(item, [1, 1, BEHAVIOURS, 1]), tf.tile(behaviours, [1, n, 1, 1])
        both = tf.concat([*tiled, tiled[0] * tiled[1]][: 2 + form], axis=-1)
    else:
        both = [item + behaviours, item - behaviours, item * behaviours][form - 2]
    rows = tf.nn.relu(tf.matmul(tf.reshape(both, [-1, both.shape[-1]]), weight(both.shape[-1], 3)))
    return tf.reduce_sum(tf.reshape(rows, [1, n, BEHAVIOURS, 3]) * user[1][:, None, :, None], axis=2)


def _residual(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, *user: tf.Tensor) -> tf.Tensor:
    wide = x.shape[-1]
    other = tf.matmul(items, weight(DIM, wide))
    return [
        lambda: x + other,
        lambda: tf.concat([x, items], -1),
        lambda: tf.nn.relu(x) * tf.sigmoid(other),
        lambda: tf.concat([other, x, x], -1),
        lambda: x - tf.reduce_mean(items, -1, keepdims=True),
    ][form]()


def _tensordot(weight: Callable, form: int, x: tf.Tensor, items: tf.Tensor, u: tf.Tensor, *user) -> tf.Tensor:
    """Products that are written for more than two dimensions, and what models put before them."""
    n, wide = _count(items), x.shape[-1]
    if form == 4:
        return tf.einsum("bnd,bld->bnl", tf.einsum("bnd,dh->bnh", x, weight(wide, 4)), user[0])
    if form == 1:
        x = tf.concat([tf.repeat(u[:, None], n, axis=1), x], axis=-1) * weight(4 + wide) + weight(1, 4 + wide)
    if form == 2:
        fields = [tf.tile(u[:, None, :, None], [1, n, 1, 1]), x[..., None]]
        x = tf.reshape(tf.concat(fields, axis=2), [1, n, 4 + wide])
    if form == 3:
        x = tf.nn.relu(x * u[:, None, :1] - weight(wide))
    return tf.tensordot(x, weight(x.shape[-1], 3), axes=1) + weight(3)


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
}


def random_scorers() -> st.SearchStrategy[RandomScorer]:
    step = st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 4))
    return st.builds(RandomScorer, st.lists(step, min_size=1, max_size=5), st.sampled_from(["sum", "dense"]))
