"""What a training keeps beside its target until it is finished, so that an interrupted one goes on exactly."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfserving_ext.artifacts import read_json, tensorflow_writes, write_json
from tfserving_ext.errors import NannError

_NONE = -1


class TrainingState:
    """The weights, the optimizer's state, and how far a training has come.

    Batches and negatives are functions of the step's number: it stands for the data's position and the random state.

    Attributes:
      step: steps that are done.
      seconds: how long they took.
      best_recall: of all validations.
      best_step: after which it was reached; -1 before the first validation.
      validations_since: validations after the best one.
      first_bad: the first step whose loss was not finite; -1 where all were.
    """

    def __init__(
        self, folder: Path, model: Any, optimizer: keras.optimizers.Optimizer, identity: Any, writes: bool = True
    ) -> None:
        """Takes what is kept, and where.

        Args:
          folder: of the checkpoints.
          model: the model.
          optimizer: the optimizer, built.
          identity: what an earlier run must share to be gone on with.
          writes: whether this process writes; of several workers all read, and one writes.
        """
        self.folder = folder
        self._writes = writes
        self._identity = _plain(identity)
        self._model = model
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.best_recall = tf.Variable(0.0, dtype=tf.float64, trainable=False)
        self.best_step = tf.Variable(_NONE, dtype=tf.int64, trainable=False)
        self.validations_since = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.first_bad = tf.Variable(_NONE, dtype=tf.int64, trainable=False)
        checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=optimizer,
            random=_random_states(model),
            step=self.step,
            seconds=self.seconds,
            best_recall=self.best_recall,
            best_step=self.best_step,
            validations_since=self.validations_since,
        )
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)

    def restore(self) -> int:
        """The step to go on from: 0, or that of a checkpoint of the very same training.

        Raises:
          NannError: the checkpoint cannot be read.
        """
        record = self.folder / "identity.json"
        if record.exists() and read_json(record) == self._identity and self._manager.latest_checkpoint:
            try:
                self._manager.checkpoint.restore(self._manager.latest_checkpoint).assert_existing_objects_matched()
            except (AssertionError, ValueError, IndexError, tf.errors.OpError) as error:
                reason = str(error).strip().splitlines()[0]
                raise NannError(
                    f"the checkpoint in {self.folder} is of another model or damaged ({reason}); "
                    "remove that folder to train from the start"
                ) from error
            return int(self.step.numpy())
        self.delete()
        if self._writes:
            self.folder.mkdir(parents=True)
            write_json(record, self._identity)
        return 0

    def save(self, step: int, seconds: float) -> None:
        """Writes a checkpoint; the one before it is there until this one is whole."""
        if not self._writes:
            return
        self.step.assign(step)
        self.seconds.assign(seconds)
        with tensorflow_writes("training's checkpoint"):
            self._manager.save()
        best = self._best(int(self.best_step.numpy())).name
        for path in self.folder.glob("best-*"):
            if path.stem != best:
                path.unlink()

    def validated(self, step: int, recall: float) -> None:
        """Notes a validation after `step` steps; the best weights are kept."""
        if int(self.best_step.numpy()) != _NONE and recall <= float(self.best_recall.numpy()):
            self.validations_since.assign_add(1)
            return
        if self._writes:
            with tensorflow_writes("best weights"):
                tf.train.Checkpoint(model=self._model).write(str(self._best(step)))
        self.best_recall.assign(recall)
        self.best_step.assign(step)
        self.validations_since.assign(0)

    def exhausted(self, patience: int) -> bool:
        """Whether as many validations as `patience` brought nothing better; never for 0."""
        return 0 < patience <= int(self.validations_since.numpy())

    def restore_best(self) -> None:
        """Gives the model the weights of its best validation, if there was any."""
        if self._writes and (step := int(self.best_step.numpy())) != _NONE:
            tf.train.Checkpoint(model=self._model).read(str(self._best(step))).assert_consumed()

    def delete(self) -> None:
        """Removes all of it."""
        if not self._writes:
            return
        with contextlib.suppress(FileNotFoundError):
            # First what makes a checkpoint of it, so that a kill in between leaves nothing to go on with.
            (self.folder / "identity.json").unlink()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:09d}"


def _random_states(model: Any) -> list[tf.Variable]:
    """The states of Keras' random generators, dropout's above all: checkpoints of the model leave them out."""
    weights = {id(weight) for weight in model.weights}
    return [variable.value for variable in model.variables if id(variable) not in weights]


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value
