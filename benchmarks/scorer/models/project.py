"""The project's own models, with user tensors computed from a random history."""

from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.scorer.models.reference_scorer import BEHAVIOURS, ReferenceScorer, randomise
from tfserving_ext.models import NannAttention, TwoSided

ITEMS, CATEGORIES = 1000, 10


def nann_attention(seed: int = 0) -> ReferenceScorer:
    """Makes the attention model of alibaba/nann's UserBehavior demo."""
    return _scorer(NannAttention(np.arange(ITEMS), np.arange(CATEGORIES)), seed)


def two_sided(seed: int = 0) -> ReferenceScorer:
    """Makes the two-sided model, which scores by the dot product of a user vector and an item vector."""
    return _scorer(TwoSided(np.arange(ITEMS), np.arange(CATEGORIES)), seed)


def _scorer(model: Any, seed: int) -> ReferenceScorer:
    rng = np.random.default_rng(seed)
    randomise(model.variables, seed)
    history = rng.integers(0, ITEMS, [1, BEHAVIOURS - 7])
    features = {"item_history": tf.constant(history), "category_history": tf.constant(history % CATEGORIES)}
    return ReferenceScorer(model.config.model, model.item_dim, model.user(features), model.score)
