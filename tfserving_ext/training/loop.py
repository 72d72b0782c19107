"""The training loop."""

import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.artifacts import read_json, sha256, tensorflow_writes, write_json
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.models import NannAttentionConfig, SequenceConfig, SequenceModel, model_named
from tfserving_ext.progress import progress
from tfserving_ext.training.checkpoint import TrainedModel, load_model, save_model
from tfserving_ext.training.loss import Losses, UnigramSampler, adversarial_losses, sampled_logits

CHECKPOINT_SECONDS = 30.0
REPORT_STEPS = 50


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
      steps: optimizer steps.
      batch_size: histories per step, over all replicas.
      targets: behaviours after each history that are its positives. The original has 1; more share the cost of the
        history's keys and of its negatives (docs/training.md has what that brought).
      negatives: sampled negatives, shared by the batch.
      learning_rate: of AdamW at the start; decays to zero by a cosine.
      weight_decay: of AdamW.
      epsilon: FGSM step relative to the root mean square of e_v; 0 trains without the auxiliary loss.
      auxiliary_weight: weight of the auxiliary loss.
      seed: of the weights, the batches and the negatives.
    """

    steps: int = 6000
    batch_size: int = 32
    targets: int = 20
    negatives: int = 100
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    epsilon: float = 0.1
    auxiliary_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises NannError where a value is out of its range."""
        for name, low in (("steps", 1), ("batch_size", 1), ("targets", 1), ("negatives", 1)):
            if getattr(self, name) < low:
                raise NannError(f"{name} is {getattr(self, name)}, allowed are {low} and above")
        for name in ("learning_rate", "weight_decay", "epsilon", "auxiliary_weight"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise NannError(f"{name} is {value}, allowed are finite numbers from 0")


def _strategy() -> tf.distribute.Strategy:
    """All GPUs of this machine, or its CPU."""
    gpus = tf.config.list_logical_devices("GPU")
    return tf.distribute.MirroredStrategy() if len(gpus) > 1 else tf.distribute.get_strategy()


def make_step(
    model: SequenceModel, optimizer: keras.optimizers.Optimizer, sequences: Sequences, config: TrainingConfig
) -> Callable[..., Losses]:
    """One optimizer step as a function of (batch, step number), for one replica."""
    sampler = UnigramSampler(np.asarray(sequences.item_counts), config.negatives)
    categories = tf.constant(np.concatenate([[0], sequences.item_categories]), tf.int32)
    variables = model.trainable_variables
    replicas = tf.distribute.get_strategy().num_replicas_in_sync

    def step(batch: dict[str, tf.Tensor], number: tf.Tensor) -> Losses:
        targets, histories = batch["targets"], batch["histories"]
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        negatives = sampler.sample(tf.stack([tf.constant(config.seed), tf.cast(number, tf.int32) * replicas + replica]))
        with tf.GradientTape() as tape:
            rows = tf.concat([tf.reshape(targets, [-1]), negatives], axis=0)
            items = model.item_from_rows(rows, tf.gather(categories, rows), training=True)
            user = model.user_from_sequence(model.embed(histories, tf.gather(categories, histories)))
            present = tf.cast(targets > 0, tf.float32)  # A history near its user's end has fewer targets.

            def logits_of(embeddings: tf.Tensor) -> tf.Tensor:
                of_targets, of_negatives = tf.split(embeddings, [tf.size(targets), config.negatives])
                positive = model.score(user, tf.reshape(of_targets, [-1, config.targets, model.item_dim]))
                negative = model.score(user, of_negatives[None])
                return sampled_logits(positive, negative, targets, negatives, sampler)

            losses = adversarial_losses(logits_of, items, present, config.epsilon, config.auxiliary_weight)
            total = losses.total / replicas
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        return losses

    return step


def train(
    data: str | os.PathLike[str],
    target: str | os.PathLike[str],
    config: TrainingConfig = TrainingConfig(),
    model_config: SequenceConfig = NannAttentionConfig(),  # noqa: B008 - frozen
    start_from: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Trains a model and writes it to the folder `target`.

    A training that was interrupted resumes from its last checkpoint, at most half a minute back, when it is called
    again with the same data and configuration; batches and negatives depend on the step's number alone.

    Args:
      data: a folder that `nann convert` wrote.
      target: the model's folder; written whole at the end.
      config: how to train.
      model_config: the model's sizes.
      start_from: a model of the same items, of any kind, whose item embeddings and item network this one starts with.

    Returns:
      What `model.json` says of the training: the configuration, final losses, seconds and histories per second.

    Raises:
      NannError: bad data, a `start_from` of other items or another width, a loss that is not finite (the message names
        the step), or `target` cannot be written.
    """
    sequences = Sequences.open(data)
    start = None if start_from is None else load_model(start_from)
    keras.utils.set_random_seed(config.seed)
    strategy = _strategy()
    with strategy.scope():
        model = model_named(model_config.model)(
            sequences.item_ids, sequences.category_ids, np.asarray(sequences.item_counts), model_config
        )
        if start is not None:
            _start(model, start, start_from)
        schedule = keras.optimizers.schedules.CosineDecay(config.learning_rate, config.steps)
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=config.weight_decay)
        optimizer.build(model.trainable_variables)
        step = make_step(model, optimizer, sequences, config)

    @tf.function
    def distributed_step(batch: dict[str, tf.Tensor], number: tf.Tensor) -> Losses:
        per_replica = strategy.run(step, args=(batch, number))
        return Losses(*(strategy.reduce(tf.distribute.ReduceOp.MEAN, loss, axis=None) for loss in per_replica))

    work = Path(target).with_name(f".{Path(target).name}.training")
    identity = {"data": sha256(sequences.folder / "manifest.json"), **_as_dict(config, model_config)}
    if start_from is not None:
        identity |= {"start_from": sha256(Path(start_from) / "weights.index")}  # It holds the weights' checksums.
    state = _State(work, model, optimizer, identity)
    first = state.restore()
    batches = sequences.training_batches(
        config.batch_size, model_config.history_length, config.seed, first, config.targets
    )
    started = saved = time.monotonic()
    losses, note = None, ""
    with progress("train", config.steps) as advance:
        advance(first)
        for number, batch in zip(
            range(first, config.steps), strategy.experimental_distribute_dataset(batches), strict=False
        ):
            losses = distributed_step(batch, tf.constant(number))
            last = number + 1 == config.steps
            if last or number % REPORT_STEPS == 0:
                values = [float(loss) for loss in losses]
                if not np.isfinite(values).all():
                    raise NannError(
                        f"the loss became {values[0]} by step {number}; try a lower --learning-rate or --epsilon"
                    )
                note = f"loss {values[1]:.3f} auxiliary {values[2]:.4f}"
            advance(note=note)
            if not last and time.monotonic() - saved > CHECKPOINT_SECONDS:
                state.save(number + 1)
                saved = time.monotonic()
    seconds = time.monotonic() - started
    report: dict[str, Any] = _as_dict(config, model_config)["training"]
    report |= {"histories": config.steps * config.batch_size}
    if start is not None:
        report |= {"start_from": {name: start.manifest[name] for name in ("model", "training")}}
    if losses is not None:
        report |= {"softmax_loss": float(losses.softmax), "auxiliary_loss": float(losses.auxiliary)}
        report |= {"seconds": round(seconds, 1)}
        report |= {"histories_per_second": round((config.steps - first) * config.batch_size / seconds)}
    item_categories = sequences.category_ids[np.asarray(sequences.item_categories) - 1]
    save_model(target, model, item_categories, report)
    state.delete()
    return report


def _start(model: SequenceModel, start: TrainedModel, folder: str | os.PathLike[str] | None) -> None:
    """Gives `model` the item embeddings and the item network of a trained one."""
    for name in ("items", "categories"):
        mine, theirs = (getattr(one, name).ids.numpy() for one in (model, start.model))
        if not np.array_equal(mine, theirs):
            raise NannError(f"{folder} knows {len(theirs):,} {name}, the data has {len(mine):,}; they must be the same")
    if start.model.item_dim != model.item_dim:
        raise NannError(
            f"{folder} has an embedding_dim of {start.model.item_dim // 2}, this model has {model.item_dim // 2}; "
            "they must be the same"
        )
    for mine, theirs in zip(model.item_variables, start.model.item_variables, strict=True):
        mine.assign(theirs)


def _as_dict(config: TrainingConfig, model_config: SequenceConfig) -> dict[str, Any]:
    return {"training": dataclasses.asdict(config), "model": dataclasses.asdict(model_config)}


class _State:
    """The checkpoints of a training that is not finished, beside its target."""

    def __init__(self, folder: Path, model: SequenceModel, optimizer: Any, identity: dict[str, Any]) -> None:
        self._folder = folder
        self._identity = folder / "identity.json"
        self._wanted = identity
        self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer, step=self._step)
        self._manager = tf.train.CheckpointManager(checkpoint, str(folder), max_to_keep=1)

    def restore(self) -> int:
        """The step to go on from: 0, or that of a checkpoint of the very same training."""
        wanted = _plain(self._wanted)
        if self._identity.exists() and read_json(self._identity) == wanted and self._manager.latest_checkpoint:
            self._manager.restore_or_initialize()
            return int(self._step.numpy())
        self.delete()
        self._folder.mkdir(parents=True)
        write_json(self._identity, wanted)
        return 0

    def save(self, step: int) -> None:
        self._step.assign(step)
        with tensorflow_writes("training's checkpoint"):
            self._manager.save()

    def delete(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value
