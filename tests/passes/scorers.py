"""Scorers for the passes: traced, compiled, run beside the function that they were traced from."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.ops import CompiledScorer, Scorer, compile_scorer, trace_scorer

# Others than any extent of a model here.
COUNTS = (1, 7, 16)
Score = Callable[..., tf.Tensor]


def specs(user: Sequence[tf.Tensor]) -> list[tf.TensorSpec]:
    return [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in user]


def weights(*shape: int, seed: int = 0) -> tf.Variable:
    return tf.Variable(numbers(*shape, seed=seed + sum(shape)))


def numbers(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def run(compiled: CompiledScorer, user: Sequence[tf.Tensor], items: tf.Tensor) -> np.ndarray:
    """The scores, as a search computes them: what is prepared first, of rows where something was folded."""
    captured = list(compiled.scorer.captured)
    prepared: Any = compiled.scorer.prepare(*user, *captured) if compiled.scorer.prepare else []
    prepared = list(prepared) if isinstance(prepared, list | tuple) else [prepared]
    rows = compiled.fold(items) if compiled.fold else items
    return compiled.scorer.plain(*user, *prepared, rows, *captured).numpy()


def check(compiled: CompiledScorer, score: Score, user: Sequence[tf.Tensor], dim: int, tolerance: float = 1e-4) -> None:
    """The compiled scorer's scores are those of the function itself, whatever the number of items."""
    for count in COUNTS:
        items = numbers(1, count, dim, seed=count)
        np.testing.assert_allclose(run(compiled, user, items), score(*user, items), rtol=tolerance, atol=tolerance)


def compile_and_check(
    score: Score, user: Sequence[tf.Tensor], dim: int, passes: Sequence[str] = (), fold_items: bool = False
) -> CompiledScorer:
    user_specs = specs(user)
    compiled = compile_scorer(trace_scorer(score, user_specs, dim), user_specs, dim, fold_items, passes)
    assert [row.reason for row in compiled.report if row.name != "item_fold" and row.reason] == []
    check(compiled, score, user, dim)
    return compiled


def again(
    compiled: CompiledScorer, user: Sequence[tf.Tensor], passes: Sequence[str], fold_items: bool = False
) -> CompiledScorer:
    """Compiles what was compiled without `user_hoist`."""
    assert compiled.scorer.prepare is None
    scorer = Scorer(compiled.scorer.plain, compiled.scorer.captured, origin=compiled.scorer)  # Holds bodies of loops.
    return compile_scorer(scorer, specs(user), compiled.row_dim, fold_items, passes)


def rewrites(compiled: CompiledScorer, name: str) -> int:
    return sum(row.rewrites for row in compiled.report if row.name == name)


def reason(compiled: CompiledScorer, name: str) -> str:
    return next(row.reason for row in compiled.report if row.name == name)


def ops_of(compiled: CompiledScorer, graph: str = "score") -> Counter[str]:
    return Counter(node.op for node in compiled.graphs[graph].node)


def nodes_of(compiled: CompiledScorer, op: str, graph: str = "score") -> list[Any]:
    return [node for node in compiled.graphs[graph].node if node.op == op]
