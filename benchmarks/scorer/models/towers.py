"""Models without attention: a deep network over pooled behaviours, and a mixture of experts for several scenarios."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.scorer.models.reference_scorer import ReferenceScorer, built, history_of, normal
from tfserving_ext.models.retrieval_model import UserTensors

DIM = 64


class Dnn(keras.Model):
    """A deep network over the user's profile, the mean of the behaviours, and the item."""

    def __init__(self, dtype: str, hidden: tuple[int, ...] = (128, 64, 32)) -> None:
        """Makes the layers; `dtype` is that of matrix products."""
        super().__init__(name="dnn")
        kind: dict[str, Any] = {"dtype": "float32" if dtype == "float32" else f"mixed_{dtype}"}
        self.input_norm = keras.layers.BatchNormalization(**kind)
        self.hidden = [
            (
                keras.layers.Dense(units, **kind),
                keras.layers.BatchNormalization(**kind),
                keras.layers.PReLU(shared_axes=[1], **kind),
            )
            for units in hidden
        ]
        self.out = keras.layers.Dense(1, dtype="float32")

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; `user` is a profile [B, 32] and behaviours [B, L, dim]."""
        profile, behaviours = user
        interest = tf.concat([profile, tf.reduce_mean(behaviours, axis=1)], axis=-1)
        interest = tf.tile(tf.expand_dims(interest, 1), [1, tf.shape(items)[1], 1])
        x = self.input_norm(tf.concat([interest, items], axis=-1), training=False)
        for dense, norm, prelu in self.hidden:
            x = prelu(norm(dense(x), training=False))
        return tf.squeeze(self.out(x), axis=-1)


class Mmoe(keras.Model):
    """MMoE: two tasks share experts by gates, and gates and towers depend on the request's scenario."""

    def __init__(self, scenarios: int = 3, experts: int = 4, units: int = 64) -> None:
        """Makes the layers."""
        super().__init__(name="mmoe")
        self.scenarios, width = scenarios, 2 * DIM
        self.expert_kernel = self.add_weight(shape=[experts, width, units], name="expert_kernel")
        self.expert_bias = self.add_weight(shape=[experts, units], name="expert_bias")
        self.gate_kernels = [
            self.add_weight(shape=[scenarios, width, experts], name=f"gate_{task}_kernel") for task in ("click", "buy")
        ]
        # For each of click and purchase, one tower per scenario.
        self.towers = [
            [
                keras.Sequential([keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1)])
                for _ in range(scenarios)
            ]
            for _ in self.gate_kernels
        ]

    def score(self, user: UserTensors, items: tf.Tensor) -> tf.Tensor:
        """See `RetrievalModel.score`; `user` is a vector [B, dim] and a scenario, int32 [B]."""
        vector, scenario = user
        n = tf.shape(items)[1]
        x = tf.concat([tf.repeat(vector[:, None, :], n, axis=1), items], axis=-1)
        experts = tf.nn.relu(tf.einsum("bnd,edh->bneh", x, self.expert_kernel) + self.expert_bias)
        scenarios = tf.repeat(scenario, n)
        places = tf.dynamic_partition(tf.range(tf.size(scenarios)), scenarios, self.scenarios)
        logits = []
        for kernels, towers in zip(self.gate_kernels, self.towers, strict=True):
            gate = tf.nn.softmax(tf.einsum("bnd,bde->bne", x, tf.gather(kernels, scenario)))
            mixed = tf.reduce_sum(gate[..., None] * experts, axis=2)
            parts = tf.dynamic_partition(tf.reshape(mixed, [-1, mixed.shape[-1]]), scenarios, self.scenarios)
            scored = [tower(part) for tower, part in zip(towers, parts, strict=True)]
            logits.append(tf.reshape(tf.dynamic_stitch(places, scored), [-1, n]))
        click, buy = logits
        return tf.sigmoid(click) * tf.sigmoid(buy)


def dnn(seed: int = 0, dtype: str = "float32") -> ReferenceScorer:
    """Makes the deep network without attention, with batch norms and PReLU between its layers."""
    rng = np.random.default_rng(seed)
    return built(Dnn(dtype), DIM, (normal(rng, 1, 32), history_of(rng, DIM)[0]), seed)


def mmoe(seed: int = 0) -> ReferenceScorer:
    """Makes the mixture of experts, whose gates and towers depend on the scenario."""
    rng = np.random.default_rng(seed)
    return built(Mmoe(), DIM, (normal(rng, 1, DIM), tf.constant([1], tf.int32)), seed)
