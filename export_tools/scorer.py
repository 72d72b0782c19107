"""Chooses the variant of a model's scorer that an export ships: the fastest on this machine, unless told otherwise."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from export_tools.measure import Measured, costs, measure
from export_tools.sources import Source
from export_tools.variants import FOLD, NAMES, PASSES, PLAIN, XLA, Variant, VariantError, Variants
from tfserving_ext.errors import NannError
from tfserving_ext.index.format import Index
from tfserving_ext.machine import machine
from tfserving_ext.progress import outcome

# A variant has to be faster than a simpler one by this part to ship, or by the measurement's noise if that is more.
MARGIN = 0.03
MOST_NOISE = 0.15  # With more, nothing follows from the measurement.
# One by XLA has to be faster than the others by this: every server that loads it compiles it for each size of a batch,
# and TensorFlow Serving runs it uncompiled unless a flag allows XLA.
XLA_MARGIN = 0.1
RULE, RULE_WORDS = (FOLD, PASSES, PLAIN), "the passes, with rows where they fold"
NOTHING = Measured({}, 0.0)
COMPILE_SECONDS = 6.0  # No variant is compiled after the others took so long.


@dataclasses.dataclass(frozen=True)
class Choice:
    """The variant that ships, and why.

    Attributes:
      variant: what ships.
      how: "measured", "assumed" or "rule".
      reason: why, in words.
      measured: the times, if the variants were measured.
      refused: why each of the other variants could not be measured, by name.
    """

    variant: Variant
    how: str
    reason: str
    measured: Measured = NOTHING
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Returns the manifest's entry `scorer_variants`."""
        return {
            "chosen": self.variant.name,
            "how": self.how,
            "reason": self.reason,
            "processor": machine()["processor"],
            "us_per_batch": {
                name: {str(size): round(us, 1) for size, us in sizes.items()}
                for name, sizes in self.measured.us.items()
            },
            "ns_per_item": {name: round(cost, 1) for name, cost in costs(self.measured.us).items()},
            "noise": round(self.measured.noise, 4),
            "refused": dict(self.refused),
        }


def check_assumed(assume: str | None, rewrite: bool, fold_items: bool) -> None:
    """Checks the name of a variant that is to ship without being measured.

    Raises:
      NannError: there is no such variant, or the other options exclude it.
    """
    if assume is None:
        return
    if not rewrite:
        raise NannError(
            f"assume is {assume!r}, but without rewrite no variant is chosen at export: the search rewrites the scorer "
            f"itself; to keep it as it is, assume {PLAIN!r} alone"
        )
    allowed = _allowed(fold_items)
    if assume not in allowed:
        without = "" if fold_items else " without fold_items"
        raise NannError(f"assume is {assume!r}, allowed{without} are {', '.join(allowed)}")


def choose_scorer(
    source: Source, index: Index, fold_items: bool = True, measured: bool = True, assume: str | None = None
) -> Choice:
    """Makes the variants of a model's scorer and chooses one.

    Args:
      source: the model.
      index: the open index, of the model's embeddings.
      fold_items: allow the variants that take rows in place of embeddings.
      measured: take the fastest; otherwise the rule, the passes with folded rows where they fold.
      assume: the name of the variant to take, which is then not measured.

    Raises:
      NannError: the variant that was assumed cannot be made, or gives other scores than the model.
    """
    by_xla = assume.endswith(XLA) if assume is not None else measured
    variants = Variants.of_source(source, index, by_xla)
    if assume is not None:
        try:
            choice = Choice(variants.make(assume), "assumed", "asked for by its name, not measured")
        except VariantError as error:
            raise NannError(f"the scorer cannot be exported as {assume!r}: {error}") from error
    elif measured:
        choice = choose_fastest(variants, _allowed(fold_items), index.dtype)
    else:
        choice = _by_rule(variants, fold_items)
    _tell(choice)
    return choice


def _allowed(fold_items: bool) -> list[str]:
    return [name for name in NAMES if fold_items or not name.startswith(FOLD)]


def _by_rule(variants: Variants, fold_items: bool) -> Choice:
    refused: dict[str, str] = {}
    for name in RULE if fold_items else RULE[1:]:
        try:
            return Choice(variants.make(name), "rule", f"not measured: {RULE_WORDS}", refused=refused)
        except VariantError as error:
            refused[name] = str(error)
    raise AssertionError(f"{PLAIN} is never refused")


def choose_fastest(variants: Variants, names: Sequence[str] = NAMES, dtype: str = "float32") -> Choice:
    """Makes the variants in `names`, measures them, for an index whose table is of type `dtype`, and chooses one."""
    made: list[Variant] = []
    refused: dict[str, str] = {}
    compiling = 0.0
    for name in names:
        if name.endswith(XLA) and compiling > COMPILE_SECONDS:
            refused[name] = f"not tried: compiling the others took {compiling:.0f} s"
            continue
        start = time.monotonic()
        try:
            made.append(variants.make(name))
        except VariantError as error:
            refused[name] = str(error)
        if name.endswith(XLA):
            compiling += time.monotonic() - start
    measured = measure(made, variants.users[0], variants.items, dtype)
    named = {one.name: one for one in made}
    if measured.noise > MOST_NOISE:
        reason = (
            f"other programs use this machine, the same measurement again differs by {measured.noise:.0%}; {RULE_WORDS}"
        )
        return Choice(next(named[name] for name in RULE if name in named), "rule", reason, measured, refused)
    chosen, reason = fastest(costs(measured.us), measured.noise)
    return Choice(named[chosen], "measured", reason, measured, refused)


def fastest(cost: Mapping[str, float], noise: float = 0.0) -> tuple[str, str]:
    """Returns the name of the variant to ship, and why.

    Of those without XLA, the simplest that is within `MARGIN` of the fastest; of those by XLA likewise, but only if it
    is faster than that one by `XLA_MARGIN`.

    Args:
      cost: the nanoseconds per item of each variant, the simplest first.
      noise: how much they differ from one measurement to the next; a larger one takes the place of a margin.
    """
    margin, xla_margin = max(MARGIN, noise), max(XLA_MARGIN, noise)
    plain = {name: one for name, one in cost.items() if not name.endswith(XLA)}
    by_xla = {name: one for name, one in cost.items() if name.endswith(XLA)}
    chosen = _simplest(plain, margin)
    reason = f"{cost[chosen]:,.0f} ns an item"
    if chosen != PLAIN:
        reason += f", {cost[PLAIN]:,.0f} as the model wrote it"
    best = min(plain, key=plain.__getitem__)
    if best != chosen:
        reason += f"; {best} takes {cost[best]:,.0f}, less by no more than {margin:.0%}"
    if not by_xla:
        return chosen, reason
    compiled = _simplest(by_xla, margin)
    if cost[compiled] <= (1 - xla_margin) * cost[chosen]:
        return compiled, f"{cost[compiled]:,.0f} ns an item; without XLA, {chosen} is the best with {cost[chosen]:,.0f}"
    if cost[compiled] < cost[chosen]:
        reason += f"; {compiled} takes {cost[compiled]:,.0f}, less by no more than {xla_margin:.0%}"
    return chosen, reason


def _simplest(cost: Mapping[str, float], margin: float) -> str:
    least = min(cost.values())
    return next(name for name, one in cost.items() if (1 - margin) * one <= least)


def _tell(choice: Choice) -> None:
    """Prints what ships, and what the passes did to it."""
    for name, reason in choice.refused.items():
        if name == PASSES or (name == FOLD and PASSES not in choice.refused and not reason.startswith("nothing is")):
            outcome("export", f"the scorer is not exported as {name}: {reason}")
    if choice.variant.rewritten is not None:
        report = choice.variant.rewritten.report
        before, after = report[0], report[-1]
        outcome(
            "export",
            f"scorer: {before.multiply_adds_before:,.0f} multiply-adds per item, {after.multiply_adds_after:,.0f} "
            f"after the passes; {before.nodes_before} nodes per batch, {after.nodes_after} after",
        )
    outcome("export", f"scorer: {choice.variant.name} ships: {choice.reason}")
