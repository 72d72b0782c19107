"""Sweeps the searches' parameters: recall and coverage over the scored fraction and over rounds.

The first is the paper's Figure 3, the second its Figure 7. All settings are measured on the same cases, which brute
force answers once.
"""

import dataclasses
from typing import Any

import numpy as np

from tfserving_ext.evaluation.cases import even_rows
from tfserving_ext.evaluation.figures import MetricsContext, hits
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.subject import Outcome, Setting, Subject, name_of_search
from tfserving_ext.retrieval.parameters import BestFirst, Rounds, Surrogate

CASES = 500
POOLS = (1.0, 1.5, 2.0, 4.0)  # Multiples of the pool, or of k if that is larger.
STEPS = (1, 2, 3, 4, 6, 8, 12)
BEAMS = (0.25, 0.5, 1.0, 2.0)  # Multiples of ef.
MOST_ROUNDS = 6
EXPECTED = (0.3, 0.6, 0.8, 0.9, 0.95, 0.99)  # Of the surrogate search.


def sweep(
    subject: Subject, best_first: BestFirst, rounds: Rounds, cases: int = CASES, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Measures the points of both plots.

    Args:
      subject: model, index and cases.
      best_first: the parameters of the best-first search that are varied.
      rounds: the parameters of the paper's search that are varied.
      cases: the number of cases to measure every setting on, evenly spaced.
      resamples: number of resamples of the bootstrap.
      seed: seed of the bootstrap.

    Returns:
      `cases`, `recall_all`, and `by_scored_fraction` and `by_round`, each a list of points per search, by name. A
      point has `parameters`, `rounds` (the most rounds of the ground layer, or steps of the best-first search),
      `recall_retrieval`, `coverage`, their `intervals`, `scored_fraction` and `ms_per_case`.

    Raises:
      NannError: `cases` is below 1, or parameters do not fit the index.
    """
    rows = even_rows(len(subject.cases), cases)
    exact = subject.exact()[1].ranks[rows]
    bootstrap = Bootstrap(subject.cases.user_ids[rows], resamples, seed)
    context = MetricsContext(bootstrap, subject.cutoffs, exact, len(subject.index.item_ids))
    settings = _settings(best_first, rounds, subject.k, len(subject.index.layers) + 1)
    if subject.index.has_features:
        surrogate = Surrogate(best_first.frontier, best_first.pool, best_first.max_steps)
        settings["by_scored_fraction"] += [
            Setting(dataclasses.replace(surrogate, expected_coverage=share), True) for share in EXPECTED
        ]
    # Many settings are in both plots.
    distinct = {str(setting): setting for setting in (*settings["by_scored_fraction"], *settings["by_round"])}
    outcomes = subject.measure(distinct, rows, title="curves")
    figures: dict[str, Any] = {"cases": len(rows), "recall_all": float(hits(exact, subject.k).mean())}
    for figure, chosen in settings.items():
        lines: dict[str, list[dict[str, Any]]] = {}
        for setting in chosen:
            lines.setdefault(name_of(setting), []).append(_point(context, outcomes[str(setting)], setting))
        figures[figure] = lines
    for line in figures["by_scored_fraction"].values():
        line.sort(key=lambda point: point["scored_fraction"])
    return figures


def name_of(setting: Setting) -> str:
    """Returns the name of a setting's search in the evaluation's JSON."""
    name = name_of_search(setting.parameters)
    if name == "rounds":
        return "rounds_seeded" if setting.seeded else "rounds"
    return name if setting.seeded else f"{name}_unseeded"


def _settings(best_first: BestFirst, rounds: Rounds, k: int, layers: int) -> dict[str, list[Setting]]:
    """Returns the settings to measure for each plot, those of a search ordered by rising cost."""
    pool = max(best_first.pool, k)
    by_fraction, by_round = [], []
    for seeded in (True, False):
        steps = [Setting(dataclasses.replace(best_first, max_steps=step), seeded) for step in STEPS]
        by_round += steps
        # From the entry points, the first steps only find the way, and cost about as much as the whole walk.
        by_fraction += steps[1:4] if seeded else []
        by_fraction += [Setting(dataclasses.replace(best_first, pool=int(pool * times)), seeded) for times in POOLS]
    if layers != len(rounds.ef):
        # The parameters are for another number of layers, which an imported graph may have.
        return {"by_scored_fraction": by_fraction, "by_round": by_round}
    *above, ground = rounds.rounds
    numbers = sorted({*range(1, MOST_ROUNDS + 1), ground})
    by_round += [Setting(dataclasses.replace(rounds, rounds=(*above, number)), False) for number in numbers]
    for times in BEAMS:
        *beams, last = (max(1, round(width * times)) for width in rounds.ef)
        ef = (*beams, max(last, k))  # A narrower beam in the ground layer could not hold k items.
        by_fraction.append(Setting(dataclasses.replace(rounds, ef=ef), False))
    return {"by_scored_fraction": by_fraction, "by_round": by_round}


def _point(context: MetricsContext, outcome: Outcome, setting: Setting) -> dict[str, Any]:
    found, covered = hits(outcome.ranks, context.k), outcome.coverage[:, -1]
    walked = setting.parameters
    return {
        "parameters": dataclasses.asdict(walked),
        "rounds": walked.rounds[-1] if isinstance(walked, Rounds) else walked.max_steps,
        "recall_retrieval": float(found.mean()),
        "coverage": float(covered.mean()),
        "scored_fraction": float(np.mean(outcome.items_scored)) / context.items,
        "ms_per_case": 1000 * outcome.seconds / len(outcome.ranks),
        "intervals": {
            "recall_retrieval": context.bootstrap.interval(found),
            "coverage": context.bootstrap.interval(covered),
        },
    }
