"""Sweeps of the searches' parameters: recall and coverage over the scored fraction and over rounds.

The first is the paper's Figure 3, the second its Figure 7. All settings answer the same cases, and brute force answers
them once.
"""

import dataclasses
from typing import Any

import numpy as np

from tfserving_ext.evaluation.cases import even_rows
from tfserving_ext.evaluation.figures import Judge, hits
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.subject import Outcome, Setting, Subject
from tfserving_ext.retrieval.neural_top_k import BestFirst, Rounds

CASES = 500
POOLS = (1.0, 1.5, 2.0, 4.0)  # Times the pool, or k where that is more.
STEPS = (1, 2, 3, 4, 6, 8, 12)
BEAMS = (0.25, 0.5, 1.0, 2.0)  # Times ef.
MOST_ROUNDS = 6


def sweep(
    subject: Subject, best_first: BestFirst, rounds: Rounds, cases: int = CASES, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The points of both figures.

    Args:
      subject: model, index and cases.
      best_first: the best-first search that is varied.
      rounds: the paper's search that is varied.
      cases: how many cases every setting answers, drawn evenly.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      `cases`, `recall_all`, and `by_scored_fraction` and `by_round`, each a list of points per search, by name. A
      point has `parameters`, `rounds` (the most rounds of the ground layer, or steps of the best-first search),
      `recall_retrieval`, `coverage`, their `intervals`, `scored_fraction` and `ms_per_case`.

    Raises:
      NannError: fewer than one case, or parameters that do not fit the index.
    """
    rows = even_rows(len(subject.cases), cases)
    exact = subject.exact()[1].ranks[rows]
    bootstrap = Bootstrap(subject.cases.user_ids[rows], resamples, seed)
    judge = Judge(bootstrap, subject.cutoffs, exact, len(subject.index.item_ids))
    settings = _settings(best_first, rounds, subject.k, len(subject.index.layers) + 1)
    # Many settings are in both figures.
    distinct = {str(setting): setting for setting in (*settings["by_scored_fraction"], *settings["by_round"])}
    outcomes = subject.measure(distinct, rows, title="curves")
    figures: dict[str, Any] = {"cases": len(rows), "recall_all": float(hits(exact, subject.k).mean())}
    for figure, chosen in settings.items():
        lines: dict[str, list[dict[str, Any]]] = {}
        for setting in chosen:
            lines.setdefault(name_of(setting), []).append(_point(judge, outcomes[str(setting)], setting))
        figures[figure] = lines
    for line in figures["by_scored_fraction"].values():
        line.sort(key=lambda point: point["scored_fraction"])
    return figures


def name_of(setting: Setting) -> str:
    """The search that a setting is of, as figures have it."""
    if isinstance(setting.parameters, Rounds):
        return "rounds_seeded" if setting.seeded else "rounds"
    return "best_first" if setting.seeded else "best_first_unseeded"


def _settings(best_first: BestFirst, rounds: Rounds, k: int, layers: int) -> dict[str, list[Setting]]:
    """What is measured for each figure, each search's settings from cheap to dear."""
    pool = max(best_first.pool, k)
    by_fraction, by_round = [], []
    for seeded in (True, False):
        steps = [Setting(dataclasses.replace(best_first, max_steps=step), seeded) for step in STEPS]
        by_round += steps
        # From the entry points the first steps only find the way, and cost what the whole walk does.
        by_fraction += steps[1:4] if seeded else []
        by_fraction += [Setting(dataclasses.replace(best_first, pool=int(pool * times)), seeded) for times in POOLS]
    if layers != len(rounds.ef):
        return {"by_scored_fraction": by_fraction, "by_round": by_round}  # Of another depth; an imported graph may be.
    *above, ground = rounds.rounds
    numbers = sorted({*range(1, MOST_ROUNDS + 1), ground})
    by_round += [Setting(dataclasses.replace(rounds, rounds=(*above, number)), False) for number in numbers]
    for times in BEAMS:
        *beams, last = (max(1, round(width * times)) for width in rounds.ef)
        ef = (*beams, max(last, k))  # Narrower at the ground, it could not hold the answer.
        by_fraction.append(Setting(dataclasses.replace(rounds, ef=ef), False))
    return {"by_scored_fraction": by_fraction, "by_round": by_round}


def _point(judge: Judge, outcome: Outcome, setting: Setting) -> dict[str, Any]:
    found, covered = hits(outcome.ranks, judge.k), outcome.coverage[:, -1]
    walked = setting.parameters
    return {
        "parameters": dataclasses.asdict(walked),
        "rounds": walked.rounds[-1] if isinstance(walked, Rounds) else walked.max_steps,
        "recall_retrieval": float(found.mean()),
        "coverage": float(covered.mean()),
        "scored_fraction": float(np.mean(outcome.items_scored)) / judge.items,
        "ms_per_case": 1000 * outcome.seconds / len(outcome.ranks),
        "intervals": {
            "recall_retrieval": judge.bootstrap.interval(found),
            "coverage": judge.bootstrap.interval(covered),
        },
    }
