"""What the searches can be told: the parameters of each walk, and how the scorer is run."""

import dataclasses
from collections.abc import Sequence

from tfserving_ext import ops


@dataclasses.dataclass(frozen=True)
class BestFirst:
    """Parameters of the default search, which expands the best items of a pool (docs/searches.md).

    Attributes:
      frontier: items expanded per step; their neighbours are scored in one batch.
      pool: number of scored items that are kept; the walk ends when all of them are expanded. Below k it counts as k.
      max_steps: the most steps in a layer, 0 for no limit. If it ends the walk, `stopped` is 3. A thousand steps are
        enough for a k of some thousands; a k near the size of the corpus needs more.
    """

    frontier: int = 16
    pool: int = 200
    max_steps: int = 1000


@dataclasses.dataclass(frozen=True)
class Surrogate(BestFirst):
    """Parameters of the search that evaluates only what may be among the best (docs/surrogate.md).

    Attributes:
      frontier: items expanded per step above the ground layer, and where predictions fail.
      pool: neighbours of the best one and a half times as many scored items are candidates. Where predictions fail, the
        pool of the best-first search. Below k it counts as k.
      max_steps: the most steps in a layer, 0 for no limit.
      batch: items evaluated per step; a quarter of k if that is more.
      expected_coverage: the search ends when this share of the best k is expected to be found; below 1. The expectation
        is so cautious that a negative one finds much too: with the demo's model, 0.9 finds 0.997. `nann tune` finds the
        one for a coverage (`index.coverage_rule.read_rule`).
    """

    batch: int = ops.SurrogateOptions.batch
    expected_coverage: float = ops.SurrogateOptions.expected_coverage


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Parameters of the paper's search, with its beam widths as defaults (arXiv 2202.10226, section 4).

    Attributes:
      ef: beam width per layer, start layer first.
      rounds: scoring rounds per layer, start layer first; the start layer has one.
    """

    ef: tuple[int, ...] = (100, 200, 400)
    rounds: tuple[int, ...] = (1, 1, 3)


@dataclasses.dataclass(frozen=True)
class ScorerOptions:
    """How a search runs the scorer.

    Attributes:
      batch_sizes: sizes that batches of the scorer are padded to, ascending.
      xla: compile the scorer by XLA, once per batch size; `NeuralTopK.warm_up` does this ahead of the first request. If
        the runtime has no XLA, the scorer runs without it.
      rewrite: rewrite the scorer by the passes (docs/scorer.md) when a search first runs.
    """

    batch_sizes: Sequence[int] = ops.DEFAULT_BATCH_SIZES
    xla: bool = False
    rewrite: bool = True
