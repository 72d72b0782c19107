"""The losses over sampled negatives, and the adversarial auxiliary loss (arXiv 2202.10226, section 3.3)."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfserving_ext.training.samplers import Sampler


class Losses(NamedTuple):
    """The losses of a batch: float32 scalars, means over the batch.

    Attributes:
      total: the loss that is minimised: `main` plus the weighted `auxiliary`.
      main: the loss over sampled negatives.
      auxiliary: the adversarial loss, unweighted; 0 without one.
    """

    total: tf.Tensor
    main: tf.Tensor
    auxiliary: tf.Tensor


def sampled_logits(
    positive: tf.Tensor, negative: tf.Tensor, target_rows: tf.Tensor, negative_rows: tf.Tensor, sampler: Sampler
) -> tf.Tensor:
    """Returns the logits of targets and negatives, each reduced by the log of its item's expected count.

    Args:
      positive: scores of the targets, [B, T].
      negative: scores of the shared negatives, [B, num_sampled].
      target_rows: int32 [B, T].
      negative_rows: int32 [num_sampled].
      sampler: the sampler that drew the negatives.

    Returns:
      Logits [B, T, 1 + num_sampled], the target's first. A negative that is the target itself is masked by -1e9.
    """
    positive -= sampler.log_expected_count(target_rows)
    negative -= sampler.log_expected_count(negative_rows)[None, :]
    # Unmasked, an item that is both target and negative would be taught in both directions.
    hits = tf.equal(target_rows[:, :, None], negative_rows[None, None, :])
    return tf.concat([positive[:, :, None], tf.where(hits, -1e9, negative[:, None, :])], axis=2)


def softmax_loss(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns the mean cross entropy of a softmax whose correct class is the first logit.

    Args:
      logits: [..., 1 + n].
      weights: the weight of each row of logits, [...].
    """
    return _mean(tf.reduce_logsumexp(logits, axis=-1) - logits[..., 0], weights)


def sigmoid_loss(logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns the mean noise-contrastive loss: the logistic losses of a row, whose first label is 1, summed.

    Args:
      logits: [..., 1 + n].
      weights: the weight of each row of logits, [...].
    """
    losses = tf.nn.softplus(logits)  # Every logit as if its label were 0; a masked logit of -1e9 adds nothing.
    return _mean(tf.reduce_sum(losses, axis=-1) - logits[..., 0], weights)


def _softmax_divergence(clean: tf.Tensor, adversarial: tf.Tensor) -> tf.Tensor:
    """Returns KL(softmax(clean) || softmax(adversarial)) of each row, [...]."""
    log_clean, log_adversarial = tf.nn.log_softmax(clean), tf.nn.log_softmax(adversarial)
    return tf.reduce_sum(tf.exp(log_clean) * (log_clean - log_adversarial), axis=-1)


def sigmoid_divergence(clean: tf.Tensor, adversarial: tf.Tensor) -> tf.Tensor:
    """Returns the sum over each row of KL(sigmoid(clean) || sigmoid(adversarial)), [...]."""
    probability = tf.sigmoid(clean)
    yes = probability * (tf.math.log_sigmoid(clean) - tf.math.log_sigmoid(adversarial))
    no = (1 - probability) * (tf.math.log_sigmoid(-clean) - tf.math.log_sigmoid(-adversarial))
    return tf.reduce_sum(yes + no, axis=-1)


_LOSSES = {"softmax": (softmax_loss, _softmax_divergence), "sigmoid": (sigmoid_loss, sigmoid_divergence)}


def _mean(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(values * weights) / tf.reduce_sum(weights)


def moved(items: tf.Tensor, gradient: tf.Tensor, epsilon: float, epsilon_scale: str) -> tf.Tensor:
    """Returns e_v + step * sign(gradient), where the step and the sign are taken as constant.

    Args:
      items: item embeddings e_v, float32 [m, d].
      gradient: the gradient of the loss with respect to them, [m, d].
      epsilon: length of the step.
      epsilon_scale: whether `epsilon` is "relative" to the root mean square of `items`, or "absolute".
    """
    step = tf.constant(epsilon)
    if epsilon_scale == "relative":
        step *= tf.stop_gradient(tf.sqrt(tf.reduce_mean(tf.square(items))))
    return items + step * tf.stop_gradient(tf.sign(gradient))


def adversarial_losses(
    logits_of: Callable[[tf.Tensor], tf.Tensor],
    items: tf.Tensor,
    weights: tf.Tensor,
    epsilon: float,
    weight: float,
    loss: str = "softmax",
    epsilon_scale: str = "relative",
) -> Losses:
    """Computes the loss over sampled negatives plus the FGSM auxiliary loss.

    The auxiliary loss is the divergence between the model's outputs at e_v, taken as constant, and those at
    e_v + step * sign(gradient), where the gradient is that of the loss with respect to e_v. It flattens the score
    around every item embedding, so that a graph over e_v can guide a search under the score.

    Args:
      logits_of: maps item embeddings to logits [..., 1 + n]; called once or twice.
      items: item embeddings e_v, float32 [m, d].
      weights: the weight of each row of logits, float32 [...].
      epsilon: length of the step; 0 for no auxiliary loss.
      weight: weight of the auxiliary loss.
      loss: "softmax" or "sigmoid"; the divergence is between distributions of that kind.
      epsilon_scale: whether `epsilon` is "relative" to the root mean square of `items`, or "absolute".
    """
    loss_of, divergence = _LOSSES[loss]
    if epsilon == 0:
        main = loss_of(logits_of(items), weights)
        return Losses(main, main, tf.zeros([]))
    with tf.GradientTape() as tape:
        tape.watch(items)
        logits = logits_of(items)
        main = loss_of(logits, weights)
    adversarial = logits_of(moved(items, tape.gradient(main, items), epsilon, epsilon_scale))
    auxiliary = _mean(divergence(tf.stop_gradient(logits), adversarial), weights)
    return Losses(main + weight * auxiliary, main, auxiliary)
