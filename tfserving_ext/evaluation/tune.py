"""Finds search parameters for a wanted coverage or latency on validation users."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfserving_ext.artifacts import read_json, sha256, write_json
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation.cases import HeldOut, even_rows
from tfserving_ext.evaluation.figures import hits
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.subject import Outcome, Setting, Subject
from tfserving_ext.ops import MAX_WIDTH
from tfserving_ext.retrieval.neural_top_k import BestFirst, Rounds

FORMAT, FORMAT_VERSION = "nann-tuning", 1
HELD_OUT = HeldOut(max_cases=500, split="validation")
FILE = "tuning.json"
FRONTIERS = (8, 16, 32, 64)
POOLS = (1.0, 1.25, 1.5, 2.0, 3.0)  # Times k.
BEAMS = (0.25, 0.5, 1.0, 2.0)  # Times the paper's.
GROUND_ROUNDS = (2, 3, 4, 6)
ROUGH_CASES = 100  # On which all settings are tried.
CLOSE = 1.25  # How much slower a setting may seem on these, and yet be as fast.


def grid(k: int, layers: int) -> list[BestFirst | Rounds]:
    """The parameters that are tried, for answers of length k in an index of so many layers."""
    pools = sorted({min(round(k * factor), MAX_WIDTH) for factor in POOLS})
    result: list[BestFirst | Rounds] = [BestFirst(frontier, pool) for frontier in FRONTIERS for pool in pools]
    if len(Rounds.ef) != layers + 1:
        return result  # The paper's beams say nothing of such an index.
    above = Rounds.rounds[:-1]
    beams = []
    for factor in BEAMS:
        ef = [max(1, round(factor * width)) for width in Rounds.ef]
        # Narrower at the ground than k could not hold the answer.
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
    """Measures a grid of search parameters and writes those that no other beats to `tuning.json` in the index's folder.

    Example:
      >>> found = nann.tune("data", "model", "index", latency_ms=1000)
      >>> found["chosen"] in found["table"]
      True

    Args:
      data: a folder that `nann convert` wrote.
      model: a folder that `nann train` wrote.
      index: a folder that `nann index` wrote from the same model.
      coverage: choose the fastest with a coverage@k of this much or more.
      latency_ms: choose the one of most coverage whose 95th percentile of a user's time is this much or less; with
        `coverage`, the fastest within both.
      held_out: the cases; those of "test" users where the figures are not to be reported as those of unseen users.
      candidates: what to try; None for `grid`.

    Returns:
      What `tuning.json` holds: `table`, by falling coverage, `chosen`, a row of it or None, and what was measured.

    Raises:
      NannError: artefacts that do not belong together, a split without users, or nothing that does what is wanted.
    """
    _check_wanted(coverage, latency_ms)
    subject = Subject(data, model, index, held_out)
    tried = list(candidates) if candidates is not None else grid(held_out.k, len(subject.index.layers))
    rows = _measured(subject, tried, min(ROUGH_CASES, len(subject.cases)))
    if len(subject.cases) > ROUGH_CASES:
        # Most settings, the dearest above all, are out of the question after a few cases.
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
    path = subject.index.folder / FILE
    write_json(path, result)  # The table stands even where nothing in it is what was wanted.
    if coverage is not None or latency_ms is not None:
        result["chosen"] = choose(table, coverage, latency_ms)
        write_json(path, result)
    return result


def _facts(subject: Subject, held_out: HeldOut) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "index_manifest_sha256": sha256(subject.index.folder / "manifest.json"),
        "k": held_out.k,
        "split": held_out.split,
        "cases": len(subject.cases),
        "users": len(np.unique(subject.cases.user_ids)),
        "items": len(subject.index.item_ids),
    }


def read_tuning(index: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `tune` wrote.

    Raises:
      NannError: there is none, it is of another format, or the index was built anew since.
    """
    path = Path(index) / FILE
    if not path.exists():
        raise NannError(f"{index} has no {FILE}; make one with `nann tune`")
    tuning = read_json(path)
    found = (tuning.get("format"), tuning.get("format_version")) if isinstance(tuning, dict) else (None, None)
    if found != (FORMAT, FORMAT_VERSION):
        raise NannError(f"{path} has format {found}, this release reads {(FORMAT, FORMAT_VERSION)}")
    if tuning.get("index_manifest_sha256") != sha256(Path(index) / "manifest.json"):
        raise NannError(f"{path} is of another build of the index; run `nann tune` again")
    return tuning


def pareto(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The rows that no other beats, in coverage, items scored and time: as good in all three, and better in one.

    Returns:
      Places in `rows`, by falling coverage; of equal rows the first.
    """
    costs = np.array([[-row["coverage"], row["items_scored"], row["ms"]] for row in rows]).reshape(-1, 3)
    kept: list[int] = []
    # In this order, what beats a row comes before it.
    for place in np.lexsort(costs.T[::-1]):
        if not any((costs[other] <= costs[place]).all() for other in kept):
            kept.append(int(place))
    return kept


def promising(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The rows that none surely beats: covers as much, scores as few items, and takes far less time.

    Returns:
      Places in `rows`, in their order.
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
    """The row to deploy: see `tune`.

    Raises:
      NannError: no row does what is wanted; the message tells the nearest one.
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
    """A row's parameters as `nann evaluate` and `nann export` take them."""
    parameters = row["parameters"]
    if row["search"] == "best_first":
        return f"--frontier {parameters['frontier']} --pool {parameters['pool']}"
    ef, rounds = (",".join(map(str, parameters[name])) for name in ("ef", "rounds"))
    return f"--ef {ef} --rounds {rounds}"


def _check_wanted(coverage: float | None, latency_ms: float | None) -> None:
    if coverage is not None and not 0 < coverage <= 1:
        raise NannError(f"coverage is {coverage:g}; it must be above 0 and at most 1")
    if latency_ms is not None and not latency_ms > 0:
        raise NannError(f"latency_ms is {latency_ms:g}; it must be above 0")


def _measured(subject: Subject, tried: Sequence[BestFirst | Rounds], cases: int) -> list[dict[str, Any]]:
    """A row of the table for each of the parameters, on so many of the cases."""
    rows, items = even_rows(len(subject.cases), cases), len(subject.index.item_ids)
    settings = {str(number): Setting.deployed(parameters) for number, parameters in enumerate(tried)}
    bootstrap = Bootstrap(subject.cases.user_ids[rows])
    outcomes = subject.measure(settings, rows, title=f"tune, {len(tried)} settings")
    return [
        _row(outcome, parameters, subject.k, items, bootstrap)
        for outcome, parameters in zip(outcomes.values(), tried, strict=True)
    ]


def _row(outcome: Outcome, parameters: BestFirst | Rounds, k: int, items: int, bootstrap: Bootstrap) -> dict[str, Any]:
    """One line of the table; times are a user's in the op, while all cores search."""
    covered, milliseconds = outcome.coverage[:, -1], outcome.search_us / 1000
    return {
        "search": "best_first" if isinstance(parameters, BestFirst) else "rounds",
        "parameters": dataclasses.asdict(parameters),
        "coverage": float(covered.mean()),
        "coverage_interval": bootstrap.interval(covered),
        "recall_retrieval": float(hits(outcome.ranks, k).mean()),
        "items_scored": float(outcome.items_scored.mean()),
        "scored_fraction": float(outcome.items_scored.mean()) / items,
        "ms": float(milliseconds.mean()),
        "ms_p95": float(np.percentile(milliseconds, 95)),
    }
