"""The rule by which the surrogate search is asked for a coverage (docs/surrogate.md), as `nann tune` fits it."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.index.tuning import FILE, read_tuning

KEY = "coverage_rule"
MAX_POINTS = 1000
# The least `expected_coverage` that the search takes, which is also what one says of itself that knows nothing yet.
LEAST_EXPECTED = -100.0


@dataclasses.dataclass(frozen=True)
class CoverageRule:
    """Which `expected_coverage` finds which mean coverage, on users that were held out for this.

    Both columns rise strictly. Between two points the rule is linear.

    Attributes:
      coverage: mean coverage@k, above 0 and below 1.
      expected_coverage: the parameter of the surrogate search that found it, below 1.
      k: the length of the answers. Shorter answers are covered at least as well, longer ones less.
      pool: the pool of the search.
      batch: its batch. A larger one finds more.
    """

    coverage: tuple[float, ...]
    expected_coverage: tuple[float, ...]
    k: int
    pool: int
    batch: int

    @property
    def most(self) -> float:
        """The highest coverage that may be asked for."""
        return self.coverage[-1]

    def expected_for(self, coverage: float) -> float:
        """Returns the `expected_coverage` of the search that finds `coverage` on average, or more.

        Raises:
          NannError: `coverage` is not above 0, or above what the search reached.
        """
        if not 0 < coverage <= self.most:
            raise NannError(
                f"coverage is {coverage:g}, allowed are numbers above 0 and at most {self.most:.4f}, which is what the "
                "search reaches on this index"
            )
        return float(np.interp(coverage, self.coverage, self.expected_coverage))

    def coverage_at(self, expected_coverage: Any) -> np.ndarray:
        """Returns the coverage of searches that ended at `expected_coverage`, or that said so of themselves.

        Below the rule's first point, where limits ended a search early, it falls to 0 at the least such number. Beyond
        the last it rises to 1 at 1, where every item that may be wanted was evaluated.
        """
        expected, coverage = self.estimates()
        return np.interp(expected_coverage, expected, coverage)

    def estimates(self) -> tuple[list[float], list[float]]:
        """Returns the points of `coverage_at`: expected coverages, rising, and coverages."""
        return [LEAST_EXPECTED, *self.expected_coverage, 1.0], [0.0, *self.coverage, 1.0]

    def parameters(self, coverage: float) -> dict[str, Any]:
        """Returns the parameters of the surrogate search that finds `coverage`.

        Raises:
          NannError: see `expected_for`.
        """
        return {"pool": self.pool, "batch": self.batch, "expected_coverage": self.expected_for(coverage)}

    @classmethod
    def of(cls, facts: Mapping[str, Any], where: str) -> "CoverageRule":
        """Makes a rule of what `dataclasses.asdict` made of one and JSON has kept.

        Raises:
          NannError: it is no rule; `where` names its file.
        """
        try:
            coverage, expected = (tuple(map(float, facts[name])) for name in ("coverage", "expected_coverage"))
            k, pool, batch = (int(facts[name]) for name in ("k", "pool", "batch"))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise NannError(f"{where}: {KEY} is damaged; run `nann tune` again") from error
        if not (0 < len(coverage) == len(expected) <= MAX_POINTS and min(k, pool, batch) > 0):
            raise NannError(f"{where}: {KEY} must have two columns of equal length and numbers above 0")
        rises = all((np.diff(column) > 0).all() for column in (coverage, expected))
        within = coverage[0] > 0 and coverage[-1] < 1 and expected[0] > LEAST_EXPECTED and expected[-1] < 1
        if not (rises and within):
            raise NannError(f"{where}: {KEY} must have columns that rise, the coverage from above 0 to below 1")
        return cls(coverage, expected, k, pool, batch)


def read_rule(index: str | os.PathLike[str]) -> CoverageRule:
    """Reads the rule that `nann tune` fitted to this build of an index.

    Raises:
      NannError: there is none, as after tuning by an earlier release or for an index without features; or its file is
        damaged or belongs to another build.
    """
    facts = read_tuning(index).get(KEY)
    if facts is None:
        raise NannError(f"{index}/{FILE} has no {KEY}; run `nann tune` again")
    return CoverageRule.of(facts, f"{index}/{FILE}")


def rule_or_none(index: str | os.PathLike[str]) -> CoverageRule | None:
    """Reads the rule, see `read_rule`, or returns None."""
    try:
        return read_rule(index)
    except NannError:
        return None
