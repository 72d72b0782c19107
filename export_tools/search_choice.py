"""Decides which search the signature `retrieve` runs, from what was measured on the index."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from export_tools.signatures import Defaults
from tfserving_ext.errors import NannError
from tfserving_ext.index.coverage_rule import CoverageRule, read_rule, rule_or_none
from tfserving_ext.index.format import Index
from tfserving_ext.index.tuning import read_tuning
from tfserving_ext.progress import outcome
from tfserving_ext.retrieval import Surrogate

SEARCHES = ("auto", "surrogate", "best_first")
# The coverage by which the surrogate search may fall short of best-first's, at fewer evaluations.
SHORTFALL = 0.005


def with_search(defaults: Defaults, index: Index, figures: Mapping[str, Any] | None) -> Defaults:
    """Returns the defaults with the search of `retrieve` decided, and prints the reason.

    If `nann tune` chose the surrogate search, its parameters are those that `nann tune` found.

    Args:
      defaults: the parameters of an export; `search` is what the caller wants.
      index: the index.
      figures: what `nann evaluate` wrote about the model and the index, or None.

    Raises:
      NannError: `defaults.search` is unknown; the surrogate search is wanted for an index without features; or a
        coverage is asked for that no rule of this index gives.
    """
    if defaults.search not in SEARCHES:
        raise NannError(f"search is {defaults.search!r}, allowed are {', '.join(SEARCHES)}")
    if not index.has_features:
        if defaults.search == "surrogate" or defaults.coverage is not None:
            raise NannError("the index has no features for the surrogate search; build it again with `nann index`")
        return dataclasses.replace(defaults, search="best_first", surrogate=None)
    if defaults.coverage is not None:
        return _with_coverage(defaults, index)
    rule = rule_or_none(index.folder)
    if rule is not None and defaults.k <= rule.k:
        defaults = dataclasses.replace(defaults, rule=rule)
    if defaults.search != "auto":
        return defaults
    measured, chosen = figures.get("searches") if figures is not None else None, _tuned(index)
    search, why = "best_first", "no evaluation or tuning of this index compares it with the surrogate search"
    if isinstance(measured, Mapping) and {"surrogate", "best_first"} <= measured.keys():
        search, why = _by_evaluation(measured["surrogate"], measured["best_first"])
    elif chosen is not None and chosen["search"] in SEARCHES:
        search, why = chosen["search"], "`nann tune` chose it"
        if search == "surrogate":
            defaults = dataclasses.replace(defaults, surrogate=Surrogate(**chosen["parameters"]))
    outcome("export", f"retrieve runs the search {search}: {why}")
    return dataclasses.replace(defaults, search=search)


def _with_coverage(defaults: Defaults, index: Index) -> Defaults:
    """Returns the defaults of an export whose `retrieve` finds `defaults.coverage` by the surrogate search."""
    assert defaults.coverage is not None and defaults.surrogate is not None
    if defaults.search == "best_first":
        raise NannError(f"coverage is {defaults.coverage:g}, which the surrogate search alone can be asked for")
    rule = read_rule(index.folder)
    if defaults.k > rule.k:
        raise NannError(
            f"k is {defaults.k}, the coverage rule of {index.folder} holds up to {rule.k}; run `nann tune` with "
            f"--k {defaults.k}"
        )
    surrogate = dataclasses.replace(defaults.surrogate, **rule.parameters(defaults.coverage))
    outcome("export", f"retrieve runs the search surrogate: a coverage of {defaults.coverage:g} is asked for")
    return dataclasses.replace(defaults, search="surrogate", surrogate=surrogate, rule=rule)


def check_rule(defaults: Mapping[str, Any], index: str | os.PathLike[str]) -> None:
    """Checks that the rule of an export holds for a new build of its index, if `nann tune` has fitted one to that.

    Args:
      defaults: the `defaults` of the export's manifest.
      index: the folder of the new index.

    Raises:
      NannError: the exported rule finds clearly less than what is asked for, or is damaged.
    """
    if defaults.get("rule") is None:
        return
    rule = CoverageRule.of(defaults["rule"], "the exported model's manifest")
    asked = rule.coverage if defaults.get("coverage") is None else (defaults["coverage"],)
    new = rule_or_none(index)
    if new is None:
        outcome("export", f"not checked: the rule for coverage on {index}, which has none; `nann tune` fits one")
        return
    found = new.coverage_at([rule.expected_for(one) for one in asked])
    worst = int(np.argmax(np.array(asked) - found))
    if found[worst] < asked[worst] - SHORTFALL:
        raise NannError(
            f"asked for a coverage of {asked[worst]:.4f}, the exported model would find {found[worst]:.4f} on {index}; "
            "export the model anew"
        )


def _tuned(index: Index) -> dict[str, Any] | None:
    """Returns the setting that `nann tune` chose for this build of the index, or None."""
    try:
        return read_tuning(index.folder)["chosen"]
    except NannError:
        return None


def _by_evaluation(surrogate: Mapping[str, Any], best_first: Mapping[str, Any]) -> tuple[str, str]:
    told = (
        f"in the evaluation, surrogate covers {surrogate['coverage']:.4f} with "
        f"{surrogate['items_scored']:,.0f} items scored, best_first {best_first['coverage']:.4f} with "
        f"{best_first['items_scored']:,.0f}"
    )
    good = surrogate["coverage"] >= best_first["coverage"] - SHORTFALL
    return "surrogate" if good and surrogate["items_scored"] < best_first["items_scored"] else "best_first", told
