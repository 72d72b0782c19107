"""Checks before a deployment whether an index can be trusted for a model.

The search is compared with brute force on held-out users. The graph is checked too, and can be built again to see how
much the answers vary between builds. Every check has a metric, and advice on what to change.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfserving_ext.evaluation.builds import check_buildable, on_builds
from tfserving_ext.evaluation.cases import HeldOut
from tfserving_ext.evaluation.checks import (
    FAIL,
    PASS,
    WARN,
    Check,
    Limits,
    Options,
    check_builds,
    check_coverage,
    check_finite,
    check_flatness,
    check_model,
    check_recall_delta,
    check_scored,
    check_unreachable,
    check_unseeded,
    check_worst,
)
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.subject import Outcome, Setting, Subject, name_of_search
from tfserving_ext.index.format import Index
from tfserving_ext.retrieval.parameters import BestFirst, Rounds

WORST_USERS = 5
SEARCH, HELD_OUT, LIMITS = BestFirst(), HeldOut(max_cases=500), Limits()


def preflight(
    data: str | os.PathLike[str],
    model: str | os.PathLike[str],
    index: str | os.PathLike[str],
    search: BestFirst | Rounds = SEARCH,
    held_out: HeldOut = HELD_OUT,
    builds: int = 0,
    limits: Limits = LIMITS,
) -> dict[str, Any]:
    """Checks whether an index can be deployed with a model.

    Example:
      >>> nann.preflight("data", "model", "index")["verdict"] in ("PASS", "WARN", "FAIL")
      True

    Args:
      data: a folder that `nann convert` wrote.
      model: a folder that `nann train` wrote.
      index: a folder that `nann index` wrote from the same model; all of its files are read, and their checksums
        compared.
      search: the search that will be deployed.
      held_out: the cases.
      builds: the number of further graphs to build, with other seeds, in a temporary folder.
      limits: the limits of the checks.

    Returns:
      `verdict`, the worst status; `checks`, a list of `Check`s as dicts; `worst_users`, with their `coverage`, `cases`
      and `history_length`; `builds`, with `seed`, `coverage` and `scored_fraction`; and a description of the cases and
      the search.

    Raises:
      NannError: the artefacts do not belong together or are damaged, or parameters do not fit.
    """
    Index.open(index, checksums=True)
    subject = Subject(data, model, index, held_out)
    check_buildable(subject.index, builds)
    setting = Setting.deployed(search)
    unseeded = {"unseeded": Setting(search, False)} if setting.seeded else {}
    outcomes = subject.measure({"deployed": setting} | unseeded, title="preflight")
    bootstrap, found = Bootstrap(subject.cases.user_ids), outcomes["deployed"]
    graphs = [(subject.index.manifest.get("seed"), outcomes), *on_builds(subject, {"deployed": setting}, builds)]
    items = len(subject.index.item_ids)
    rebuilt = [{"seed": seed, **_coverage_of(each["deployed"], items)} for seed, each in graphs]
    checks = _checks(subject, setting, outcomes, bootstrap, limits)
    if builds:
        checks.append(check_builds(rebuilt, limits, Options.of(subject, setting)))
    statuses = [check.status for check in checks]
    return {
        "verdict": next(status for status in (FAIL, WARN, PASS) if status in statuses),
        "k": held_out.k,
        "cases": len(subject.cases),
        "users": bootstrap.users,
        "items": items,
        "split": held_out.split,
        "search": {"name": name_of_search(search), **dataclasses.asdict(search)},
        "checks": [dataclasses.asdict(check) for check in checks],
        "worst_users": _worst_users(subject, found, bootstrap),
        "builds": rebuilt,
    }


def _checks(
    subject: Subject, setting: Setting, outcomes: Mapping[str, Outcome], bootstrap: Bootstrap, limits: Limits
) -> list[Check]:
    """Returns all checks except that of the builds."""
    exact, found, options = subject.exact()[1], outcomes["deployed"], Options.of(subject, setting)
    checks = [
        check_finite(exact, options),
        check_coverage(found, bootstrap, limits, options),
        check_recall_delta(exact, found, limits, options),
        check_worst(found, bootstrap, limits, options),
    ]
    if "unseeded" in outcomes:
        checks.append(check_unseeded(outcomes["unseeded"], limits, options))
    return [
        *checks,
        check_scored(found, len(subject.index.item_ids), limits, options),
        check_unreachable(subject.index, limits),
        check_flatness(subject, limits, options),
        check_model(subject, exact, bootstrap),
    ]


def _coverage_of(found: Outcome, items: int) -> dict[str, float]:
    return {
        "coverage": float(found.coverage[:, -1].mean()),
        "scored_fraction": float(found.items_scored.mean()) / items,
    }


def _worst_users(subject: Subject, found: Outcome, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    users = np.unique(subject.cases.user_ids)
    covered = bootstrap.by_user(found.coverage[:, -1])
    worst = []
    for place in np.argsort(covered, kind="stable")[:WORST_USERS]:
        own = subject.cases.user_ids == users[place]
        worst.append(
            {
                "user_id": int(users[place]),
                "coverage": float(covered[place]),
                "cases": int(own.sum()),
                "history_length": int(subject.cases.positions[own].max()),
            }
        )
    return worst
