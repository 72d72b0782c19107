"""Conditions on figures, such as `p99_ms > 20`, for exit statuses in CI and for the search of the highest rate."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tfserving_ext.errors import NannError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
FIGURES = (
    "p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99.9_ms", "p99.99_ms", "mean_ms", "min_ms", "max_ms",
    "per_second", "requests", "errors", "error_rate",
)  # fmt: skip
_CONDITION = re.compile(r"\s*([a-z0-9_.]+)\s*(<=|>=|==|<|>)\s*([-+0-9.e]+)\s*(%?)\s*")


@dataclass(frozen=True)
class Condition:
    """A figure compared with a number.

    Attributes:
      figure: one of `FIGURES`.
      sign: `<`, `<=`, `>`, `>=` or `==`.
      number: in milliseconds, requests per second, or as a fraction for `error_rate`.
    """

    figure: str
    sign: str
    number: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Parses a condition such as `p99_ms > 20` or `error_rate > 1%`.

        Raises:
          NannError: the text is not a condition.
        """
        match = _CONDITION.fullmatch(text)
        if not match or match[1] not in FIGURES:
            raise NannError(
                f'the condition {text!r} must be FIGURE SIGN NUMBER, such as "p99_ms > 20"; figures are '
                f"{', '.join(FIGURES)}; signs are {' '.join(_OPERATORS)}"
            )
        try:
            number = float(match[3]) / (100 if match[4] else 1)
        except ValueError:
            raise NannError(f"the condition {text!r} compares with {match[3]!r}, which is not a number") from None
        return cls(match[1], match[2], number)

    def holds(self, figures: Mapping[str, float | None]) -> bool:
        """Returns whether the condition holds for these figures.

        A missing figure, such as the latency of a level without answers, counts as infinite.
        """
        found = figures.get(self.figure)
        return _OPERATORS[self.sign](float("inf") if found is None else found, self.number)

    def __str__(self) -> str:
        return f"{self.figure} {self.sign} {self.number:g}"
