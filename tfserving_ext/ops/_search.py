"""Python faces of the index and search ops. The ops' own docs are in `custom_ops/ops/`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfserving_ext.ops._library import load
from tfserving_ext.ops._scorer import Scorer, trace_scorer

# Scorer batches are padded to these sizes: 16, 32, 48, then four to every doubling. Fewer would waste a fifth of the
# time on padding (benchmarks/README.md); a scorer that is compiled for each size wants fewer.
DEFAULT_BATCH_SIZES = (16, 32, 48, *(quarter << power for power in range(4, 10) for quarter in (4, 5, 6, 7)), 4096)

# The op's own limits (custom_ops/core/search.h), for those who want to refuse earlier.
MAX_WIDTH = 1_000_000
MAX_ROUNDS = 10_000
# What the ops tell of their time when asked: `gather_us` and `merge_us`.
_PARTS = 2


class SearchResult(NamedTuple):
    """What a search returns.

    Attributes:
      item_ids: int64 [B, k], best first, the data's own ids; -1 where fewer than k items were reached.
      scores: float32 [B, k], the model's scores; -inf beside -1.
      items_scored: int64 [B], evaluations of the model.
      rounds: int32 [B], rounds that met a fresh item, the entry points' included.
      nan_scores: int64 [B], evaluations that gave NaN; they come after every number, as -inf.
      unknown_ids: int64 [B], entries of `seeds` and `exclude` that the index does not know.
      stopped: int32 [B], why the walk ended: 0 it was complete, 1 the budget, 2 the deadline, 3 "best_first" had
        more to expand after `max_steps` steps in a layer.
      search_us: int64 [B], microseconds that the search took.
      scorer_us: int64 [B], microseconds of these in the model; 0 where a built-in metric scores.
      gather_us: int64 [B], microseconds of these in collecting the candidates' rows for the model; 0 beside a metric.
      merge_us: int64 [B], microseconds of these in putting scored items in order and writing the answer. The rest of
        `search_us` is the walk (docs/search.md).
    """

    item_ids: tf.Tensor
    scores: tf.Tensor
    items_scored: tf.Tensor
    rounds: tf.Tensor
    nan_scores: tf.Tensor
    unknown_ids: tf.Tensor
    stopped: tf.Tensor
    search_us: tf.Tensor
    scorer_us: tf.Tensor
    gather_us: tf.Tensor
    merge_us: tf.Tensor


def index_handle(shared_name: str = "") -> tf.Tensor:
    """A handle, resource [], to an index that `index_open` fills."""
    return load().nann_index_handle(shared_name=shared_name)


def index_open(
    index: tf.Tensor, files: Sequence[Any], dim: int, validate: bool = True, dtype: str = "float32"
) -> tf.Operation:
    """Maps the files of an index into the resource `index`, without copying them.

    Args:
      index: resource [], from `index_handle`.
      files: 3 + 2 x layers paths: item_ids, item_embeddings, entry_points, then row_splits and neighbors of every
        layer, ground layer first (docs/format.md); for int8 one more, item_scales.
      dim: width of an item embedding.
      validate: read all edges once and check them against their bounds.
      dtype: of item_embeddings: "float32", "float16" or "int8".

    Raises:
      tf.errors.InvalidArgumentError: a file has the wrong size, or an entry is out of bounds.
      tf.errors.NotFoundError: a file is missing.
    """
    files = tf.stack(list(files))
    return load().nann_index_open(index=index, files=files, dim=dim, validate=validate, dtype=tf.dtypes.as_dtype(dtype))


def index_items(index: tf.Tensor) -> tf.Tensor:
    """The index's item ids, int64 [n], as a view of the mapped file."""
    return load().nann_index_items(index=index)


def index_gather(index: tf.Tensor, items: Any, dim: int) -> tf.Tensor:
    """Embeddings of items, float32 [m, dim] whatever the type of the table.

    Args:
      index: resource [], an open index.
      items: int32 [m], dense indices.
      dim: width of an item embedding.

    Raises:
      tf.errors.InvalidArgumentError: an item is out of bounds, or the index has another width.
    """
    return load().nann_index_gather(index=index, items=items, dim=dim)


def beam_search(
    index: tf.Tensor,
    user: Sequence[tf.Tensor],
    score: Callable[..., tf.Tensor] | Scorer,
    dim: int,
    k: Any,
    ef: Any,
    rounds: Any = (),
    exclude: Any = None,
    algorithm: str = "rounds",
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES,
    seeds: Any = None,
    budget: Any = 0,
    deadline_ms: Any = 0,
    xla: bool = False,
    optimize: bool = True,
) -> SearchResult:
    """Top-k items under `score` by beam search over the index's graph (arXiv 2202.10226, Algorithms 1 and 2).

    Args:
      index: resource [], an open index.
      user: the user tensors, each [B, ...]; all dimensions but the first should be static.
      score: called as score(*user, items), traced once with user tensors [1, ...] and items float32 [1, N, dim];
        returns float32 [1, N]. It must treat items independently: padded rows hold anything. Or a `Scorer`, which is
        not traced again.
      dim: width of an item embedding.
      k: int32 [], items wanted per user, 1 to 1,000,000.
      ef: int32, beam widths, start layer first. "rounds": one per layer. "deployed": one per layer above the ground,
        then the picks of each ground round, that is `level_topn` without its last entry. "best_first": [frontier,
        pool]; a pool below k counts as k.
      rounds: int32, for "rounds" the rounds per layer, start layer first; for "best_first" [max_steps], 0
        for no limit.
      exclude: int64 [B, x], ids that are walked through but never returned, and take no room in `ef`; None for none.
      algorithm: "rounds" (the paper's), "deployed" (the original's deployed graph), or "best_first" (expand the best of
        a pool until all of it is expanded).
      batch_sizes: sizes that scorer batches are padded to, increasing.
      seeds: int64 [B, s], ids to start from as well, such as the user's history; None for none. Unknown ids do nothing.
      budget: int64 [], evaluations after which the best so far is the answer; 0 for no limit.
      deadline_ms: int32 [], milliseconds after which no further round is begun; 0 for no limit.
      xla: have XLA compile `score`, once per batch size at its first use. Where the runtime has no XLA, or XLA cannot
        compile it, it runs as it is. Not read where `score` is a `Scorer`.
      optimize: let the passes (docs/scorer.md) rewrite the scorer when the search first runs, where that was not done
        before.

    Returns:
      A `SearchResult`. Ties are broken by the lower item index; NaN comes after every number, as -inf.

    Raises:
      tf.errors.InvalidArgumentError: a parameter is out of its range, or shapes disagree.
    """
    scorer = score if isinstance(score, Scorer) else trace_scorer(score, user, dim, xla)
    return _result(
        load().nann_beam_search(
            user=list(user),
            captured=list(scorer.captured),
            scorer=scorer.plain,
            compiled_scorer=[scorer.compiled] if scorer.compiled else [],
            prepare=[scorer.prepare] if scorer.prepare else [],
            batch_sizes=list(batch_sizes),
            optimize=optimize and scorer.origin is None,
            **_common(index, tf.shape(user[0])[0], k, ef, rounds, exclude, algorithm, seeds, budget, deadline_ms),
        )
    )


def metric_search(
    index: tf.Tensor,
    queries: tf.Tensor,
    metric: str,
    k: Any,
    ef: Any,
    rounds: Any = (1000,),
    exclude: Any = None,
    algorithm: str = "best_first",
    seeds: Any = None,
    budget: Any = 0,
    deadline_ms: Any = 0,
) -> SearchResult:
    """Top-k items by a metric of a query and the item embeddings: the same walk without a model.

    Args:
      index: resource [], an open index.
      queries: float32 [B, dim].
      metric: what scores, higher is better: "dot", "l2" (minus the squared distance) or "cosine".
      k: int32 [], as in `beam_search`, and so are all that follow.
      ef: int32.
      rounds: int32.
      exclude: int64 [B, x].
      algorithm: "best_first", "rounds" or "deployed".
      seeds: int64 [B, s].
      budget: int64 [].
      deadline_ms: int32 [].

    Raises:
      tf.errors.InvalidArgumentError: a parameter is out of its range, or shapes disagree.
    """
    batch = tf.shape(queries)[0]
    common = _common(index, batch, k, ef, rounds, exclude, algorithm, seeds, budget, deadline_ms)
    return _result(load().nann_metric_search(queries=queries, metric=metric, **common))


def _result(outputs: Sequence[Any]) -> SearchResult:
    *always, parts = outputs
    return SearchResult(*always, *parts)


def _common(
    index: tf.Tensor,
    batch: tf.Tensor,
    k: Any,
    ef: Any,
    rounds: Any,
    exclude: Any,
    algorithm: str,
    seeds: Any,
    budget: Any,
    deadline_ms: Any,
) -> dict[str, Any]:
    """The inputs and attributes that all search ops have."""
    none = tf.zeros([batch, 0], tf.int64)
    return {
        "index": index,
        "k": k,
        "ef": ef,
        "rounds": tf.cast(rounds, tf.int32),
        "exclude": none if exclude is None else exclude,
        "seeds": none if seeds is None else seeds,
        "budget": tf.cast(budget, tf.int64),
        "deadline_ms": deadline_ms,
        "algorithm": algorithm,
        "num_parts": _PARTS,
    }
