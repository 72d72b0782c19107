"""Recipes: how a model is trained by default, and the two-sided model that a deep one starts from.

docs/training.md has the measurements behind them.
"""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tfserving_ext.artifacts import read_json, sha256
from tfserving_ext.errors import NannError
from tfserving_ext.local_paths import check_local
from tfserving_ext.models import DnnConfig, ForeignConfig, NannAttentionConfig, SequenceConfig, TwoSidedConfig
from tfserving_ext.models.checkpoint import MANIFEST
from tfserving_ext.outputs import MODEL, check_replaceable
from tfserving_ext.training.cluster import workers
from tfserving_ext.training.config import TrainingConfig
from tfserving_ext.training.loop import fit

TWO_SIDED = TrainingConfig(steps=8000, batch_size=128, targets=2, negatives=500, learning_rate=1e-2, epsilon=0.0)
_ON_A_START = TrainingConfig(steps=1500, batch_size=64, targets=2, negatives=300, warmup=50)
_START_SHARE = 0.35  # The share of `max_minutes` for the start; about what it takes without a limit.


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A kind of model with its sizes, and how to train it.

    Attributes:
      model: the model's sizes.
      training: how to train it.
      start: how to train the two-sided model whose item embeddings and tower it starts with; None for no start.
    """

    model: SequenceConfig
    training: TrainingConfig
    start: TrainingConfig | None = None

    def started(self) -> TwoSidedConfig:
        """Returns the sizes of the start, which are those of the parts that the model takes over from it."""
        length = getattr(self.model, "attended", self.model.history_length)
        return TwoSidedConfig(
            embedding_dim=self.model.embedding_dim,
            history_length=length,
            mask_padding=self.model.mask_padding,
            pools=getattr(self.model, "pools", 0) or TwoSidedConfig.pools,
        )


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "nann_attention": Recipe(NannAttentionConfig(history_length=200, matches=8, pools=8), _ON_A_START, TWO_SIDED),
        "dnn": Recipe(DnnConfig(), _ON_A_START, TWO_SIDED),
        "two_sided": Recipe(TwoSidedConfig(), TWO_SIDED),
    }
)


def recipe(name: str) -> Recipe:
    """Returns the default recipe of a kind of model.

    Args:
      name: one of `RECIPES`; or "my_module:MyModel", a model of your own, which has no start.

    Raises:
      NannError: `name` is neither.
    """
    if ":" in name:
        return Recipe(ForeignConfig(model_class=name), TrainingConfig())
    if name not in RECIPES:
        raise NannError(f"the model is {name!r}; allowed are {', '.join(RECIPES)}, or your own: my_module:MyModel")
    return RECIPES[name]


def train(
    data: str | os.PathLike[str],
    target: str | os.PathLike[str],
    recipe: Recipe = RECIPES["nann_attention"],
    start_from: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Trains the recipe's start, if it has one, and then the model; resumes an interrupted call.

    The start lies beside the target, in `.<name>.start`, until the model is written. `max_minutes` limits both
    together.

    Example:
      >>> from dataclasses import replace
      >>> from tfserving_ext.training import recipe
      >>> usual = recipe("two_sided")
      >>> quick = replace(usual, training=replace(usual.training, steps=5))
      >>> nann.train("data", "two_sided", quick)["steps_done"]
      5

    Args:
      data: a folder that `nann convert` wrote.
      target: the model's folder.
      recipe: what to train, and how, such as `recipe("dnn")`.
      start_from: a trained model to start with, if the recipe has no start; otherwise it is ignored.
      force: replace whatever `target` holds.

    Returns:
      The report that `fit` returns.

    Raises:
      NannError: as `fit` does; or there are several workers, which do not train a start.
    """
    if recipe.start is None:
        return fit(data, target, recipe.training, recipe.model, start_from, force)
    if workers() > 1:
        raise NannError(
            "several workers (TF_CONFIG) do not train a start: train a two-sided model by itself and name it by "
            "--start-from, or give --start-steps 0"
        )
    check_local(target)
    target = Path(target).resolve()
    folder = target.with_name(f".{target.name}.start")
    start, training = recipe.start, recipe.training
    if training.max_minutes:
        start = dataclasses.replace(start, max_minutes=_START_SHARE * training.max_minutes)
        training = dataclasses.replace(training, max_minutes=(1 - _START_SHARE) * training.max_minutes)
    check_replaceable(target, MODEL, force, [data])
    if not _is(folder, data, start, recipe.started()):
        fit(data, folder, start, recipe.started())
    report = fit(data, target, training, recipe.model, folder, force)
    shutil.rmtree(folder)
    return report


def _is(folder: Path, data: str | os.PathLike[str], training: TrainingConfig, config: TwoSidedConfig) -> bool:
    """Returns whether the folder holds the model of this very training."""
    if not (folder / MANIFEST).exists():
        return False
    found = read_json(folder / MANIFEST)
    wanted = {"data_sha256": sha256(Path(data) / "manifest.json"), **training.identity()}
    sizes = {name: list(size) if isinstance(size, tuple) else size for name, size in dataclasses.asdict(config).items()}
    return found["config"] == sizes and wanted.items() <= found["training"].items()
