"""One pattern for each pass, with a place in its middle to put something."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tests.passes.scorers import Score, numbers, weights

DIM = 4
USER = [numbers(1, 4, seed=3)]
Middle = Callable[[tf.Tensor], tf.Tensor]


def rows_of(items: tf.Tensor) -> tf.Tensor:
    return tf.reshape(items, [-1, items.shape[-1]])


def tiled(u: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """The user's row for every item, [n, 4]."""
    return tf.tile(u, [tf.shape(items)[1], 1])


def one_score(x: tf.Tensor) -> tf.Tensor:
    """[1, n] of [n, c] or [1, n, c]."""
    return tf.reshape(tf.reduce_sum(x, -1), [1, -1])


class Pattern(NamedTuple):
    """What a pass looks for.

    Attributes:
      build: (u, items, middle) -> [..., c] with n rows; `middle` is applied to what is not there afterwards.
      before: how often the graph has an op.
      after: how often it has it after the pass.
      rewrites: what the pass counts.
    """

    build: Callable[[tf.Tensor, tf.Tensor, Middle], tf.Tensor]
    before: dict[str, int]
    after: dict[str, int]
    rewrites: int = 1

    def score(self, middle: Middle = lambda x: x) -> Score:
        return lambda u, items: one_score(self.build(u, items, middle))


W, K, BESIDE, STACK = weights(4, 9), weights(9, 2), weights(8, 3), weights(1, 4, 9)
SCALE, SHIFT, SLOPE = weights(9, seed=1), weights(9, seed=2), weights(4, seed=3)


def _prelu(u: tf.Tensor, items: tf.Tensor, middle: Middle) -> tf.Tensor:
    x = rows_of(items)
    return tf.nn.relu(x) - SLOPE * middle(tf.nn.relu(-x))


def _factor(u: tf.Tensor, items: tf.Tensor, middle: Middle) -> tf.Tensor:
    both = tf.stack([u, -u], axis=1)[:, None]  # Two rows of the user, [1, 1, 2, 4].
    return tf.reshape(tf.matmul(tf.reshape(middle(items[:, :, None] * both), [-1, 4]), W), [-1, 18])


PATTERNS = {
    "flatten_rows": Pattern(
        lambda u, items, middle: tf.nn.relu(middle(tf.matmul(items, STACK)) + u[:, :1]),
        {"BatchMatMulV2": 1},
        {"MatMul": 1, "Relu": 1},
        # The product, the sum, the rectifier, and at the end a reshape to what it was.
        4,
    ),
    "broadcast_elimination": Pattern(
        lambda u, items, middle: tf.tanh(middle(tiled(u, items))) + rows_of(items),
        {"Tile": 1, "Tanh": 1, "AddV2": 1},
        {"Tile": 0, "BroadcastTo": 0, "Tanh": 1, "AddV2": 1},
        # Behind tanh, and away.
        2,
    ),
    "factor_absorption": Pattern(
        _factor,
        {"Mul": 1, "MatMul": 1, "Transpose": 0},
        # The product with the weights.
        {"Mul": 1, "MatMul": 1, "Transpose": 1},
    ),
    "concat_matmul_split": Pattern(
        lambda u, items, middle: tf.matmul(middle(tf.concat([rows_of(items), tiled(u, items)], 1)), BESIDE),
        {"ConcatV2": 1, "Tile": 1, "MatMul": 1},
        {"ConcatV2": 0, "Tile": 0, "MatMul": 2, "AddV2": 1},
    ),
    "batch_norm_folding": Pattern(
        lambda u, items, middle: middle(tf.matmul(rows_of(items), W)) * SCALE + SHIFT,
        {"MatMul": 1, "Mul": 1, "AddV2": 1},
        {"MatMul": 1, "Mul": 1, "AddV2": 1},
    ),
    "projection_absorption": Pattern(
        lambda u, items, middle: tf.matmul(middle(tf.matmul(rows_of(items), W) + SHIFT), K),
        {"MatMul": 2, "AddV2": 1},
        {"MatMul": 3, "AddV2": 1},
    ),
    "prelu_fusion": Pattern(
        _prelu,
        {"Relu": 2, "Neg": 1, "Sub": 1, "Mul": 1},
        {"Relu": 1, "Neg": 0, "Sub": 0, "Mul": 1, "Minimum": 1, "AddV2": 1},
    ),
}
