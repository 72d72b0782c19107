"""Training: recipes, the loop, the sampled loss, the FGSM auxiliary loss, and checkpoints.

`train` follows a recipe, as `nann train` does; `fit` runs the loop alone.
"""

from tfserving_ext.models.checkpoint import load_model, save_model
from tfserving_ext.training.config import TrainingConfig
from tfserving_ext.training.extract import check_match, extract
from tfserving_ext.training.loop import fit
from tfserving_ext.training.recipes import TWO_SIDED, Recipe, recipe, train

__all__ = [
    "TWO_SIDED",
    "Recipe",
    "TrainingConfig",
    "check_match",
    "extract",
    "fit",
    "load_model",
    "recipe",
    "save_model",
    "train",
]
