"""One optimizer step of one replica."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfserving_ext.data.sequences import Sequences
from tfserving_ext.models import TrainableModel
from tfserving_ext.training.config import TrainingConfig
from tfserving_ext.training.loss import Losses, adversarial_losses, sampled_logits
from tfserving_ext.training.samplers import make_sampler


def trained_variables(model: TrainableModel) -> list[Any]:
    """Returns the variables that the optimizer changes; Keras lists a model's own ones even if they are frozen."""
    return [variable for variable in model.trainable_variables if variable.trainable]


def make_step(
    model: TrainableModel, optimizer: keras.optimizers.Optimizer, sequences: Sequences, config: TrainingConfig
) -> Callable[..., Losses]:
    """Returns one optimizer step of one replica, as a function of (batch, step number).

    Replicas share the negatives, and a target has the same weight on every replica, so that together they take the step
    that one device would take with the whole batch. The exceptions are computed from a replica's own part of the batch:
    the statistics of batch norm, and the sign by which FGSM moves a negative.
    """
    sampler = make_sampler(config.sampler, np.asarray(sequences.item_counts), config.negatives)
    categories = tf.constant(np.concatenate([[0], sequences.item_categories]), tf.int32)
    variables = trained_variables(model)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    item, score = _training(model.item_from_rows), _training(model.score)
    user_of = _training(model.user_from_rows)

    def gradients_of(
        batch: dict[str, tf.Tensor], negatives: tf.Tensor, share: tf.Tensor
    ) -> tuple[Losses, list[tf.Tensor | None]]:
        """Computes losses, to be averaged over replicas, and gradients, to be summed over them.

        `share` is the weight of this replica's targets, as `_share` returns it.
        """
        targets, histories = batch["targets"], batch["histories"]
        with tf.GradientTape() as tape:
            rows = tf.concat([tf.reshape(targets, [-1]), negatives], axis=0)
            items = item(rows, tf.gather(categories, rows))
            user = user_of(histories, tf.gather(categories, histories))

            def logits_of(embeddings: tf.Tensor) -> tf.Tensor:
                of_targets, of_negatives = tf.split(embeddings, [tf.size(targets), config.negatives])
                positive = score(user, tf.reshape(of_targets, [-1, config.targets, model.item_dim]))
                negative = score(user, of_negatives[None])
                return sampled_logits(positive, negative, targets, negatives, sampler)

            fgsm = (config.epsilon, config.auxiliary_weight, config.loss, config.epsilon_scale)
            losses = adversarial_losses(logits_of, items, _present(targets), *fgsm)
            losses = Losses(*(share * loss for loss in losses))
            total = losses.total / replicas
        return losses, tape.gradient(total, variables)

    gradients_of = tf.function(gradients_of, jit_compile=True) if config.xla else gradients_of

    def step(batch: dict[str, tf.Tensor], number: tf.Tensor) -> Losses:
        seed = tf.stack([tf.constant(config.seed), tf.cast(number, tf.int32)])
        negatives = sampler.sample(seed)  # Not inside `gradients_of`: XLA draws other numbers from the same seed.
        losses, gradients = gradients_of(batch, negatives, _share(batch["targets"], replicas))
        dense = _dense(gradients, variables)
        if config.clip_norm:
            dense = _clipped(dense, config.clip_norm, replicas)
        optimizer.apply_gradients(dense)
        return losses

    return step


def _summed(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor:
    """Returns the gradient in its variable's shape; `tf.convert_to_tensor` does so too, but warns about memory."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, gradient.dense_shape[0])


def _training(function: Callable[..., Any]) -> Callable[..., Any]:
    """Binds training=True if the function takes it."""
    if "training" in inspect.signature(function).parameters:
        return functools.partial(function, training=True)
    return function


def _present(targets: tf.Tensor) -> tf.Tensor:
    return tf.cast(targets > 0, tf.float32)  # A history near its user's end has fewer targets.


def _share(targets: tf.Tensor, replicas: int) -> tf.Tensor:
    """Returns this replica's targets relative to the mean of all replicas; 1 if all have equally many."""
    if replicas == 1:
        return tf.ones([])
    own = tf.reduce_sum(_present(targets))
    context = tf.distribute.get_replica_context()
    return own * replicas / context.all_reduce(tf.distribute.ReduceOp.SUM, own)


def _dense(gradients: list[Any], variables: list[Any]) -> list[tuple[Any, Any]]:
    """Returns the gradients that are not None, each in its variable's shape.

    A row of a table that was looked up several times has as many slices, which this sums. Keras squares slices before
    it sums them, so that its second moment would be that of the look-ups instead of the row.
    """
    pairs = zip(gradients, variables, strict=True)
    return [(_summed(gradient), variable) for gradient, variable in pairs if gradient is not None]


def _clipped(pairs: list[tuple[tf.Tensor, Any]], norm: float, replicas: int) -> list[tuple[tf.Tensor, Any]]:
    """Scales gradients so that their sum over replicas has at most the global norm `norm`."""
    gradients = [gradient for gradient, _ in pairs]
    if replicas > 1:
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    gradients, _ = tf.clip_by_global_norm(gradients, norm)
    if replicas > 1:  # The optimizer sums over replicas again.
        gradients = [gradient / replicas for gradient in gradients]
    return [(gradient, variable) for gradient, (_, variable) in zip(gradients, pairs, strict=True)]
