"""Ranges of load levels, such as `1:64`."""

import re

MAX_CONCURRENCY = 512
MAX_RATE = 1e6
MAX_LEVELS = 64
_RANGE = re.compile(r"([0-9.]+)(?::([0-9.]+)(?::([0-9.]+))?)?")


def parse_range(text: str, most: float) -> list[float]:
    """Parses levels such as `8`, `1:64` (1, 2, 4, ... 64) or `10:50:10`.

    Args:
      text: the range.
      most: the largest allowed level.

    Raises:
      ValueError: the text is not a range, or is out of bounds.
    """
    match = _RANGE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not N, FIRST:LAST (doubling) or FIRST:LAST:STEP")
    try:
        ends = [float(part) for part in match.groups() if part is not None]
    except ValueError:
        raise ValueError(f"{text!r} has a part that is not a number") from None
    first, last = ends[0], ends[min(1, len(ends) - 1)]
    if not 0 < first <= last <= most:
        raise ValueError(f"{text!r} must ascend from above 0 to at most {most:g}")
    if len(ends) < 3:
        levels = [first]
        while levels[-1] < last:
            levels.append(min(2 * levels[-1], last))
        return levels
    step = ends[2]
    if step <= 0 or (last - first) / step >= MAX_LEVELS:
        raise ValueError(f"{text!r} must have a step above 0, and at most {MAX_LEVELS} levels")
    return [first + number * step for number in range(int((last - first) / step + 1e-9) + 1)]
