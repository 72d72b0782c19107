"""The searches: they walk the graph to find the top-k items under the model's score."""

import dataclasses
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from tfserving_ext import ops
from tfserving_ext.errors import NannError
from tfserving_ext.index.coverage_rule import LEAST_EXPECTED
from tfserving_ext.index.format import Index
from tfserving_ext.ops import SearchResult, SurrogateStatistics
from tfserving_ext.retrieval.parameters import BestFirst, Rounds, ScorerOptions, Surrogate
from tfserving_ext.retrieval.top_k import K, TopK


class NeuralTopK(TopK):
    """Finds the top-k items of an index under a model's score; the approximate counterpart of `BruteForce`.

    Example:
      >>> from tfserving_ext.training import load_model
      >>> model = load_model("model").model
      >>> history = tf.constant([[100031, 100062]], tf.int64)
      >>> user = model.user({"item_history": history, "category_history": history % 31})
      >>> search = nann.NeuralTopK(nann.Index.open("index"), model.score)
      >>> scores, item_ids = search(user, k=5, seeds=history)
      >>> item_ids.shape
      TensorShape([1, 5])

    Attributes:
      index: the mapped index; its files are assets of every SavedModel that tracks this object.
      query_model: computes user tensors from what the searches are given; None if they are given user tensors.
      k: the number of items that a search returns if it is not told.
    """

    def __init__(
        self,
        index: Index,
        score: Callable[..., tf.Tensor],
        query_model: Callable[[Any], Any] | None = None,
        k: int = K,
        scorer: ops.Scorer | None = None,
        options: ScorerOptions = ScorerOptions(),  # noqa: B008
    ) -> None:
        """Maps the index.

        Args:
          index: an open index.
          score: the model's `score(user, items)` (see `models.RetrievalModel`).
          query_model: computes user tensors, one or several, from what a search gets as its first argument, such as a
            user tower; by default that are the user tensors themselves.
          k: the number of items that a search returns if it is not told.
          scorer: a function of the index's rows to use instead of `score`, which was traced or rewritten before
            (`ops.rewrite_scorer`); user tensors must have the shapes and types that it was traced for.
          options: how the scorer is run.
        """
        super().__init__(index, query_model, k)
        self._layers = len(index.layers)
        self._batch_sizes = tuple(options.batch_sizes)
        # A SavedModel must not track the traced functions, which are therefore hidden in a plain object.
        ran = {"batch_sizes": self._batch_sizes, "rewrite": options.rewrite}
        self._untracked = SimpleNamespace(score=score, xla=options.xla, scorer=scorer, scorers={}, options=ran)

    def _scorer(self, user: Sequence[tf.Tensor]) -> ops.Scorer:
        """Returns the score function, traced once for user tensors of these shapes, so that all searches share it."""
        if self._untracked.scorer is not None:
            return self._untracked.scorer
        scorers, score = self._untracked.scorers, self._untracked.score
        key = tuple((tensor.dtype, *tensor.shape[1:]) for tensor in user)
        if key not in scorers:

            def flat_score(*tensors: tf.Tensor) -> tf.Tensor:
                return score(tensors[:-1], tensors[-1])

            with tf.init_scope():  # Traced outside the function that calls the search, since others will use it too.
                scorers[key] = ops.trace_scorer(flat_score, user, self.index.dim, self._untracked.xla)
        return scorers[key]

    def _search(
        self,
        op: Callable[..., Any],
        user: Any,
        seeds: Any = None,
        exclude: Any = None,
        **parameters: Any,
    ) -> Any:
        user = self.user(user)
        given = {"seeds": self.index.as_numbers(seeds), "exclude": self.index.as_numbers(exclude), **parameters}
        found = op(self.index.resource_handle, user, self._scorer(user), **self._untracked.options, **given)
        if not self.index.has_keys:
            return found
        # A search answers its result alone, or with statistics of its own.
        result, *more = (found,) if isinstance(found, SearchResult) else found
        spelled = result._replace(item_ids=self.index.keys(result.item_ids))
        return (spelled, *more) if more else spelled

    def __call__(self, user: Any, k: Any = None, seeds: Any = None, **parameters: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs the default search: `best_first`, which takes the same arguments, without its statistics.

        Returns:
          Scores float32 [B, k] and item ids int64 [B, k], best first; ids are strings if the index has keys.
        """
        found = self.best_first(user, k, seeds, **parameters)
        return found.scores, found.item_ids

    def best_first(
        self,
        user: Any,
        k: Any = None,
        seeds: Any = None,
        frontier: Any = BestFirst.frontier,
        pool: Any = BestFirst.pool,
        max_steps: Any = BestFirst.max_steps,
        **limits: Any,
    ) -> SearchResult:
        """Runs the best-first search.

        Args:
          user: user tensors, each [B, ...], or what the query model takes.
          k: int32 [], number of items to return; by default `k` of the constructor.
          seeds: int64 [B, s], ids to start from, such as the user's history; unknown ids are ignored. A user without
            known seeds starts at the index's entry points. If the index has keys, ids may also be strings, here and in
            `exclude`.
          frontier: int32 [], see `BestFirst`.
          pool: int32 [], see `BestFirst`.
          max_steps: int32 [], see `BestFirst`.
          **limits: `exclude`, int64 [B, x], ids that are walked through but never returned, and take no room in the
            pool; `budget`, int64 [], the number of scored items, and `deadline_ms`, int32 [], the milliseconds, after
            which the search returns the best items so far; `filter`, string [B] or [1], the items wanted
            (docs/filters.md); `cap_by`, string [B] or [1], a column of the index's attributes, and `cap`, int32 [B] or
            [1], the number of returned items that may have the same value in it.

        Returns:
          A `SearchResult`: item_ids int64 [B, k], or string [B, k] and padded with "" if the index has keys; scores
          float32 [B, k], and the statistics, each [B].

        Raises:
          tf.errors.InvalidArgumentError: a parameter is out of its range.
        """
        own = {"k": self.count(k), "frontier": frontier, "pool": pool, "max_steps": max_steps}
        return self._search(ops.best_first_search, user, **own, seeds=seeds, **limits)

    def surrogate(
        self,
        user: Any,
        k: Any = None,
        seeds: Any = None,
        frontier: Any = Surrogate.frontier,
        pool: Any = Surrogate.pool,
        max_steps: Any = Surrogate.max_steps,
        **options: Any,
    ) -> tuple[SearchResult, SurrogateStatistics]:
        """Runs the surrogate search, which finds about what best-first finds with a fraction of its evaluations.

        Args:
          user: as in `best_first`.
          k: as in `best_first`.
          seeds: as in `best_first`.
          frontier: int32 [], see `Surrogate`.
          pool: int32 [], see `Surrogate`.
          max_steps: int32 [], see `Surrogate`.
          **options: `batch`, int32 [], and `expected_coverage`, float32 [], see `Surrogate`; and the limits of
            `best_first`.

        Returns:
          A `SearchResult`, see `best_first`, and a `SurrogateStatistics`: candidates int64 [B], prediction_error and
          estimated_coverage float32 [B], and fell_back bool [B].

        Raises:
          tf.errors.InvalidArgumentError: a parameter is out of its range, or the index has no features.
        """
        own = {"k": self.count(k), "frontier": frontier, "pool": pool, "max_steps": max_steps}
        return self._search(ops.surrogate_search, user, **own, seeds=seeds, **options)

    def rounds(
        self,
        user: Any,
        k: Any = None,
        ef: Any = Rounds.ef,
        rounds: Any = Rounds.rounds,
        **options: Any,
    ) -> SearchResult:
        """Runs the paper's search (Algorithms 1 and 2).

        Args:
          user: as in `best_first`.
          k: as in `best_first`.
          ef: int32 [layers], beam widths, start layer first.
          rounds: int32 [layers], rounds per layer, start layer first. A layer's walk ends early if no candidates are
            left.
          **options: `seeds`, which join when the search enters the ground layer, and the limits of `best_first`.

        Returns:
          A `SearchResult`; see `best_first`.

        Raises:
          tf.errors.InvalidArgumentError: a parameter is out of its range.
        """
        return self._search(ops.rounds_search, user, k=self.count(k), ef=ef, rounds=rounds, **options)

    def deployed(self, user: Any, level_topn: tf.Tensor, **options: Any) -> SearchResult:
        """Runs the search of the original's deployed graph.

        Args:
          user: as in `best_first`.
          level_topn: int32 [layers + ground rounds + 1]: the beam width of every layer above the ground, the number of
            items to pick in every round of the ground layer, and k. The original's has 6 entries.
          **options: `seeds`, which join when the search enters the ground layer, and the limits of `best_first`.

        Returns:
          A `SearchResult`; see `best_first`.

        Raises:
          tf.errors.InvalidArgumentError: a parameter is out of its range.
        """
        return self._search(ops.deployed_search, user, level_topn=level_topn, **options)

    def scores_of(self, user: Any, item_ids: tf.Tensor) -> tf.Tensor:
        """Scores given items as the searches score them.

        Args:
          user: as in `best_first`.
          item_ids: int64 [B, m].

        Returns:
          Scores, float32 [B, m]; minus infinity for ids that the index does not know.
        """
        user = self.user(user)
        scorer = self._scorer(user)

        def of_one(one: tuple[tuple[tf.Tensor, ...], tf.Tensor]) -> tf.Tensor:
            tensors, wanted = one
            rows, known = self.index.rows(wanted)
            return tf.where(known, scorer([tensor[None] for tensor in tensors], rows[None])[0], -float("inf"))

        return tf.map_fn(of_one, (user, item_ids), fn_output_signature=tf.TensorSpec([None], tf.float32))

    def warm_up(self, user: Any) -> None:
        """Runs the scorer once at every batch size that the index has enough items for.

        With XLA this compiles it, which takes about a second per size (docs/searches.md), so that requests need not
        wait for that.

        Args:
          user: user tensors of one user, each [1, ...], or what the query model takes.
        """
        ids = self.index.item_ids()
        for size in self._batch_sizes:
            # The seeds are the first batch, and the budget ends the search after it.
            seeds = ids[:size][None]
            self.best_first(user, k=1, seeds=seeds, budget=tf.maximum(tf.size(seeds), 1))
            if size >= ids.shape[0]:
                break

    def bind(self, parameters: BestFirst | Rounds, k: int) -> Callable[[Any, tf.Tensor | None], SearchResult]:
        """Returns a search with fixed parameters, as a function of user tensors and seeds.

        Args:
          parameters: the search, which is the paper's if they are `Rounds`; that one ignores the seeds.
          k: number of items to return.

        Raises:
          NannError: parameters do not fit the index.
        """
        self.check(parameters, k)
        if isinstance(parameters, Rounds):
            ef, rounds = parameters.ef, parameters.rounds
            return lambda user, seeds: self.rounds(user, k, ef, rounds)
        values = dataclasses.asdict(parameters)
        if isinstance(parameters, Surrogate):
            return lambda user, seeds: self.surrogate(user, k, seeds, **values)[0]
        return lambda user, seeds: self.best_first(user, k, seeds, **values)

    def check(self, parameters: BestFirst | Rounds, k: int = 1) -> None:
        """Checks that parameters and k fit the index and the op.

        Raises:
          NannError: a length does not fit the index's layers, a value is out of its range, or the index has no features
            for the surrogate search.
        """
        if not 1 <= k <= ops.MAX_WIDTH:
            raise NannError(f"k is {k}, allowed are 1 to {ops.MAX_WIDTH}")
        fields = dataclasses.asdict(parameters)
        if isinstance(parameters, Surrogate):
            if not self.index.has_features:
                raise NannError(
                    "the index has no features, which the surrogate search needs; build it with `nann index`"
                )
            expected = fields.pop("expected_coverage")
            if not LEAST_EXPECTED <= expected < 1:
                raise NannError(
                    f"expected_coverage is {expected}, allowed are numbers below 1 and at least {LEAST_EXPECTED:g}"
                )
        wanted = self._layers + 1
        for name, value in fields.items():
            values = value if isinstance(value, tuple) else (value,)
            if isinstance(value, tuple) and len(value) != wanted:
                raise NannError(
                    f"{name} is {list(value)}, the index needs {wanted} values, one per layer, start layer first"
                )
            high = ops.MAX_ROUNDS if name in ("rounds", "max_steps") else ops.MAX_WIDTH
            least, more = (0, ", and 0 for no limit") if name == "max_steps" else (1, "")
            for number in values:
                if not least <= number <= high:
                    raise NannError(f"{name} is {value}, allowed are 1 to {high}{more}")
