"""The module that is exported: user tower, beam search and scorer as TensorFlow functions with three signatures."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.index.format import Index
from tfserving_ext.models import SequenceModel
from tfserving_ext.ops import SearchResult
from tfserving_ext.retrieval import BestFirst, NeuralTopK, Rounds
from tfserving_ext.training.checkpoint import TrainedModel

# A request of more users than this is refused before anything is computed: what it makes us allocate is bounded.
MAX_USERS = 1024
# level_topn of the original: beams of layers 2 and 1, picks of three ground rounds, k.
LEVEL_TOPN_LENGTH = 6


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


def exported_variables(model: SequenceModel) -> list[tf.Variable]:
    """The plain TensorFlow variables behind a Keras model, its vocabularies included."""
    return [*(variable.value for variable in model.variables), model.items.ids, model.categories.ids]


class ServedModel(tf.Module):
    """A trained model over an index.

    Signatures:
      serving_default: the original's. `comm_seq` float16 [1, history_length * item_dim], the embedded behaviours, and
        `level_topn` int32 [6]; returns `top_k` int64 [1, level_topn[5]].
      retrieve: the best-first search from raw features. `item_history` int64 [B, L], oldest first, any L; and, each
        with a default, `category_history` int64 [B, L] (left out or [[]]: the categories that the items had in
        training), `k`, `frontier` and `pool` int32 [], `exclude` int64 [B, x] or [1, x], ids never to return, `budget`
        int64 [] and `deadline_ms` int32 [], 0 for no limit. Unknown ids count as missing. Returns `item_ids` int64
        [B, k], `scores` float32 [B, k], `items_scored` int64 [B], `stopped` int32 [B].
      retrieve_rounds: the paper's search, with `ef` and `rounds` int32 [layers] in place of `frontier` and `pool`.
    """

    def __init__(self, trained: TrainedModel, index: Index, defaults: Defaults) -> None:
        """Puts the parts together.

        Raises:
          NannError: default parameters do not fit the index.
        """
        super().__init__()
        # The graph that TensorFlow Serving restores assigns plain tf.Variables only: Keras' own would be saved but stay
        # uninitialised in a session. So the variables are tracked, and the Keras model is kept out of sight.
        self.model_variables = exported_variables(trained.model)
        self._untracked = SimpleNamespace(model=trained.model, defaults=defaults)
        self.search = NeuralTopK(index, trained.model.score)
        self.search.check(defaults.best_first, defaults.k)
        self.search.check(defaults.rounds)
        self.item_categories = tf.Variable(np.concatenate([[-1], trained.item_categories]), trainable=False)

    @property
    def model(self) -> SequenceModel:
        """The model whose functions are exported."""
        return self._untracked.model

    def signatures(self) -> dict[str, Any]:
        """The functions to export, by signature name."""
        config = self.model.config
        width = config.history_length * self.model.item_dim

        @tf.function(
            input_signature=[
                tf.TensorSpec([1, width], tf.float16, "comm_seq"),
                tf.TensorSpec([LEVEL_TOPN_LENGTH], tf.int32, "level_topn"),
            ]
        )
        def serving_default(comm_seq: tf.Tensor, level_topn: tf.Tensor) -> dict[str, tf.Tensor]:
            sequence = tf.reshape(tf.cast(comm_seq, tf.float32), [1, config.history_length, self.model.item_dim])
            result = self.search.deployed(self.model.user_from_sequence(sequence), level_topn)
            return {"top_k": result.item_ids}

        defaults = self._untracked.defaults
        ids = tf.TensorSpec([None, None], tf.int64)
        number, numbers, large = (tf.TensorSpec(*spec) for spec in (([], tf.int32), ([None], tf.int32), ([], tf.int64)))
        # What a client may leave out; as tensors they become defaults of the signature.
        none, k, unlimited = tf.zeros([0, 0], tf.int64), tf.constant(defaults.k), tf.constant(0)
        frontier, pool = tf.constant(defaults.best_first.frontier), tf.constant(defaults.best_first.pool)
        ef, rounds = tf.constant(defaults.rounds.ef), tf.constant(defaults.rounds.rounds)
        budget = tf.constant(0, tf.int64)

        @tf.function(input_signature=[ids, ids, number, number, number, ids, large, number])
        def retrieve(
            item_history: tf.Tensor,
            category_history: tf.Tensor = none,
            k: tf.Tensor = k,
            frontier: tf.Tensor = frontier,
            pool: tf.Tensor = pool,
            exclude: tf.Tensor = none,
            budget: tf.Tensor = budget,
            deadline_ms: tf.Tensor = unlimited,
        ) -> dict[str, tf.Tensor]:
            user, exclude = self._read(item_history, category_history, exclude)
            steps = defaults.best_first.max_steps
            limits = {"exclude": exclude, "budget": budget, "deadline_ms": deadline_ms}
            return _outputs(self.search.best_first(user, k, item_history, frontier, pool, steps, **limits))

        @tf.function(input_signature=[ids, ids, number, numbers, numbers, ids, large, number])
        def retrieve_rounds(
            item_history: tf.Tensor,
            category_history: tf.Tensor = none,
            k: tf.Tensor = k,
            ef: tf.Tensor = ef,
            rounds: tf.Tensor = rounds,
            exclude: tf.Tensor = none,
            budget: tf.Tensor = budget,
            deadline_ms: tf.Tensor = unlimited,
        ) -> dict[str, tf.Tensor]:
            user, exclude = self._read(item_history, category_history, exclude)
            limits = {"exclude": exclude, "budget": budget, "deadline_ms": deadline_ms}
            return _outputs(self.search.rounds(user, k, ef, rounds, **limits))

        return {"serving_default": serving_default, "retrieve": retrieve, "retrieve_rounds": retrieve_rounds}

    def _read(
        self, item_history: tf.Tensor, category_history: tf.Tensor, exclude: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, ...], tf.Tensor]:
        """The user tensors of raw features, and `exclude` with a row for every user; checks the shapes of all."""
        users = tf.shape(item_history)[0]
        # By REST every input has to be sent: [[]] is how one is left out there.
        left_out = tf.equal(tf.size(category_history), 0)
        exclude_users = tf.shape(exclude)[0]
        checks = [
            tf.debugging.assert_less_equal(users, MAX_USERS, f"item_history has too many users, at most {MAX_USERS}"),
            tf.debugging.Assert(
                tf.reduce_all(tf.shape(category_history) == tf.shape(item_history)) | left_out,
                ["category_history must have the shape of item_history or be empty; got", tf.shape(category_history)],
            ),
            tf.debugging.Assert(
                (exclude_users == users) | (exclude_users <= 1),
                ["exclude must have one row per user, or one row for all; rows got", exclude_users],
            ),
        ]
        with tf.control_dependencies(checks):  # Whatever follows must not fail first, with a message of its own.
            item_history, exclude = tf.identity(item_history), tf.identity(exclude)
            category_history = tf.identity(category_history)
        known = tf.gather(self.item_categories, self.model.items.rows(item_history))
        categories = tf.cond(left_out, lambda: known, lambda: category_history)
        categories = tf.ensure_shape(categories, [None, None])
        exclude = tf.cond(
            exclude_users == 0,
            lambda: tf.zeros([users, 0], tf.int64),
            lambda: tf.broadcast_to(exclude, [users, tf.shape(exclude)[1]]),
        )
        return self.model.user({"item_history": item_history, "category_history": categories}), exclude


def _outputs(result: SearchResult) -> dict[str, tf.Tensor]:
    return {name: getattr(result, name) for name in ("item_ids", "scores", "items_scored", "stopped")}
