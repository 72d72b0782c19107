import numpy as np
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfserving_ext.training.loss import adversarial_losses, sampled_logits, softmax_loss
from tfserving_ext.training.samplers import UnigramSampler


def test_sampler_draws_rows_in_proportion_to_their_own_counts():
    counts = np.array([10, 0, 70, 20])
    sampler = UnigramSampler(counts, 40_000)
    rows = sampler.sample(tf.constant([1, 2])).numpy()
    drawn = np.bincount(rows, minlength=5)
    assert drawn[0] == 0  # Row 0 is for missing items.
    expected = np.exp(sampler.log_expected_count(tf.constant([1, 2, 3, 4])).numpy())
    np.testing.assert_allclose(expected, 40_000 * np.array([10, 1, 70, 20]) / 101, rtol=1e-5)
    np.testing.assert_allclose(drawn[1:], expected, atol=5 * np.sqrt(expected.max()))


def test_the_same_seed_draws_the_same():
    sampler = UnigramSampler(np.arange(1, 50), 20)
    first, again, other = (sampler.sample(tf.constant(seed)).numpy() for seed in ([3, 4], [3, 4], [3, 5]))
    assert first.tolist() == again.tolist() != other.tolist()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_logits_are_corrected_and_accidental_hits_masked(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 50, size=8)
    sampler = UnigramSampler(counts, 6)
    targets, negatives = rng.integers(1, 9, size=[3, 2]), rng.integers(1, 9, size=6)
    positive, negative = rng.normal(size=[3, 2]), rng.normal(size=[3, 6])
    weights = rng.integers(0, 2, size=[3, 2])
    weights[0, 0] = 1
    logits = sampled_logits(
        tf.constant(positive, tf.float32),
        tf.constant(negative, tf.float32),
        tf.constant(targets, tf.int32),
        tf.constant(negatives, tf.int32),
        sampler,
    ).numpy()
    log_expected = np.log(6 * counts / counts.sum())
    for row, target in np.ndindex(3, 2):
        correction = log_expected[targets[row, target] - 1]
        np.testing.assert_allclose(logits[row, target, 0], positive[row, target] - correction, rtol=1e-4, atol=1e-5)
        for column in range(6):
            if negatives[column] == targets[row, target]:
                assert logits[row, target, 1 + column] < -1e8
            else:
                expected = negative[row, column] - log_expected[negatives[column] - 1]
                np.testing.assert_allclose(logits[row, target, 1 + column], expected, rtol=1e-4, atol=1e-5)
    exponents = np.exp(logits.astype(np.float64))
    expected = -np.log(exponents[..., 0] / exponents.sum(axis=-1))[weights == 1].mean()
    loss = softmax_loss(tf.constant(logits), tf.constant(weights, tf.float32))
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_auxiliary_loss_is_the_divergence_at_the_adversarial_step():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=[4, 3]).astype(np.float32)
    items = rng.normal(size=[5, 4]).astype(np.float32)

    def logits_of(embeddings):
        return tf.transpose(tf.matmul(tf.tanh(embeddings), weights))

    losses = adversarial_losses(logits_of, tf.constant(items), tf.constant([1.0, 1.0, 0.0]), epsilon=0.3, weight=2.0)

    def log_softmax(x):
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))

    def loss_at(x):
        return -log_softmax((np.tanh(x) @ weights).T)[:2, 0].mean()

    gradient = np.zeros_like(items)
    for place in np.ndindex(*items.shape):  # Central differences in float64.
        step = np.zeros(items.shape)
        step[place] = 1e-4
        gradient[place] = loss_at(items + step) - loss_at(items - step)
    moved = items + 0.3 * np.sqrt((items**2).mean()) * np.sign(gradient)
    clean, adversarial = log_softmax((np.tanh(items) @ weights).T), log_softmax((np.tanh(moved) @ weights).T)
    expected = (np.exp(clean) * (clean - adversarial)).sum(axis=1)[:2].mean()
    np.testing.assert_allclose(losses.auxiliary.numpy(), expected, rtol=1e-3)
    np.testing.assert_allclose(losses.main.numpy(), loss_at(items), rtol=1e-4)
    np.testing.assert_allclose(losses.total.numpy(), loss_at(items) + 2 * expected, rtol=1e-3)


def test_no_epsilon_no_auxiliary_loss():
    losses = adversarial_losses(lambda x: tf.transpose(x), tf.eye(3), tf.ones([3]), epsilon=0.0, weight=1.0)
    assert losses.auxiliary.numpy() == 0
    assert losses.total.numpy() == losses.main.numpy() > 0
