"""Training: the sampled loss, the FGSM auxiliary loss, the loop, and checkpoints."""

from tfserving_ext.training.checkpoint import load_model, save_model
from tfserving_ext.training.config import TrainingConfig
from tfserving_ext.training.extract import check_match, extract
from tfserving_ext.training.loop import train
from tfserving_ext.training.recipes import TWO_SIDED, Recipe, recipe, train_recipe

__all__ = [
    "TWO_SIDED",
    "Recipe",
    "TrainingConfig",
    "check_match",
    "extract",
    "load_model",
    "recipe",
    "save_model",
    "train",
    "train_recipe",
]
