"""Scorers for the passes: traced, rewritten, run beside the function that they were traced from."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.ops import RewrittenScorer, Scorer, rewrite_scorer, trace_scorer

# Others than any extent of a model here.
COUNTS = (1, 7, 16)
Score = Callable[..., tf.Tensor]


def specs(user: Sequence[tf.Tensor]) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in user]


def weights(*shape: int, seed: int = 0) -> tf.Variable:
    return tf.Variable(numbers(*shape, seed=seed + sum(shape)))


def numbers(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def run(rewritten: RewrittenScorer, user: Sequence[tf.Tensor], items: tf.Tensor) -> np.ndarray:
    """The scores, as a search computes them: what is prepared first, of rows where something was folded."""
    captured = list(rewritten.scorer.captured)
    prepared: Any = rewritten.scorer.prepare(*user, *captured) if rewritten.scorer.prepare else []
    prepared = list(prepared) if isinstance(prepared, list | tuple) else [prepared]
    rows = rewritten.fold(items) if rewritten.fold else items
    return rewritten.scorer.plain(*user, *prepared, rows, *captured).numpy()


def check(
    rewritten: RewrittenScorer, score: Score, user: Sequence[tf.Tensor], dim: int, tolerance: float = 1e-4
) -> None:
    """The rewritten scorer's scores are those of the function itself, whatever the number of items."""
    for count in COUNTS:
        items = numbers(1, count, dim, seed=count)
        np.testing.assert_allclose(run(rewritten, user, items), score(*user, items), rtol=tolerance, atol=tolerance)


def rewrite_and_check(
    score: Score, user: Sequence[tf.Tensor], dim: int, passes: Sequence[str] = (), fold_items: bool = False
) -> RewrittenScorer:
    user_specs = specs(user)
    rewritten = rewrite_scorer(trace_scorer(score, user_specs, dim), user_specs, dim, fold_items, passes)
    assert [row.reason for row in rewritten.report if row.name != "item_fold" and row.reason] == []
    check(rewritten, score, user, dim)
    return rewritten


def again(
    rewritten: RewrittenScorer, user: Sequence[tf.Tensor], passes: Sequence[str], fold_items: bool = False
) -> RewrittenScorer:
    """Rewrites what was rewritten without `user_hoist`."""
    assert rewritten.scorer.prepare is None
    before = rewritten.scorer
    scorer = Scorer(before.plain, before.captured, origin=before)  # Holds bodies of loops.
    return rewrite_scorer(scorer, specs(user), rewritten.row_dim, fold_items, passes)


def rewrites(rewritten: RewrittenScorer, name: str) -> int:
    return sum(row.rewrites for row in rewritten.report if row.name == name)


def reason(rewritten: RewrittenScorer, name: str) -> str:
    return next(row.reason for row in rewritten.report if row.name == name)


def ops_of(rewritten: RewrittenScorer, graph: str = "score") -> Counter[str]:
    return Counter(node.op for node in rewritten.graphs[graph].node)


def nodes_of(rewritten: RewrittenScorer, op: str, graph: str = "score") -> list[Any]:
    return [node for node in rewritten.graphs[graph].node if node.op == op]
