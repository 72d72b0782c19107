"""The state that a training keeps beside its target until it is finished, so that it can resume exactly."""

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
    """The weights, the optimizer's state, and the progress of a training.

    Batches and negatives are functions of the step's number, so that it also records the position in the data and the
    random state.

    Attributes:
      step: number of steps done.
      seconds: seconds that they took.
      best_recall: the best recall of all validations.
      best_step: the number of steps at the best validation; -1 before the first validation.
      validations_since: number of validations after the best one.
      first_bad: the first step whose loss was not finite; -1 if all were finite.
    """

    def __init__(
        self, folder: Path, model: Any, optimizer: keras.optimizers.Optimizer, identity: Any, writes: bool = True
    ) -> None:
        """Prepares checkpoints; neither reads nor writes yet.

        Args:
          folder: the folder of the checkpoints.
          model: the model.
          optimizer: the optimizer, already built.
          identity: what must be equal for this run to resume an earlier one; becomes JSON.
          writes: whether this process writes; all workers read, but only one writes.
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
        """Restores the checkpoint of the very same training, if there is one; else removes what is there.

        Returns:
          The step to resume from; 0 without a checkpoint.

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
                    f"the checkpoint in {self.folder} is damaged or belongs to another model ({reason}); "
                    "remove that folder to train from the start"
                ) from error
            return int(self.step.numpy())
        self.delete()
        if self._writes:
            self.folder.mkdir(parents=True)
            write_json(record, self._identity)
        return 0

    def save(self, step: int, seconds: float) -> None:
        """Writes a checkpoint; the previous one stays until this one is complete."""
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
        """Records a validation after `step` steps, and saves the weights if it is the best."""
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
        """Returns whether the last `patience` validations brought no better recall; False if `patience` is 0."""
        return 0 < patience <= int(self.validations_since.numpy())

    def restore_best(self) -> None:
        """Restores the model's weights at its best validation, if there was one."""
        if self._writes and (step := int(self.best_step.numpy())) != _NONE:
            tf.train.Checkpoint(model=self._model).read(str(self._best(step))).assert_consumed()

    def delete(self) -> None:
        """Removes the folder."""
        if not self._writes:
            return
        with contextlib.suppress(FileNotFoundError):
            # Without this file no run resumes; removed first, so that a kill in between leaves nothing to resume from.
            (self.folder / "identity.json").unlink()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:09d}"


def _random_states(model: Any) -> list[tf.Variable]:
    """Returns the states of Keras' random generators, such as dropout's, which checkpoints of a model leave out."""
    weights = {id(weight) for weight in model.weights}
    return [variable.value for variable in model.variables if id(variable) not in weights]


def _plain(value: Any) -> Any:
    """Returns the value as JSON would return it: with lists for tuples."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value
