"""The configuration of a training: the options of `nann train`, checked."""

import dataclasses
import math
from typing import Any

from tfserving_ext.errors import NannError

CHOICES = {
    "loss": ("softmax", "sigmoid"),
    "sampler": ("unigram", "log_uniform"),
    "epsilon_scale": ("relative", "absolute"),
    "schedule": ("cosine", "linear", "constant"),
}
_MAX_SEED = 2**31 - 1
_FREE = ("checkpoint_minutes", "tensorboard")  # These may differ between an interrupted training and its resumption.


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The configuration of a training.

    Attributes:
      steps: optimizer steps.
      batch_size: histories per step, over all replicas.
      targets: behaviours after each history that are its positives. The original has 1; several targets share the cost
        of the history's keys and of its negatives (docs/training.md shows the effect).
      negatives: sampled negatives, shared by the batch.
      learning_rate: AdamW's learning rate when the schedule begins, after `warmup`.
      weight_decay: AdamW's weight decay.
      epsilon: length of the FGSM step; 0 trains without the auxiliary loss.
      auxiliary_weight: weight of the auxiliary loss.
      seed: for the weights, the batches and the negatives.
      loss: "softmax" over a positive and the negatives, or "sigmoid" of each logit, which the original uses.
      sampler: "unigram", in proportion to how often items appear, or "log_uniform", by the rank of that frequency.
      epsilon_scale: "relative" to the root mean square of e_v, or "absolute", as in the original.
      schedule: how the learning rate falls to zero, "cosine" or "linear", or "constant".
      warmup: steps in which the learning rate grows from zero.
      clip_norm: upper bound of the gradients' global norm; 0 does not clip.
      mixed_precision: compute dense layers in bfloat16; the weights stay float32.
      xla: compile losses and gradients by XLA.
      deterministic: sum in a fixed order on GPUs too, so that a training can be repeated bit by bit; CPUs always do.
      max_minutes: stop after this many minutes of training if not all steps are done by then, with a schedule that
        ends there; 0 for no limit. The number of steps then depends on the machine, so that a training cannot be
        repeated bit by bit. Not allowed with several workers, whose clocks differ.
      checkpoint_minutes: minutes between checkpoints.
      validate_every: steps between validations; 0 for none.
      validation_cases: the most cases of a validation, one a validation user.
      patience: training ends after this many validations without a better recall; 0 trains all steps. With validation,
        the weights of the best validation are saved.
      tensorboard: folder for TensorBoard's log, or "" for none.
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
    loss: str = "softmax"
    sampler: str = "unigram"
    epsilon_scale: str = "relative"
    schedule: str = "cosine"
    warmup: int = 0
    clip_norm: float = 0.0
    mixed_precision: bool = False
    xla: bool = False
    deterministic: bool = False
    max_minutes: float = 0.0
    checkpoint_minutes: float = 0.5
    validate_every: int = 0
    validation_cases: int = 200
    patience: int = 0
    tensorboard: str = ""

    def __post_init__(self) -> None:
        """Raises NannError if a value is out of its range."""
        for name in ("steps", "batch_size", "targets", "negatives", "validation_cases"):
            if getattr(self, name) < 1:
                raise NannError(f"{name} is {getattr(self, name)}, allowed are 1 and above")
        if self.seed > _MAX_SEED:
            raise NannError(f"seed is {self.seed}, allowed are 0 to {_MAX_SEED}")
        for name in ("seed", "warmup", "validate_every", "patience"):
            if getattr(self, name) < 0:
                raise NannError(f"{name} is {getattr(self, name)}, allowed are 0 and above")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (float, "float") and not 0 <= value < math.inf:
                raise NannError(f"{field.name} is {value}, allowed are finite numbers from 0")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise NannError(f"{name} is {getattr(self, name)!r}, allowed are {', '.join(map(repr, allowed))}")
        if self.patience and not self.validate_every:
            raise NannError(f"patience is {self.patience}, which needs validation, but validate_every is 0")

    def identity(self) -> dict[str, Any]:
        """Returns the values that must be equal for a training to resume from another's checkpoint."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _FREE}

    def rate(self, step: int, minutes: float = 0.0) -> float:
        """Returns the learning rate of a step, from 0, that begins after `minutes` of training."""
        done = step / self.steps
        if self.max_minutes:
            done = min(1.0, max(done, minutes / self.max_minutes))
        factor = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.schedule]
        return self.learning_rate * factor * min(1.0, (step + 1) / (self.warmup + 1))
