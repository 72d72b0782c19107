"""Finds search parameters for a required coverage or latency on validation users."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfserving_ext.artifacts import sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.cases import HeldOut, even_rows
from tfserving_ext.evaluation.coverage_rule import fit_rule
from tfserving_ext.evaluation.figures import hits
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.subject import Outcome, Setting, Subject, name_of_search
from tfserving_ext.index.coverage_rule import KEY
from tfserving_ext.index.tuning import FILE, FORMAT, FORMAT_VERSION
from tfserving_ext.ops import MAX_WIDTH
from tfserving_ext.retrieval.parameters import BestFirst, Rounds, Surrogate

HELD_OUT = HeldOut(max_cases=500, split="validation")
BATCHES = (64, 128)
EXPECTED = (0.6, 0.8, 0.9, 0.95, 0.98, 0.99)
FRONTIERS = (8, 16, 32, 64)
POOLS = (1.0, 1.25, 1.5, 2.0, 3.0)  # Multiples of k.
BEAMS = (0.25, 0.5, 1.0, 2.0)  # Multiples of the paper's beam widths.
GROUND_ROUNDS = (2, 3, 4, 6)
ROUGH_CASES = 100  # All settings are measured on this many cases first.
CLOSE = 1.25  # A setting that is slower by at most this factor on these cases may in truth be as fast.


def grid(k: int, layers: int, features: bool = True) -> list[BestFirst | Rounds]:
    """Returns the parameters to try for answers of length k in an index with so many layers, and features or not."""
    pools = sorted({min(round(k * factor), MAX_WIDTH) for factor in POOLS})
    result: list[BestFirst | Rounds] = [BestFirst(frontier, pool) for frontier in FRONTIERS for pool in pools]
    if features:
        pool = min(k, MAX_WIDTH)
        result += [
            Surrogate(pool=pool, batch=batch, expected_coverage=share) for batch in BATCHES for share in EXPECTED
        ]
    if len(Rounds.ef) != layers + 1:
        return result  # The paper's parameters are for another number of layers.
    above = Rounds.rounds[:-1]
    beams = []
    for factor in BEAMS:
        ef = [max(1, round(factor * width)) for width in Rounds.ef]
        # A beam in the ground layer that is narrower than k could not hold the answer.
        beams.append((*ef[:-1], max(ef[-1], k)))
    return result + [Rounds(ef, (*above, count)) for ef in beams for count in GROUND_ROUNDS]


def tune(
    data: str | os.PathLike[str],
    model: str | os.PathLike[str],
    index: str | os.PathLike[str],
    coverage: float | None = None,
    latency_ms: float | None = None,
    held_out: HeldOut = HELD_OUT,
    candidates: Sequence[BestFirst | Rounds] | None = None,
) -> dict[str, Any]:
    """Measures a grid of search parameters and writes the best trade-offs to `tuning.json` in the index's folder.

    For an index with features it also fits the rule by which the surrogate search is asked for a coverage.

    Example:
      >>> found = nann.tune("data", "model", "index", latency_ms=1000)
      >>> found["chosen"] in found["table"]
      True

    Args:
      data: a folder that `nann convert` wrote.
      model: a folder that `nann train` wrote.
      index: a folder that `nann index` wrote from the same model.
      coverage: choose the fastest setting with at least this coverage@k.
      latency_ms: choose the setting with the highest coverage whose 95th percentile of a user's time is at most this;
        with `coverage`, the fastest one within both.
      held_out: the cases. Metrics on "test" users can no longer be reported as those of unseen users if these are used
        here.
      candidates: the parameters to try; None for `grid`.

    Returns:
      The content of `tuning.json`: `table`, by falling coverage; `chosen`, one of its rows or None; `coverage_rule`,
      the fields of a `CoverageRule` or None; and a description of what was measured.

    Raises:
      NannError: the artefacts do not belong together, the split has no users, or no setting meets the requirements.
    """
    _check_wanted(coverage, latency_ms)
    subject = Subject(data, model, index, held_out)
    built = subject.index
    tried = list(candidates or grid(held_out.k, len(built.layers), built.has_features))
    rows = _measured(subject, tried, min(ROUGH_CASES, len(subject.cases)))
    if len(subject.cases) > ROUGH_CASES:
        # After a few cases, most settings, the most expensive ones above all, can be ruled out.
        left = [tried[place] for place in promising(rows)]
        rows = _measured(subject, left, len(subject.cases))
    table = [rows[place] for place in pareto(rows)]
    result = _facts(subject, held_out) | {
        "tried": len(tried),
        "processors": os.cpu_count(),
        "wanted": {"coverage": coverage, "latency_ms": latency_ms},
        "chosen": None,
        "table": table,
    }
    path = built.folder / FILE
    write_json(path, result)  # Written before `choose`, so that the table is kept even if no setting is good enough.
    if coverage is not None or latency_ms is not None:
        result["chosen"] = choose(table, coverage, latency_ms)
        write_json(path, result)
    return result


def _facts(subject: Subject, held_out: HeldOut) -> dict[str, Any]:
    rule = fit_rule(subject) if subject.index.has_features else None
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "index_manifest_sha256": sha256(subject.index.folder / "manifest.json"),
        "k": held_out.k,
        "split": held_out.split,
        "cases": len(subject.cases),
        "users": len(np.unique(subject.cases.user_ids)),
        "items": len(subject.index.item_ids),
        KEY: None if rule is None else dataclasses.asdict(rule),
    }


def pareto(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Returns the rows that no other dominates in coverage, items scored and time (the Pareto front).

    A row dominates another if it is at least as good in all three and better in one.

    Returns:
      Places in `rows`, by falling coverage; of equal rows only the first.
    """
    costs = np.array([[-row["coverage"], row["items_scored"], row["ms"]] for row in rows]).reshape(-1, 3)
    kept: list[int] = []
    # In this order, a row comes after all rows that dominate it.
    for place in np.lexsort(costs.T[::-1]):
        if not any((costs[other] <= costs[place]).all() for other in kept):
            kept.append(int(place))
    return kept


def promising(rows: Sequence[dict[str, Any]]) -> list[int]:
    """Returns the rows that no other clearly beats: with at least the coverage, at most the items, and far less time.

    Returns:
      Places in `rows`, ascending.
    """
    return [
        place
        for place, row in enumerate(rows)
        if not any(
            other["coverage"] >= row["coverage"]
            and other["items_scored"] <= row["items_scored"]
            and other["ms"] * CLOSE < row["ms"]
            for other in rows
        )
    ]


def choose(
    table: Sequence[dict[str, Any]], coverage: float | None = None, latency_ms: float | None = None
) -> dict[str, Any]:
    """Returns the row to deploy; see `tune`.

    Raises:
      NannError: no row meets the requirements; the message has the closest one.
    """
    _check_wanted(coverage, latency_ms)
    fast = [row for row in table if latency_ms is None or row["ms_p95"] <= latency_ms]
    if not fast:
        best = min(table, key=lambda row: row["ms_p95"])
        raise NannError(
            f"latency_ms is {latency_ms:g}; the fastest of {len(table)} settings takes {best['ms_p95']:.2f} ms at "
            f"coverage {best['coverage']:.4f} ({options(best)})"
        )
    if coverage is None:
        return max(fast, key=lambda row: (row["coverage"], -row["ms"]))
    good = [row for row in fast if row["coverage"] >= coverage]
    if not good:
        best = max(fast, key=lambda row: row["coverage"])
        raise NannError(
            f"coverage is {coverage:g}; the most that {len(fast)} settings reach is {best['coverage']:.4f} in "
            f"{best['ms_p95']:.2f} ms ({options(best)})"
        )
    return min(good, key=lambda row: row["ms"])


def options(row: dict[str, Any]) -> str:
    """Returns a row's parameters as options of `nann evaluate` and `nann export`."""
    parameters = row["parameters"]
    if row["search"] == "surrogate":
        own = f"--batch {parameters['batch']} --expected-coverage {parameters['expected_coverage']}"
        return f"--search surrogate --pool {parameters['pool']} {own}"
    if row["search"] == "best_first":
        return f"--search best_first --frontier {parameters['frontier']} --pool {parameters['pool']}"
    ef, rounds = (",".join(map(str, parameters[name])) for name in ("ef", "rounds"))
    return f"--ef {ef} --rounds {rounds}"


def _check_wanted(coverage: float | None, latency_ms: float | None) -> None:
    if coverage is not None and not 0 < coverage <= 1:
        raise NannError(f"coverage is {coverage:g}; it must be above 0 and at most 1")
    if latency_ms is not None and not latency_ms > 0:
        raise NannError(f"latency_ms is {latency_ms:g}; it must be above 0")


def _measured(subject: Subject, tried: Sequence[BestFirst | Rounds], cases: int) -> list[dict[str, Any]]:
    """Returns a row of the table for each of the parameters, measured on this many of the cases."""
    rows, items = even_rows(len(subject.cases), cases), len(subject.index.item_ids)
    settings = {str(number): Setting.deployed(parameters) for number, parameters in enumerate(tried)}
    bootstrap = Bootstrap(subject.cases.user_ids[rows])
    outcomes = subject.measure(settings, rows, title=f"tune, {len(tried)} settings")
    return [
        _row(outcome, parameters, subject.k, items, bootstrap)
        for outcome, parameters in zip(outcomes.values(), tried, strict=True)
    ]


def _row(outcome: Outcome, parameters: BestFirst | Rounds, k: int, items: int, bootstrap: Bootstrap) -> dict[str, Any]:
    """Returns one row of the table; its times are those of one user in the op, while all cores search."""
    covered, milliseconds = outcome.coverage[:, -1], outcome.search_us / 1000
    return {
        "search": name_of_search(parameters),
        "parameters": dataclasses.asdict(parameters),
        "coverage": float(covered.mean()),
        "coverage_interval": bootstrap.interval(covered),
        "recall_retrieval": float(hits(outcome.ranks, k).mean()),
        "items_scored": float(outcome.items_scored.mean()),
        "scored_fraction": float(outcome.items_scored.mean()) / items,
        "ms": float(milliseconds.mean()),
        "ms_p95": float(np.percentile(milliseconds, 95)),
    }
