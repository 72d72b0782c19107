"""Compares two results of `nann bench`."""

from math import exp, hypot, log
from typing import Any

from rich.table import Table

from tfserving_ext.errors import NannError
from tfserving_ext.progress import console, outcome

FIGURES = ("per_second", "p50_ms", "p99_ms")


def compare(baseline: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Computes the ratios of the levels that both results have.

    Args:
      baseline: a result.
      other: the result to compare with it.

    Returns:
      `levels`: for each level its `name` and `ratios`: for each figure `baseline`, `other`, `ratio` (other / baseline),
      `interval`, the 95 % interval of the ratio, computed from both intervals as independent, and `differs`, whether
      the interval excludes 1. `unlike`: the differences between the machines, versions and scenarios.

    Raises:
      NannError: the results have no level in common.
    """
    before = {level["name"]: level for level in baseline["levels"]}
    pairs = [(before[level["name"]], level) for level in other["levels"] if level["name"] in before]
    if not pairs:
        raise NannError(
            f"the results have no level in common: {', '.join(before) or 'none'} against "
            f"{', '.join(level['name'] for level in other['levels']) or 'none'}"
        )
    levels = []
    for first, second in pairs:
        ratios = {name: _ratio(_figure(first, name), _figure(second, name)) for name in FIGURES}
        levels.append({"name": first["name"], "ratios": {name: one for name, one in ratios.items() if one}})
    return {"levels": levels, "unlike": _unlike(baseline, other)}


def print_comparison(found: dict[str, Any]) -> None:
    """Prints what `compare` returned."""
    table = Table(title_justify="left")
    for column in ("load", "figure", "baseline", "other", "ratio", "95 % interval", ""):
        table.add_column(column, justify="left" if column in ("load", "figure", "") else "right")
    for level in found["levels"]:
        for name, one in level["ratios"].items():
            span = one["interval"]
            table.add_row(
                level["name"],
                name,
                f"{one['baseline']:,.2f}",
                f"{one['other']:,.2f}",
                f"{one['ratio']:.3f}",
                "" if span is None else f"{span[0]:.3f} to {span[1]:.3f}",
                "differs" if one["differs"] else "",
            )
    console.print(table)
    for line in found["unlike"]:
        outcome("unlike", line)


def _figure(level: dict[str, Any], name: str) -> tuple[float | None, list[float] | None]:
    if name == "per_second":
        return level["per_second"], level["per_second_interval"]
    key = name.removesuffix("_ms")
    return level["latency_ms"][key], level["latency_intervals_ms"].get(key)


def _ratio(first: tuple[Any, Any], second: tuple[Any, Any]) -> dict[str, Any] | None:
    (before, old), (after, new) = first, second
    if not before or not after:
        return None
    ratio, span = after / before, None
    if old and new and min(*old, *new) > 0:
        # The logarithm of the ratio is a difference of independent values, so the squares of their half-widths add up.
        down = hypot(log(old[1] / before), log(new[0] / after))
        up = hypot(log(old[0] / before), log(new[1] / after))
        span = [ratio * exp(-down), ratio * exp(up)]
    differs = span is not None and not span[0] <= 1 <= span[1]
    return {"baseline": before, "other": after, "ratio": ratio, "interval": span, "differs": differs}


def _unlike(baseline: dict[str, Any], other: dict[str, Any]) -> list[str]:
    found = []
    for group in ("machine", "versions", "scenario", "target"):
        before, after = baseline.get(group, {}), other.get(group, {})
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                found.append(f"{group} {name}: {before.get(name)} against {after.get(name)}")
    return found
