"""One function for all searches, so that tests can be parametrized by the search."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfserving_ext import ops


def any_search(
    index: tf.Tensor,
    user: Sequence[tf.Tensor],
    score: Callable[..., tf.Tensor] | ops.Scorer | str,
    dim: int,
    k: Any,
    ef: Any,
    rounds: Any = (),
    exclude: Any = None,
    algorithm: str = "rounds",
    xla: bool = False,
    **options: Any,
) -> ops.SearchResult:
    """Runs one of the searches.

    Args:
      index: resource [], an open index.
      user: the user tensors.
      score: a function, which is traced here, a `Scorer`, or the name of a metric.
      dim: width of an item embedding.
      k: int32 [].
      ef: beam widths; for "deployed" `level_topn` without its last entry, which is k; for "best_first"
        and "surrogate" [frontier, pool].
      rounds: rounds per layer; for "best_first" [max_steps], for "surrogate" [max_steps, batch].
      exclude: int64 [B, x].
      algorithm: the search, "rounds", "deployed", "best_first" or "surrogate".
      xla: let XLA compile the function.
      **options: see `ops.SearchOptions`.
    """
    scorer = score if isinstance(score, (ops.Scorer, str)) else ops.trace_scorer(score, user, dim, xla)
    common = {"exclude": exclude, **options}
    if algorithm == "rounds":
        return ops.rounds_search(index, user, scorer, k, ef, rounds, **common)
    if algorithm == "deployed":
        return ops.deployed_search(index, user, scorer, tf.concat([tf.cast(ef, tf.int32), [k]], axis=0), **common)
    if algorithm == "surrogate":
        return ops.surrogate_search(index, user, scorer, k, ef[0], ef[1], rounds[0], batch=rounds[1], **common)[0]
    return ops.best_first_search(index, user, scorer, k, ef[0], ef[1], rounds[0], **common)
