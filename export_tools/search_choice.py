"""Decides which search the signature `retrieve` runs, from what was measured on the index."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from export_tools.signatures import Defaults
from tfserving_ext.errors import NannError
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
      NannError: `defaults.search` is unknown, or the surrogate search is wanted for an index without features.
    """
    if defaults.search not in SEARCHES:
        raise NannError(f"search is {defaults.search!r}, allowed are {', '.join(SEARCHES)}")
    if not index.has_features:
        if defaults.search == "surrogate":
            raise NannError("the index has no features for the surrogate search; build it again with `nann index`")
        return dataclasses.replace(defaults, search="best_first", surrogate=None)
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
