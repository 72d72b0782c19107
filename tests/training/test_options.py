"""The options of training, each compared with its documentation."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfserving_ext.data.sequences import Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.models import DnnConfig, ForeignConfig, NannAttentionConfig, TwoSided, TwoSidedConfig, import_models
from tfserving_ext.retrieval.flatness import flatness
from tfserving_ext.training import TrainingConfig, fit, load_model
from tfserving_ext.training.loss import adversarial_losses, sigmoid_loss
from tfserving_ext.training.monitor import Monitor
from tfserving_ext.training.samplers import LogUniformSampler, UnigramSampler

TRANSFORMER = "examples.transformer_model:TransformerModel"


def test_every_appearance_is_as_likely_to_be_drawn(monkeypatch):
    """Holds for rare items among frequent ones too, whose cumulative probabilities are equal in float32."""
    counts = np.array([1, 0, 1 << 26, 3, 1, 1 << 26, 2])
    total = 1 + 1 + (1 << 27) + 3 + 1 + 2
    sampler = UnigramSampler(counts, 5)
    ends = np.cumsum(np.maximum(counts, 1))
    wanted = {0: 1, 1: 2, 2: 3, ends[2] - 1: 3, ends[2]: 4, ends[3]: 5, ends[3] + 1: 6, ends[5]: 7, total - 1: 7}
    asked = []

    def drawn(shape, seed, low, high, dtype):
        asked.append((low, high, dtype))
        return tf.constant(list(wanted), tf.int64)

    monkeypatch.setattr(tf.random, "stateless_uniform", drawn)
    assert sampler.sample(tf.constant([1, 2])).numpy().tolist() == list(wanted.values())
    assert asked == [(0, total, tf.int64)]
    expected = np.exp(sampler.log_expected_count(tf.range(1, 8)))
    np.testing.assert_allclose(expected, 5 * np.maximum(counts, 1) / total, rtol=1e-5)


def test_log_uniform_reaches_every_rank_of_millions():
    """The cumulative probabilities of the last ranks differ by less than a rounding error of float32."""
    n = 1 << 22
    sampler = LogUniformSampler(np.zeros(n), 200_000)
    rows = sampler.sample(tf.constant([1, 2])).numpy()
    last = rows[rows > n // 2]
    assert np.unique(last % 16).size == 16
    # About log(2) / log(n + 1) of the draws, from so many rows that few are drawn twice.
    assert np.unique(last).size > 0.995 * last.size


def test_log_uniform_draws_by_rank():
    counts = np.array([3, 90, 0, 20, 20])  # Ranks 3, 0, 4, 1, 2.
    sampler = LogUniformSampler(counts, 50_000)
    drawn = np.bincount(sampler.sample(tf.constant([1, 2])).numpy(), minlength=6)
    ranks = np.array([3, 0, 4, 1, 2])
    expected = 50_000 * np.log((ranks + 2) / (ranks + 1)) / math.log(6)
    assert drawn[0] == 0
    np.testing.assert_allclose(np.exp(sampler.log_expected_count(tf.range(1, 6))), expected, rtol=1e-4)
    np.testing.assert_allclose(drawn[1:], expected, atol=5 * np.sqrt(expected.max()))
    # TensorFlow's own sampler gives the expected counts for one draw.
    theirs = tf.random.log_uniform_candidate_sampler([[0, 1, 2, 3, 4]], 5, 1, False, 5)[1][0]
    np.testing.assert_allclose(expected / 50_000, theirs.numpy()[ranks], rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sigmoid_loss_is_the_sum_of_binary_cross_entropies(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=[3, 2, 5]) * 4
    weights = rng.integers(0, 2, size=[3, 2]).astype(np.float32)
    weights[0, 0] = 1
    probability = 1 / (1 + np.exp(-logits))
    labels = np.zeros([3, 2, 5])
    labels[..., 0] = 1
    entropy = -(labels * np.log(probability) + (1 - labels) * np.log(1 - probability)).sum(axis=-1)
    loss = sigmoid_loss(tf.constant(logits, tf.float32), tf.constant(weights))
    np.testing.assert_allclose(loss, entropy[weights == 1].mean(), rtol=1e-4)


def test_sigmoid_divergence_and_an_absolute_step():
    rng = np.random.default_rng(1)
    weights = rng.normal(size=[4, 3]).astype(np.float32)
    items = (rng.normal(size=[5, 4]) * 7).astype(np.float32)
    losses = adversarial_losses(
        lambda x: tf.transpose(x @ weights), tf.constant(items), tf.ones([3]), 0.02, 1.0, "sigmoid", "absolute"
    )
    logits = (items @ weights).T
    probability = 1 / (1 + np.exp(-logits))
    # d loss / d item v: the first item's label is 1, those of the others are 0.
    residual = probability.copy()
    residual[:, 0] -= 1
    gradient = (weights @ residual / 3).T
    moved = 1 / (1 + np.exp(-((items + 0.02 * np.sign(gradient)) @ weights).T))
    divergence = probability * np.log(probability / moved) + (1 - probability) * np.log((1 - probability) / (1 - moved))
    np.testing.assert_allclose(losses.auxiliary, divergence.sum(axis=1).mean(), rtol=2e-2)


def test_learning_rates():
    cosine = TrainingConfig(steps=100, learning_rate=2.0, warmup=9)
    assert [cosine.rate(step) for step in (0, 4)] == pytest.approx(
        [0.2, 0.5 * 2 * (1 + math.cos(math.pi * 0.04)) * 0.5]
    )
    assert cosine.rate(50) == pytest.approx(1.0)
    assert TrainingConfig(steps=100, learning_rate=2.0, schedule="linear").rate(25) == pytest.approx(1.5)
    assert TrainingConfig(steps=100, learning_rate=2.0, schedule="constant").rate(99) == 2.0
    timed = TrainingConfig(steps=100, learning_rate=2.0, schedule="linear", max_minutes=10)
    assert timed.rate(10, 5.0) == pytest.approx(1.0)  # More of the time than of the steps has passed.
    assert timed.rate(80, 5.0) == pytest.approx(0.4)
    assert timed.rate(10, 11.0) == 0


def test_the_time_ends_training(world, tmp_path):
    report = fit(
        world.data, tmp_path / "model", TrainingConfig(steps=10**9, max_minutes=0.02, batch_size=8), TwoSidedConfig()
    )
    assert 0 < report["steps_done"] < 10**6
    assert report["max_minutes"] == 0.02
    load_model(tmp_path / "model")


def steps_of(world, tmp_path, name, **options):
    config = TrainingConfig(steps=3, batch_size=16, negatives=10, epsilon=0, schedule="constant", **options)
    return fit(world.data, tmp_path / name, config, TwoSidedConfig())


@pytest.mark.slow
def test_clipping_moves_weights_less_and_only_when_the_norm_is_above(world, tmp_path):
    """Only AdamW's epsilon makes its step depend on the gradients' scale, so the norm is clipped far below it."""
    losses = [
        steps_of(world, tmp_path, name, clip_norm=clip)["softmax_loss"]
        for name, clip in (("none", 0.0), ("loose", 1e6), ("tight", 1e-9))
    ]
    tables = [np.asarray(load_model(tmp_path / name).model.item_table) for name in ("none", "loose", "tight")]
    np.testing.assert_allclose(tables[0], tables[1], atol=1e-6)
    start = TwoSided(world.sequences.item_ids, world.sequences.category_ids, np.asarray(world.sequences.item_counts))
    moved = [np.abs(table - np.asarray(start.item_table)).max() for table in tables]
    assert moved[2] < 0.1 * moved[0]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


MIXED, XLA = {"mixed_precision": True}, {"xla": True, "clip_norm": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (NannAttentionConfig(), MIXED),
        (DnnConfig(), MIXED),
        (ForeignConfig(model_class=TRANSFORMER), MIXED),
        (TwoSidedConfig(), XLA),
        (NannAttentionConfig(), XLA),
    ],
    ids=lambda value: getattr(value, "model", None) or next(iter(value)),
)
def test_faster_steps_give_about_the_same_loss(world, tmp_path, options, model):
    import_models(TRANSFORMER.partition(":")[0])
    config = TrainingConfig(steps=2, batch_size=8, negatives=10, loss="sigmoid")
    plain = fit(world.data, tmp_path / "plain", config, model)
    fast = fit(world.data, tmp_path / "fast", dataclasses.replace(config, **options), model)
    assert fast["sigmoid_loss"] == pytest.approx(plain["sigmoid_loss"], rel=0.03)
    loaded = load_model(tmp_path / "fast").model
    assert {np.asarray(value).dtype for value in loaded.trainable_variables} == {np.dtype(np.float32)}
    assert loaded.item({"item_id": loaded.items.ids[:2], "category_id": loaded.categories.ids[:2]}).dtype == tf.float32


def test_the_optimizer_sees_the_gradient_of_a_row_and_not_of_its_look_ups(world, tmp_path, monkeypatch):
    """Keras alone would square each look-up of a row before it sums them."""
    seen = []
    update = keras.optimizers.AdamW.update_step

    def recorded(self, gradient, variable, rate):
        seen.append((isinstance(gradient, tf.IndexedSlices), gradient.shape == variable.shape))
        return update(self, gradient, variable, rate)

    monkeypatch.setattr(keras.optimizers.AdamW, "update_step", recorded)
    steps_of(world, tmp_path, "model")
    assert len(seen) > 5
    assert set(seen) == {(False, True)}


@pytest.mark.slow
def test_the_log_for_tensorboard(world, tmp_path):
    config = TrainingConfig(steps=6, batch_size=16, negatives=10, validate_every=3, tensorboard=str(tmp_path / "log"))
    fit(world.data, tmp_path / "model", config)
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    wanted = {"loss/total", "loss/main", "loss/auxiliary", "learning_rate", "recall", "embedding_norm"}
    tags = set(events.Tags()["tensors"])
    assert wanted | {"flatness/step_0.1"} == tags
    assert [event.step for event in events.Tensors("recall")] == [3, 6]
    for tag in tags:
        assert all(np.isfinite(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag))


def test_validation_recall_is_that_of_brute_force(world):
    trained = load_model(world.model)
    sequences = Sequences.open(world.data)
    config = TrainingConfig(validate_every=1, validation_cases=30)
    monitor = Monitor(trained.model, sequences, config, 50, False)
    cases = sequences.cases("validation", 1, 50)
    chosen = np.unique(np.linspace(0, len(cases) - 1, 30).astype(int))
    rows = np.arange(1, sequences.num_items + 1)
    items = trained.model.item_from_rows(tf.constant(rows, tf.int32), tf.constant(sequences.item_categories))
    hits = []
    for case in chosen:
        history = cases.histories[case][None]
        user = trained.model.user_from_rows(tf.constant(history), tf.constant(sequences.category_rows_of(history)))
        scores = trained.model.score(user, items[None]).numpy()[0]
        hits.append(cases.targets[case] in rows[np.argsort(-scores, kind="stable")[: monitor.k]])
    assert monitor.recall() == pytest.approx(np.mean(hits), abs=1 / 30)
    assert 0 < np.mean(hits) < 1
    assert monitor.k == sequences.num_items // 10


def test_a_model_that_scores_all_alike_recalls_nothing(world):
    """Items that tie with the target rank before it, so that such a model is not kept as the best."""
    trained = load_model(world.model)
    monitor = Monitor(
        trained.model, Sequences.open(world.data), TrainingConfig(validate_every=1, validation_cases=5), 50, False
    )
    trained.model.score = lambda user, items: tf.zeros([tf.shape(user[0])[0], tf.shape(items)[1]])
    assert monitor.recall() == 0


def test_flatness_of_a_linear_and_of_a_constant_score():
    rng = np.random.default_rng(0)
    items = rng.normal(size=[400, 16]).astype(np.float32)
    user = rng.normal(size=[3, 16]).astype(np.float32)
    linear = flatness(lambda user, rows: tf.einsum("bd,bnd->bn", user[0], rows), [tf.constant(user)], items, 0.1)
    # The mean absolute value of a sum of independent signs is sqrt(2 / pi) times its standard deviation.
    assert float(linear) == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.1)
    flat = flatness(lambda _, rows: tf.cast(rows > 0, tf.float32)[..., 0], [tf.constant(user)], items * 10, 1e-6)
    assert float(flat) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps is 0, allowed are 1 and above"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"negatives": 0}, "negatives is 0"),
        ({"warmup": -1}, "warmup is -1, allowed are 0 and above"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, allowed are finite numbers from 0"),
        ({"max_minutes": float("inf")}, "max_minutes is inf"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"loss": "hinge"}, "loss is 'hinge', allowed are 'softmax', 'sigmoid'"),
        ({"sampler": "uniform"}, "sampler is 'uniform', allowed are 'unigram', 'log_uniform'"),
        ({"patience": 3}, "patience is 3, which needs validation, but validate_every is 0"),
    ],
)
def test_refuses_options_out_of_range(options, words):
    with pytest.raises(NannError, match=words):
        TrainingConfig(**options)


def test_validation_needs_validation_users(world, tmp_path):
    from tfserving_ext.data.conversion import convert
    from tfserving_ext.data.rows import Rules

    data = convert(world.csv, tmp_path / "data", Rules(validation=0, test=0.1))
    with pytest.raises(NannError, match="no validation user has two behaviours"):
        fit(data, tmp_path / "model", TrainingConfig(steps=1, validate_every=1))
