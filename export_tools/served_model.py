"""The module that is exported: user tower, beam search and scorer as TensorFlow functions with four signatures."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from export_tools.sources import Source
from tfserving_ext import ops
from tfserving_ext.index.format import Index
from tfserving_ext.models import UserTensors
from tfserving_ext.ops import SearchResult
from tfserving_ext.retrieval import BestFirst, NeuralTopK, Rounds

# A request of more users than this is refused before anything is computed: what it makes us allocate is bounded.
MAX_USERS = 1024
# level_topn of the original: beams of layers 2 and 1, picks of three ground rounds, k.
LEVEL_TOPN_LENGTH = 6
# What a search answers, of all that it says of itself.
ANSWER = ("item_ids", "scores", "items_scored", "rounds", "stopped")


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What a request may leave out.

    Attributes:
      k: items wanted.
      best_first: parameters of `retrieve`.
      rounds: parameters of `retrieve_rounds`.
    """

    k: int = 200
    best_first: BestFirst = BestFirst()  # noqa: RUF009 - frozen
    rounds: Rounds = Rounds()  # noqa: RUF009


class ServedModel(tf.Module):
    """A model over an index.

    Signatures:
      retrieve: the best-first search from raw features, the model's own (for the project's models `item_history` int64
        [B, L], oldest first, any L, and `category_history`, which may be left out). And, each with a default, `k`,
        `frontier` and `pool` int32 [], `exclude` int64 [B, x] or [1, x], ids never to return, `budget` int64 [] and
        `deadline_ms` int32 [], 0 for no limit; `seeds` int64 [B, s] or [1, s], ids to start from, where no feature of
        the model holds them. Unknown ids count as missing. Returns `item_ids` int64 [B, k], `scores` float32 [B, k],
        `items_scored` int64 [B], `rounds` int32 [B], `stopped` int32 [B].
      retrieve_trace: the same, and where its time went: `user_us`, `walk_us`, `gather_us`, `scorer_us` and `merge_us`,
        int64 [B], microseconds (docs/search.md).
      retrieve_rounds: the paper's search, with `ef` and `rounds` int32 [layers] in place of `frontier` and `pool`.
      serving_default: the original's where the model can answer it: `comm_seq` float16 [1, width], the embedded
        behaviours, and `level_topn` int32 [6]; returns `top_k` int64 [1, level_topn[5]]. Else `retrieve`.

    The functions `user` and `score` are saved beside the signatures: `tf.saved_model.load` gives the model back. Where
    the passes rewrote the scorer, so are `score_rows`, as the search scores, and `fold`, which makes rows of items.
    """

    def __init__(
        self, source: Source, index: Index, defaults: Defaults, compiled: ops.CompiledScorer | None = None
    ) -> None:
        """Puts the parts together.

        Args:
          source: the model.
          index: what is searched; of rows where the scorer was folded.
          defaults: what a request may leave out.
          compiled: the scorer after the passes; None leaves it to the op, at the first request.

        Raises:
          NannError: default parameters do not fit the index.
        """
        super().__init__()
        self.tracked = source.tracked
        self._untracked = SimpleNamespace(source=source, defaults=defaults)
        self.search = NeuralTopK(index, source.score, scorer=None if compiled is None else compiled.scorer)
        self.search.check(defaults.best_first, defaults.k)
        self.search.check(defaults.rounds)
        specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in source.features.items()}

        @tf.function(input_signature=[specs], autograph=False)
        def user(features: dict[str, tf.Tensor]) -> UserTensors:
            return source.user_tensors(features)

        tensors = user.get_concrete_function().structured_outputs
        one = tuple(tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype) for tensor in tensors)

        item_dim = index.dim if compiled is None else compiled.item_dim

        @tf.function(input_signature=[one, tf.TensorSpec([1, None, item_dim], tf.float32)], autograph=False)
        def score(user: UserTensors, items: tf.Tensor) -> tf.Tensor:
            return source.score(user, items)

        self.user, self.score = user, score
        if compiled is None:
            return

        @tf.function(input_signature=[one, tf.TensorSpec([1, None, index.dim], tf.float32)], autograph=False)
        def score_rows(user: UserTensors, rows: tf.Tensor) -> tf.Tensor:
            return compiled.scorer(user, rows)

        self.score_rows = score_rows
        if compiled.fold is not None:
            self.fold = tf.function(
                compiled.fold, input_signature=[tf.TensorSpec([1, None, item_dim], tf.float32)], autograph=False
            )

    def signatures(self) -> dict[str, Any]:
        """The functions to export, by signature name."""
        source, defaults = self._untracked.source, self._untracked.defaults
        number, numbers = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
        best_first = {
            "frontier": (number, tf.constant(defaults.best_first.frontier)),
            "pool": (number, tf.constant(defaults.best_first.pool)),
        }
        paper = {
            "ef": (numbers, tf.constant(defaults.rounds.ef)),
            "rounds": (numbers, tf.constant(defaults.rounds.rounds)),
        }

        def search(user: UserTensors, request: dict[str, tf.Tensor], seeds: tf.Tensor, limits: Any) -> SearchResult:
            frontier, pool, steps = request["frontier"], request["pool"], defaults.best_first.max_steps
            return self.search.best_first(user, request["k"], seeds, frontier, pool, steps, **limits)

        def retrieve(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            features, seeds, limits = self._read(request)
            return _answer(search(source.user_tensors(features), request, seeds, limits))

        def retrieve_trace(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            features, seeds, limits = self._read(request)
            user, user_us = _timed(source.user_tensors, features)
            found = search(user, request, seeds, limits)
            return {
                **_answer(found),
                "user_us": tf.fill(tf.shape(found.search_us), user_us),
                "walk_us": found.search_us - found.gather_us - found.scorer_us - found.merge_us,
                "gather_us": found.gather_us,
                "scorer_us": found.scorer_us,
                "merge_us": found.merge_us,
            }

        def retrieve_rounds(request: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            # The paper's search starts at the entry points; `seeds` of the request's own join, a history does not.
            features, seeds, limits = self._read(request)
            if source.seeds is None:
                limits["seeds"] = seeds
            user = source.user_tensors(features)
            return _answer(self.search.rounds(user, request["k"], request["ef"], request["rounds"], **limits))

        found = {
            "retrieve": self._signature("retrieve", best_first, retrieve),
            "retrieve_trace": self._signature("retrieve_trace", best_first, retrieve_trace),
            "retrieve_rounds": self._signature("retrieve_rounds", paper, retrieve_rounds),
        }
        found["serving_default"] = found["retrieve"] if source.sequence is None else self._deployed()
        return found

    def _signature(
        self,
        name: str,
        parameters: Mapping[str, tuple[tf.TensorSpec, tf.Tensor]],
        answer: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]],
    ) -> Any:
        """A signature from raw features, with what may be left out as its defaults."""
        source = self._untracked.source
        ids, none = tf.TensorSpec([None, None], tf.int64), tf.zeros([0, 0], tf.int64)
        inputs = {key: (spec, source.defaults.get(key)) for key, spec in source.features.items()}
        # Python wants parameters with a default last.
        inputs = dict(sorted(inputs.items(), key=lambda one: one[1][1] is not None))
        inputs["k"] = tf.TensorSpec([], tf.int32), tf.constant(self._untracked.defaults.k)
        inputs.update(parameters)
        if source.seeds is None:
            inputs["seeds"] = ids, none
        inputs["exclude"] = ids, none
        inputs["budget"] = tf.TensorSpec([], tf.int64), tf.constant(0, tf.int64)
        inputs["deadline_ms"] = tf.TensorSpec([], tf.int32), tf.constant(0)

        def run(*arguments: tf.Tensor, **named: tf.Tensor) -> dict[str, tf.Tensor]:
            return answer({**dict(zip(inputs, arguments, strict=False)), **named})

        # TensorFlow reads names and defaults of a signature from the Python function; here they are the model's.
        run.__name__ = name
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(
                    key,
                    inspect.Parameter.POSITIONAL_OR_KEYWORD,
                    default=inspect.Parameter.empty if default is None else default,
                )
                for key, (_, default) in inputs.items()
            ]
        )
        return tf.function(run, input_signature=[spec for spec, _ in inputs.values()], autograph=False)

    def _deployed(self) -> Any:
        """The original's signature."""
        sequence = self._untracked.source.sequence

        @tf.function(
            input_signature=[
                tf.TensorSpec([1, sequence.width], tf.float16, "comm_seq"),
                tf.TensorSpec([LEVEL_TOPN_LENGTH], tf.int32, "level_topn"),
            ]
        )
        def serving_default(comm_seq: tf.Tensor, level_topn: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"top_k": self.search.deployed(sequence.user(comm_seq), level_topn).item_ids}

        return serving_default

    def _read(self, request: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor, dict[str, tf.Tensor]]:
        """Features, seeds and limits of a request; checks how many users each of its inputs has."""
        source = self._untracked.source
        features = {name: request[name] for name in source.features}
        required = [name for name in features if name not in source.defaults]
        first = required[0]
        users = tf.shape(features[first])[0]
        checks = [tf.debugging.assert_less_equal(users, MAX_USERS, f"{first} has too many users, at most {MAX_USERS}")]
        for name in required[1:]:
            rows = tf.shape(features[name])[0]
            checks.append(tf.debugging.Assert(rows == users, [f"{name} must have as many rows as {first}; got", rows]))
        shared = ["exclude", *(["seeds"] if source.seeds is None else [])]
        for name in shared:
            rows = tf.shape(request[name])[0]
            words = [f"{name} must have one row per user, or one row for all; rows got", rows]
            checks.append(tf.debugging.Assert((rows == users) | (rows <= 1), words))
        with tf.control_dependencies(checks):  # Whatever follows must not fail first, with a message of its own.
            features = {name: tf.identity(value) for name, value in features.items()}
            rows_of = {name: _for_all(tf.identity(request[name]), users) for name in shared}
        limits = {"exclude": rows_of["exclude"], "budget": request["budget"], "deadline_ms": request["deadline_ms"]}
        seeds = rows_of["seeds"] if source.seeds is None else features[source.seeds]
        return features, seeds, limits


def _answer(found: SearchResult) -> dict[str, tf.Tensor]:
    return {key: getattr(found, key) for key in ANSWER}


def _timed(
    user_tensors: Callable[[dict[str, tf.Tensor]], UserTensors], features: dict[str, tf.Tensor]
) -> tuple[UserTensors, tf.Tensor]:
    """User tensors, and the microseconds that they took, int64 [].

    Reads of the clock have a state for TensorFlow: no pass folds or merges them. What lies between them is held there
    by control dependencies, which passes keep.
    """
    with tf.control_dependencies(list(features.values())):
        begin = tf.timestamp()
    with tf.control_dependencies([begin]):
        tensors = user_tensors({name: tf.identity(value) for name, value in features.items()})
    # On the processor, where the search reads them: a GPU's kernel is done for its dependents once it is launched.
    with tf.device("CPU:0"):
        tensors = tuple(tf.identity(tensor) for tensor in tensors)
    with tf.control_dependencies(list(tensors)):
        end = tf.timestamp()
    with tf.control_dependencies([end]):  # The search would else begin beside it.
        tensors = tuple(tf.identity(tensor) for tensor in tensors)
    # The clock of a machine may be set back.
    return tensors, tf.cast(tf.maximum(end - begin, 0) * 1e6, tf.int64)


def _for_all(ids: tf.Tensor, users: tf.Tensor) -> tf.Tensor:
    """`ids` with a row for every user: [users, x], of [users, x], [1, x] or [0, x]."""
    return tf.cond(
        tf.shape(ids)[0] == 0,
        lambda: tf.zeros([users, 0], tf.int64),
        lambda: tf.broadcast_to(ids, [users, tf.shape(ids)[1]]),
    )
