"""The training loop."""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext import __version__
from tfserving_ext.artifacts import sha256
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local
from tfserving_ext.models import NannAttentionConfig, SequenceConfig, SequenceModel, TwoSidedConfig, model_named
from tfserving_ext.models.checkpoint import TrainedModel, load_model, save_model
from tfserving_ext.outputs import MODEL, check_replaceable
from tfserving_ext.progress import console, progress
from tfserving_ext.training.cluster import Cluster, join_cluster
from tfserving_ext.training.config import TrainingConfig
from tfserving_ext.training.loss import Losses
from tfserving_ext.training.monitor import Monitor
from tfserving_ext.training.state import TrainingState
from tfserving_ext.training.step import make_step, trained_variables

REPORT_STEPS = 50
LOG_STEPS = 500  # Steps between entries for TensorBoard.
_SIGTERM_EXIT = 128 + signal.SIGTERM


def fit(
    data: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: TrainingConfig = TrainingConfig(),  # noqa: B008 - frozen
    model_config: SequenceConfig = NannAttentionConfig(),  # noqa: B008 - frozen
    start_from: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Trains a model and writes it to the folder `target`.

    Call it again with the same data and configuration to resume an interrupted training from its last checkpoint.
    Batches and negatives depend on the step's number alone, so that it ends as it would have without the interruption.

    Args:
      data: a folder that `nann convert` wrote.
      target: the model's folder; it appears whole at the end, and replaces an earlier model.
      config: how to train.
      model_config: the model's sizes; a `ForeignConfig` names a class of your own.
      start_from: a trained model of any kind over the same items; this one starts with its item embeddings and item
        network.
      force: replace whatever `target` holds.

    Returns:
      The `training` of `model.json`: the configuration, final losses, seconds and histories per second.

    Raises:
      NannError: the data are bad, `start_from` has other items or another width, a checkpoint cannot be read, workers
        found different checkpoints, a loss is not finite (the message names the step), or `target` cannot be written.
      SystemExit: SIGTERM was received; a checkpoint is written first, and the code is 143.
    """
    cluster = join_cluster()  # TensorFlow requires this before any computation.
    if cluster.workers > 1 and config.max_minutes:
        raise NannError(
            f"max_minutes is {config.max_minutes}, but there are {cluster.workers} workers, whose clocks differ; "
            "limit the steps instead"
        )
    check_local(target)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()
    policy = keras.mixed_precision.dtype_policy()
    if config.mixed_precision:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        return _Training(cluster, data, Path(target).resolve(), config, model_config, start_from, force).run()
    finally:
        keras.mixed_precision.set_global_policy(policy)


class _Training:
    """One run of `fit`."""

    def __init__(
        self,
        cluster: Cluster,
        data: str | os.PathLike[str],
        target: Path,
        config: TrainingConfig,
        model_config: SequenceConfig,
        start_from: str | os.PathLike[str] | None,
        force: bool,
    ) -> None:
        self._target, self._config, self._model_config, self._force = target, config, model_config, force
        self._strategy, self._chief, self._workers = cluster
        if config.batch_size < self._strategy.num_replicas_in_sync:
            raise NannError(
                f"batch_size is {config.batch_size}, fewer than the {self._strategy.num_replicas_in_sync} devices"
            )
        check_replaceable(target, MODEL, force, [data, start_from])  # Checked now, not after hours of training.
        self._sequences = Sequences.open(data)
        start = None if start_from is None else load_model(start_from)
        keras.utils.set_random_seed(config.seed)
        with self._strategy.scope():
            self._model = model_named(model_config.model)(
                self._sequences.item_ids,
                self._sequences.category_ids,
                np.asarray(self._sequences.item_counts),
                model_config,
            )
            self._started_from: dict[str, Any] = {}  # Describes the start for the report, without holding its weights.
            if start is not None:
                _start(self._model, start, start_from)
                self._started_from = {name: start.manifest[name] for name in ("model", "training")}
            self._optimizer = keras.optimizers.AdamW(config.rate(0), weight_decay=config.weight_decay)
            self._optimizer.build(trained_variables(self._model))
            step = make_step(self._model, self._optimizer, self._sequences, config)
        identity = {
            "nann": __version__,
            "data": sha256(self._sequences.folder / "manifest.json"),
            "training": config.identity(),
            "model": {"kind": model_config.model, **dataclasses.asdict(model_config)},
        }
        if start_from is not None:
            identity |= {"start_from": sha256(Path(start_from) / "weights.index")}  # Holds the weights' checksums.
        work = target.with_name(f".{target.name}.training")
        self._state = TrainingState(work, self._model, self._optimizer, identity, self._chief)
        self._monitor = Monitor(self._model, self._sequences, config, model_config.history_length, self._chief)

        @tf.function
        def distributed_step(batch: dict[str, tf.Tensor], number: tf.Tensor) -> Losses:
            per_replica = self._strategy.run(step, args=(batch, number))
            losses = Losses(*(self._strategy.reduce(tf.distribute.ReduceOp.MEAN, loss, None) for loss in per_replica))
            bad = ~tf.math.is_finite(losses.total) & (self._state.first_bad < 0)
            self._state.first_bad.assign(tf.where(bad, number, self._state.first_bad))
            return losses

        self._step = distributed_step

    def run(self) -> dict[str, Any]:
        config = self._config
        first = self._state.restore()
        self._check_agreed(first)
        before = float(self._state.seconds.numpy())
        batches = self._sequences.training_batches(
            config.batch_size, self._model_config.history_length, config.seed, first, config.targets
        )
        batches = iter(self._strategy.experimental_distribute_dataset(batches))
        losses, step, note = None, first, ""
        started = saved = time.monotonic()
        with progress("train", config.steps) as advance, _terminated() as terminated:
            advance(first)
            while step < config.steps and not self._state.exhausted(config.patience):
                seconds = before + time.monotonic() - started
                if config.max_minutes and seconds >= 60 * config.max_minutes:
                    break
                self._optimizer.learning_rate.assign(config.rate(step, seconds / 60))
                losses = self._step(next(batches), tf.constant(step, tf.int64))
                step += 1
                validates = config.validate_every and step % config.validate_every == 0
                if step % REPORT_STEPS == 1 or step == config.steps or validates:
                    self._check_finite(losses)
                    speed = (step - first) * config.batch_size / (time.monotonic() - started)
                    note = f"loss {losses.main:.3f} auxiliary {losses.auxiliary:.4f}, {speed:,.0f} histories/s"
                values = {}
                if validates:
                    values["recall"] = self._validate(step)
                if self._monitor.logs and (validates or step % LOG_STEPS == 0):
                    values |= {f"loss/{name}": float(value) for name, value in losses._asdict().items()}
                    self._monitor.log(step, values | {"learning_rate": float(self._optimizer.learning_rate)})
                advance(note=note)
                if terminated:
                    self._save(step, before + time.monotonic() - started)
                    console.print(f"  terminated after step {step:,}; run the same command again to resume from it")
                    raise SystemExit(_SIGTERM_EXIT)
                if time.monotonic() - saved > 60 * config.checkpoint_minutes:
                    self._save(step, before + time.monotonic() - started)
                    saved = time.monotonic()
        if losses is not None:
            self._check_finite(losses)
            if config.validate_every and step % config.validate_every and not self._state.exhausted(config.patience):
                self._validate(step)  # The last step may well be the best: its learning rate is the lowest.
        seconds = time.monotonic() - started
        return self._finish(losses, step, step - first, seconds, before + seconds)

    def _check_agreed(self, first: int) -> None:
        """Raises NannError if workers found different checkpoints, since their weights would differ from then on."""
        if self._workers == 1:
            return

        @tf.function
        def mean(own: tf.Tensor) -> tf.Tensor:
            return self._strategy.reduce(tf.distribute.ReduceOp.MEAN, self._strategy.run(tf.identity, [own]), None)

        if float(mean(tf.constant(first, tf.float64))) != first:
            raise NannError(
                f"this worker would resume from step {first}, others from another; let all of them see "
                f"{self._state.folder}, or remove it to train from the start"
            )

    def _check_finite(self, losses: Losses) -> None:
        """Raises NannError if a loss was not finite.

        The device records the first bad step itself; reading it waits for the device, so this is called rarely.
        """
        if (bad := int(self._state.first_bad.numpy())) >= 0:
            raise NannError(
                f"the loss became {float(losses.total)} at step {bad}; try a lower --learning-rate or --epsilon, or "
                "--clip-norm"
            )

    def _validate(self, step: int) -> float:
        recall = self._monitor.recall()
        self._state.validated(step, recall)
        console.print(
            f"  step {step:,}: recall@{self._monitor.k} {recall:.4f} on validation, "
            f"best {float(self._state.best_recall):.4f} at step {int(self._state.best_step):,}"
        )
        return recall

    def _save(self, step: int, seconds: float) -> None:
        if int(self._state.first_bad.numpy()) < 0:
            self._state.save(step, seconds)

    def _finish(self, losses: Losses | None, steps: int, own: int, seconds: float, whole: float) -> dict[str, Any]:
        """Writes the model and returns the report.

        Args:
          losses: of the last step; None if no step was left to do.
          steps: the number of steps done in all.
          own: the number of steps done by this run.
          seconds: the seconds of this run.
          whole: the seconds of all runs.
        """
        config, state = self._config, self._state
        report = dataclasses.asdict(config) | {"steps_done": steps, "histories": steps * config.batch_size}
        report |= {"seconds": round(whole, 1), "data_sha256": sha256(self._sequences.folder / "manifest.json")}
        if self._started_from:
            report |= {"start_from": self._started_from}
        if losses is not None:
            report |= {f"{config.loss}_loss": float(losses.main), "auxiliary_loss": float(losses.auxiliary)}
            report |= {"histories_per_second": round(own * config.batch_size / seconds)}
        if int(state.best_step) >= 0:
            report |= {"best_step": int(state.best_step), "validation_recall": float(state.best_recall)}
            state.restore_best()
        if self._chief:
            categories = self._sequences.category_ids[np.asarray(self._sequences.item_categories) - 1]
            save_model(self._target, self._model, categories, report, self._force)
            state.delete()
        return report


@contextlib.contextmanager
def _terminated() -> Iterator[list[int]]:
    """Yields a list that is empty until SIGTERM is received."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Only the main thread can handle signals.
        yield received
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(model: SequenceModel, start: TrainedModel, folder: str | os.PathLike[str] | None) -> None:
    """Copies the item embeddings, the item network and, if both have one, the tower of a trained model to `model`."""
    for name in ("items", "categories"):
        mine, theirs = (getattr(one, name).ids.numpy() for one in (model, start.model))
        if not np.array_equal(mine, theirs):
            raise NannError(f"{folder} knows {len(theirs):,} {name}, the data has {len(mine):,}; they must be the same")
    if not isinstance(model, SequenceModel) or not isinstance(start.model, SequenceModel):
        raise NannError(
            f"{folder} cannot be the start: {start.model.name} and {model.name} have different item networks"
        )
    if start.model.item_dim != model.item_dim:
        raise NannError(
            f"{folder} has an embedding_dim of {start.model.item_dim // 2}, this model has {model.item_dim // 2}; "
            "they must be the same"
        )
    tower, trained = getattr(model, "tower", None), getattr(start.model, "tower", None)
    if (
        tower is not None
        and trained is not None
        and [each.shape for each in tower.variables] != [each.shape for each in trained.variables]
    ):
        (length, pools), (their_length, their_pools) = tower.recency.shape, trained.recency.shape
        raise NannError(
            f"{folder} has a tower of {their_pools} pools over {their_length} behaviours, this model has one of "
            f"{pools} over {length}; they must be the same, hidden layers too (--size pools={their_pools}, --size "
            f"attention_length={their_length} of nann_attention, or --history-length)"
        )
    for mine, theirs in zip(model.item_variables, start.model.item_variables, strict=True):
        mine.assign(theirs)
    if tower is None or trained is None:
        return
    for mine, theirs in zip(tower.variables, trained.variables, strict=True):
        mine.assign(theirs)
    if model.name not in (start.model.name, TwoSidedConfig.model):
        # `model` now contains the whole two-sided model. With that frozen, the new layers learn what it misses, and the
        # few targets of their batches do not disturb the embeddings.
        for part in (model.item_table, model.category_table, model.item_network, tower):
            part.trainable = False
