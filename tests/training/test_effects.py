"""The options of the optimizer and of the mask, each tested by its effect on weights and scores.

First contact, line 27.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfserving_ext.models import DnnConfig, NannAttentionConfig, TwoSidedConfig, model_named
from tfserving_ext.training import TrainingConfig, fit, load_model

STEP = TrainingConfig(
    steps=1, batch_size=16, negatives=10, epsilon=0.0, weight_decay=0.0, schedule="constant", learning_rate=1e-2
)
MODEL = TwoSidedConfig(embedding_dim=8, history_length=20, pools=2)


@pytest.fixture(scope="module")
def weights(world, tmp_path_factory):
    """Returns a function that trains and returns the weights by name; float64."""

    def trained(**changes):
        target = tmp_path_factory.mktemp("model") / "model"
        fit(world.data, target, dataclasses.replace(STEP, **changes), MODEL)
        return {each.path: np.asarray(each, np.float64) for each in load_model(target).model.trainable_variables}

    return trained


@pytest.fixture(scope="module")
def start(weights):
    """The weights before any step: a learning rate of zero changes nothing."""
    return weights(learning_rate=0.0)


@pytest.fixture(scope="module")
def moved(weights, start):
    """How far one plain step moves each weight."""
    return {name: value - start[name] for name, value in weights().items()}


def near(found, wanted, scale):
    """Compares up to the rounding of float32 weights of that size."""
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=3e-7 * max(1.0, np.abs(scale).max()))


def test_weight_decay_takes_its_part_of_every_weight(weights, start, moved):
    """AdamW's decay is separate from the gradient: it subtracts rate x decay x weight from a step without it."""
    decayed = weights(weight_decay=0.5)
    assert len(moved) > 4
    for name, value in decayed.items():
        near(value - start[name] - moved[name], -1e-2 * 0.5 * start[name], start[name])
    assert max(np.abs(value - start[name] - moved[name]).max() for name, value in decayed.items()) > 1e-4


def test_the_first_step_of_a_warm_up_is_shorter_by_its_rate(weights, start, moved):
    """Compares the first of ten warm-up steps: Adam's step is proportional to the learning rate."""
    warmed = weights(warmup=9)
    for name, value in warmed.items():
        near(value - start[name], 0.1 * moved[name], start[name])
    assert max(np.abs(value).max() for value in moved.values()) > 5e-3


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_second_of_two_steps_has_half_the_rate(weights, moved, start, schedule):
    """The first has the whole rate, so that after it both trainings have the same weights and the same next batch."""
    constant, scheduled = weights(steps=2), weights(steps=2, schedule=schedule)
    for name, value in scheduled.items():
        first = start[name] + moved[name]
        near(value - first, 0.5 * (constant[name] - first), start[name])
    assert max(np.abs(constant[name] - scheduled[name]).max() for name in constant) > 1e-3


@pytest.mark.parametrize(
    "config", [TwoSidedConfig(), DnnConfig(), NannAttentionConfig(), NannAttentionConfig(pools=4, matches=0)], ids=str
)
def test_the_mask_leaves_padding_out(world, config):
    """Padding changes the scores of a short history only without the mask; a full history scores the same with it."""
    sequences = world.sequences
    masked = model_named(config.model)(
        sequences.item_ids, sequences.category_ids, np.asarray(sequences.item_counts), config
    )
    plain = model_named(config.model)(
        sequences.item_ids,
        sequences.category_ids,
        np.asarray(sequences.item_counts),
        dataclasses.replace(config, mask_padding=False),
    )
    for theirs, mine in zip(masked.variables, plain.variables, strict=True):
        if np.asarray(theirs).dtype.kind == "f":
            theirs.assign(theirs + 0.05 * tf.random.stateless_normal(theirs.shape, [1, 2]))
            mine.assign(theirs)
    ids = np.asarray(sequences.item_ids)
    items = masked.item(
        {
            "item_id": ids[:7],
            "category_id": np.asarray(sequences.category_ids)[np.asarray(sequences.item_categories)[:7] - 1],
        }
    )

    def scores(model, history):
        row = np.full([1, config.history_length], -1, np.int64)
        row[0, -len(history) :] = history
        return model.score(model.user({"item_history": row, "category_history": row * 0 - 1}), items[None]).numpy()

    full, short = ids[10 : 10 + config.history_length], ids[10:13]
    assert np.all(np.isfinite([scores(masked, full), scores(masked, short), scores(plain, short)]))
    np.testing.assert_allclose(scores(masked, full), scores(plain, full), rtol=1e-4, atol=1e-5)
    assert np.abs(scores(masked, short) - scores(plain, short)).max() > 1e-3
