"""Python functions for the index and search ops. The ops' own docs are in `custom_ops/ops/`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfserving_ext.ops._library import load
from tfserving_ext.ops._scorer import Scorer

# Scorer batches are padded to these sizes: 16, 32, 48, then four sizes per doubling. With fewer sizes, a fifth of the
# time would be spent on padding (benchmarks/README.md); a scorer that is compiled for each size needs fewer.
DEFAULT_BATCH_SIZES = (16, 32, 48, *(quarter << power for power in range(4, 10) for quarter in (4, 5, 6, 7)), 4096)

# The limits of the ops (custom_ops/core/search.h), for callers that check parameters earlier.
MAX_WIDTH = 1_000_000
MAX_ROUNDS = 10_000


class SearchResult(NamedTuple):
    """The result of a search.

    Attributes:
      item_ids: int64 [B, k], the data's own ids, best first; padded with -1 if fewer than k items were found.
      scores: float32 [B, k], the model's scores; -inf where `item_ids` is -1.
      items_scored: int64 [B], number of items that were scored.
      rounds: int32 [B], number of rounds that scored a new item, including that of the entry points.
      nan_scores: int64 [B], number of scores that were NaN; such items come last, with a score of -inf.
      unknown_ids: int64 [B], number of entries of `seeds` and `exclude` that the index does not know.
      stopped: int32 [B], why the walk ended: 0 it was complete, 1 the budget, 2 the deadline, 3 the best-first search
        had more to expand after `max_steps` steps in a layer.
      search_us: int64 [B], microseconds of the search.
      scorer_us: int64 [B], the part of `search_us` in the model; 0 for a built-in metric.
      gather_us: int64 [B], the part of `search_us` for collecting candidates' rows for the model; 0 for a metric.
      merge_us: int64 [B], the part of `search_us` for ordering scored items and writing the answer. The rest is the
        walk (docs/searches.md).
      index_sequence: int64 [B], the sequence number of the last update in the searched index; 0 for an index as built.
      exact: bool [B], whether every item that passes the `filter` was scored, so that the answer is that of scoring all
        items; False without a filter.
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
    index_sequence: tf.Tensor
    exact: tf.Tensor


class SurrogateStatistics(NamedTuple):
    """What the surrogate search knows of itself.

    Attributes:
      candidates: int64 [B], number of items whose score it predicted or knew.
      prediction_error: float32 [B], the standard error of its last predictions, in log-odds of an item's rank.
      estimated_coverage: float32 [B], the share of the best k that it expects to have found, by the cautious measure of
        `expected_coverage`; 0 where its predictions failed, -100 where it ended before it knew anything.
      fell_back: bool [B], whether its predictions failed and best-first finished the walk.
    """

    candidates: tf.Tensor
    prediction_error: tf.Tensor
    estimated_coverage: tf.Tensor
    fell_back: tf.Tensor


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Options that every search takes besides its own parameters.

    Attributes:
      exclude: int64 [B, x], ids that are walked through but never returned, and take no room in any beam or pool; None
        for none. Unknown ids are ignored.
      seeds: int64 [B, s], ids to start from, such as the user's history; None for none. Unknown ids are ignored.
      budget: int64 [], the number of scored items after which the search returns the best so far; 0 for no limit.
      deadline_ms: int32 [], milliseconds after which no further batch is started; 0 for no limit.
      filter: string [B] or [1], the items that each user, or all users, want (docs/filters.md); None for all items, and
        so is an empty string. Items that do not pass are neither scored nor returned.
      cap_by: string [B] or [1], a column of the index's attributes of integers, strings or booleans: at most `cap` of
        the returned items have the same value in it. None, or an empty string, for no limit. Items without a value are
        not limited. The answer is the best that keeps to the cap among all items that were scored, and the search goes
        on until it has k items (docs/filters.md).
      cap: int32 [B] or [1], see `cap_by`.
      batch_sizes: sizes that scorer batches are padded to, ascending. Not used by metrics.
      rewrite: rewrite the scorer by the passes (docs/scorer.md) when the search first runs, unless it was rewritten
        before.
    """

    exclude: Any = None
    seeds: Any = None
    budget: Any = 0
    deadline_ms: Any = 0
    filter: Any = None
    cap_by: Any = None
    cap: Any = (1,)
    batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES
    rewrite: bool = True


@dataclasses.dataclass(frozen=True)
class SurrogateOptions(SearchOptions):
    """Options of the surrogate search.

    Attributes:
      batch: int32 [], items evaluated per step; a quarter of k if that is more.
      expected_coverage: float32 [], below 1 and at least -100; the search ends when this share of the best k is
        expected to be found. The expectation is so cautious that much is found where it is negative.
    """

    batch: Any = 64
    expected_coverage: Any = 0.9


def best_first_search(
    index: tf.Tensor,
    user: Sequence[tf.Tensor],
    scorer: Scorer | str,
    k: Any,
    frontier: Any,
    pool: Any,
    max_steps: Any = 0,
    **options: Any,
) -> SearchResult:
    """Finds the top-k items by expanding the best items of a pool until all of it is expanded (docs/searches.md).

    Args:
      index: resource [], an open index.
      user: the user tensors, each [B, ...]; all dimensions except the first should be static. For a metric, one tensor
        float32 [B, dim], the queries.
      scorer: the model's score function, from `trace_scorer` or `rewrite_scorer`; or a metric of query and item
        embedding, where higher is better: "dot", "l2" (minus the squared distance) or "cosine".
      k: int32 [], items to return per user, 1 to 1,000,000.
      frontier: int32 [], items expanded per step.
      pool: int32 [], number of scored items that are kept; below k it counts as k.
      max_steps: int32 [], the most steps in a layer; 0 for no limit.
      **options: see `SearchOptions`.

    Returns:
      A `SearchResult`. Ties are broken by the lower item index; items whose score is NaN come last, with -inf.

    Raises:
      tf.errors.InvalidArgumentError: a parameter is out of its range, or shapes disagree.
    """
    own = {"k": k, "frontier": frontier, "pool": pool, "max_steps": max_steps}
    return _run(load().nann_best_first_search, index, user, scorer, _integers(own), SearchOptions(**options))[0]


def surrogate_search(
    index: tf.Tensor,
    user: Sequence[tf.Tensor],
    scorer: Scorer | str,
    k: Any,
    frontier: Any,
    pool: Any,
    max_steps: Any = 0,
    **options: Any,
) -> tuple[SearchResult, SurrogateStatistics]:
    """Finds the top-k items by evaluating those that a surrogate predicts to be among them (docs/surrogate.md).

    Args:
      index: resource [], an index that is open with `features`.
      user: see `best_first_search`.
      scorer: see `best_first_search`.
      k: int32 [], items to return per user, 1 to 1,000,000.
      frontier: int32 [], items expanded per step above the ground layer, and where predictions fail.
      pool: int32 [], below k it counts as k; neighbours of the best one and a half times as many items are candidates.
        Where predictions fail, the pool of the best-first search.
      max_steps: int32 [], the most steps in a layer; 0 for no limit.
      **options: see `SearchOptions` and `SurrogateOptions`.

    Returns:
      A `SearchResult`, see `best_first_search`, and the surrogate's statistics.

    Raises:
      tf.errors.InvalidArgumentError: a parameter is out of its range, shapes disagree, or the index has no features.
    """
    given = SurrogateOptions(**options)
    own = {"k": k, "frontier": frontier, "pool": pool, "max_steps": max_steps, "batch": given.batch}
    parameters = {**_integers(own), "expected_coverage": tf.cast(given.expected_coverage, tf.float32)}
    found, own_outputs = _run(load().nann_surrogate_search, index, user, scorer, parameters, given)
    return found, SurrogateStatistics(*own_outputs)


def rounds_search(
    index: tf.Tensor, user: Sequence[tf.Tensor], scorer: Scorer | str, k: Any, ef: Any, rounds: Any, **options: Any
) -> SearchResult:
    """Finds the top-k items by the paper's beam search (arXiv 2202.10226, Algorithms 1 and 2).

    Args:
      index: resource [], an open index.
      user: see `best_first_search`.
      scorer: see `best_first_search`.
      k: int32 [], items to return per user, 1 to 1,000,000.
      ef: int32 [layers + 1], beam widths, start layer first.
      rounds: int32 [layers + 1], rounds per layer, start layer first; the start layer must have one.
      **options: see `SearchOptions`.

    Returns:
      A `SearchResult`; see `best_first_search`.

    Raises:
      tf.errors.InvalidArgumentError: a parameter is out of its range, or shapes disagree.
    """
    own = {"k": k, "ef": ef, "rounds": rounds}
    return _run(load().nann_rounds_search, index, user, scorer, _integers(own), SearchOptions(**options))[0]


def deployed_search(
    index: tf.Tensor, user: Sequence[tf.Tensor], scorer: Scorer | str, level_topn: Any, **options: Any
) -> SearchResult:
    """Finds the top-k items by the search of the original's deployed graph.

    Args:
      index: resource [], an open index.
      user: see `best_first_search`.
      scorer: see `best_first_search`.
      level_topn: int32 [layers + ground rounds + 1]: the beam width of every layer above the ground, the number of
        items to pick in every round of the ground layer, and k.
      **options: see `SearchOptions`.

    Returns:
      A `SearchResult`; see `best_first_search`.

    Raises:
      tf.errors.InvalidArgumentError: a parameter is out of its range, or shapes disagree.
    """
    own = {"level_topn": level_topn}
    return _run(load().nann_deployed_search, index, user, scorer, _integers(own), SearchOptions(**options))[0]


def _integers(parameters: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    return {name: tf.cast(value, tf.int32) for name, value in parameters.items()}


def _run(
    op: Callable[..., Any],
    index: tf.Tensor,
    user: Sequence[tf.Tensor],
    scorer: Scorer | str,
    parameters: Mapping[str, tf.Tensor],
    options: SearchOptions,
) -> tuple[SearchResult, Sequence[tf.Tensor]]:
    """Runs a search op; returns what all searches answer, and the outputs that this one alone has."""
    none = tf.zeros([tf.shape(user[0])[0], 0], tf.int64)
    scored: dict[str, Any] = {"captured": [], "metric": scorer}
    if isinstance(scorer, Scorer):
        scored = {
            "captured": list(scorer.captured),
            "scorer": [scorer.plain],
            "compiled_scorer": [scorer.compiled] if scorer.compiled else [],
            "prepare": [scorer.prepare] if scorer.prepare else [],
            "rewrite": options.rewrite and scorer.origin is None,
            "batch_sizes": list(options.batch_sizes),
        }
    filtered = options.filter is not None
    *outputs, exact = op(
        index=index,
        exclude=none if options.exclude is None else options.exclude,
        seeds=none if options.seeds is None else options.seeds,
        budget=tf.cast(options.budget, tf.int64),
        deadline_ms=options.deadline_ms,
        **parameters,
        user=list(user),
        filters=[options.filter] if filtered else [],
        caps=[] if options.cap_by is None else [options.cap_by, tf.cast(options.cap, tf.int32)],
        Texact=[tf.bool] if filtered else [],
        **scored,
    )
    shared = len(SearchResult._fields) - 1
    told = exact[0] if filtered else tf.zeros_like(outputs[2], tf.bool)
    return SearchResult._make([*outputs[:shared], told]), outputs[shared:]
