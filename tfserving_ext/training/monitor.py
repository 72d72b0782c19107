"""What is looked at while a model trains: recall on validation users, and the log for TensorBoard."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.models import TrainableModel, UserTensors
from tfserving_ext.retrieval.flatness import flatness
from tfserving_ext.training.config import TrainingConfig

K = 200
_PART = 10  # In a small corpus recall is at a tenth of the items: among 200 of 210 everything is found.
_CASES_AT_ONCE, _ITEMS_AT_ONCE = 16, 4096
_SAMPLED_USERS, _SAMPLED_ITEMS = 16, 512
_FLATNESS_STEP = 0.1


class Monitor:
    """Looks at a model in training; nothing of it moves the weights.

    Attributes:
      k: where recall is looked at: 200, or a tenth of the items where that is less.
    """

    def __init__(
        self, model: TrainableModel, sequences: Sequences, config: TrainingConfig, history_length: int, writes: bool
    ) -> None:
        """Takes what is trained; `writes` is whether this process keeps the log.

        Raises:
          NannError: no training user has two behaviours; or validation is asked for, and no validation user has.
        """
        self._model, self._sequences = model, sequences
        self.k = max(1, min(K, sequences.num_items // _PART))
        self._categories = tf.constant(np.concatenate([[0], sequences.item_categories]), tf.int32)
        self._cases: Cases | None = None
        if config.validate_every:
            cases = sequences.cases("validation", 1, history_length)
            chosen = np.unique(np.linspace(0, len(cases) - 1, config.validation_cases).astype(np.int64))
            self._cases = Cases(
                cases.user_ids[chosen], cases.histories[chosen], cases.targets[chosen], cases.positions[chosen]
            )
        sequences.check_trainable()
        sampled = sequences.training_batch(0, _SAMPLED_USERS, history_length, config.seed)
        self._histories = sampled["histories"]
        self._rows = np.unique(np.linspace(1, sequences.num_items, _SAMPLED_ITEMS).astype(np.int32))
        self._writer = tf.summary.create_file_writer(config.tensorboard) if writes and config.tensorboard else None

    @property
    def logs(self) -> bool:
        """Whether there is a log."""
        return self._writer is not None

    def recall(self) -> float:
        """Recall at `k` of all items on the validation cases, by the rank of each target; ties are against it.

        Raises:
          NannError: the training has no validation.
        """
        if self._cases is None:
            raise NannError("validate_every is 0: there are no validation cases")
        hits = 0
        rows = np.arange(1, self._sequences.num_items + 1, dtype=np.int32)
        parts = np.array_split(rows, -(-rows.size // _ITEMS_AT_ONCE))
        embeddings = [self._embeddings(tf.constant(part)) for part in parts]
        for start in range(0, len(self._cases), _CASES_AT_ONCE):
            some = slice(start, start + _CASES_AT_ONCE)
            user = self._users(tf.constant(self._cases.histories[some]))
            targets = tf.constant(self._cases.targets[some])
            wanted = self._scores(user, self._embeddings(targets)[:, None, :])
            ranks = sum(self._above(user, part, wanted) for part in embeddings)
            hits += int(np.sum(ranks.numpy() <= self.k))
        return hits / len(self._cases)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Writes scalars, and what the item embeddings and the score around them look like."""
        if self._writer is None:
            return
        items = self._embeddings(tf.constant(self._rows))
        moved = flatness(self._model.score, self._users(tf.constant(self._histories)), items, _FLATNESS_STEP)
        looked = {
            "embedding_norm": float(tf.reduce_mean(tf.norm(items, axis=1))),
            f"flatness/step_{_FLATNESS_STEP}": float(moved),
        }
        with self._writer.as_default(step):
            for name, value in {**values, **looked}.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    @tf.function(reduce_retracing=True)
    def _embeddings(self, rows: tf.Tensor) -> tf.Tensor:
        return self._model.item_from_rows(rows, tf.gather(self._categories, rows))

    @tf.function(reduce_retracing=True)
    def _users(self, histories: tf.Tensor) -> UserTensors:
        return self._model.user_from_rows(histories, tf.gather(self._categories, histories))

    @tf.function(reduce_retracing=True)
    def _scores(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        return self._model.score(user, items)

    @tf.function(reduce_retracing=True)
    def _above(self, user: UserTensors, items: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        """How many of `items` score `wanted` [B, 1] or above, the target among them; what is not a number does."""
        scores = self._model.score(user, items[None])
        return tf.math.count_nonzero(~(scores < wanted), axis=1)
