"""Monitors a training: recall on validation users, and the log for TensorBoard."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.models import TrainableModel, UserTensors
from tfserving_ext.retrieval.flatness import flatness
from tfserving_ext.training.config import TrainingConfig

K = 200
_PART = 10  # Small corpora use recall at a tenth of the items: recall at 200 of 210 items would say nothing.
_CASES_AT_ONCE, _ITEMS_AT_ONCE = 16, 4096
_SAMPLED_USERS, _SAMPLED_ITEMS = 16, 512
_FLATNESS_STEP = 0.1


class Monitor:
    """Monitors a model in training without changing it.

    Attributes:
      k: the k of recall@k: 200, or a tenth of the items if that is less.
    """

    def __init__(
        self, model: TrainableModel, sequences: Sequences, config: TrainingConfig, history_length: int, writes: bool
    ) -> None:
        """Chooses the validation cases, and the users and items that are sampled for the log.

        Args:
          model: the model in training.
          sequences: the data.
          config: how it is trained.
          history_length: behaviours before a target.
          writes: whether this process writes the log.

        Raises:
          NannError: no training user has two behaviours; or validation is asked for, and no validation user has two.
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
        """Whether this process writes a log."""
        return self._writer is not None

    def recall(self) -> float:
        """Returns recall@`k` over all items on the validation cases, by the exact rank of each target.

        Items with the same score as the target rank before it.

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
        """Writes `values`, the mean norm of item embeddings, and the flatness of the score around them."""
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
        """Counts the `items`, the target among them, that score at least `wanted` [B, 1]; NaN counts as above."""
        scores = self._model.score(user, items[None])
        return tf.math.count_nonzero(~(scores < wanted), axis=1)
