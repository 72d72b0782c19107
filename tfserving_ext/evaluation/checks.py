"""The checks of `preflight`: each a figure, the limits that it is held against, and what to change."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.evaluation.baselines import baseline_ranks
from tfserving_ext.evaluation.cases import even_rows
from tfserving_ext.evaluation.figures import hits
from tfserving_ext.evaluation.graph import unreachable_items
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.subject import Outcome, Subject
from tfserving_ext.index.format import Index
from tfserving_ext.retrieval.flatness import flatness
from tfserving_ext.retrieval.metrics import recall_delta

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
FLATNESS_STEP = 0.1
_FEW_USERS = 10  # An interval of so few says little, and of one nothing.
_FLATNESS_USERS, _FLATNESS_ITEMS = 32, 1000


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is good and what is bad, (warn, fail): beyond the first a check warns, beyond the second it fails.

    Attributes:
      coverage: least mean coverage@k.
      unseeded: least coverage@k of users whose history the index does not know; nothing fails by it.
      worst: least 5th percentile over users of coverage@k.
      recall_delta: most recall-delta@k.
      unreachable: largest part of the items that no walk from the entry points meets.
      flatness: most that a step of `FLATNESS_STEP` may move a score; nothing fails by it.
      builds: largest difference of mean coverage@k between graph builds.
      scored_fraction: largest part of the corpus that is scored; nothing fails by it.
    """

    coverage: tuple[float, float] = (0.98, 0.90)
    unseeded: tuple[float, float] = (0.90, 0.0)
    worst: tuple[float, float] = (0.90, 0.50)
    recall_delta: tuple[float, float] = (0.02, 0.10)
    unreachable: tuple[float, float] = (0.001, 0.05)
    flatness: tuple[float, float] = (0.5, float("inf"))
    builds: tuple[float, float] = (0.01, 0.05)
    scored_fraction: tuple[float, float] = (0.5, float("inf"))


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the verdict.

    Attributes:
      name: of what was looked at.
      status: PASS, WARN or FAIL.
      value: its figure.
      text: the figure in words.
      advice: what to change; empty where nothing has to.
    """

    name: str
    status: str
    value: float
    text: str
    advice: str = ""


def _judged(name: str, value: float, text: str, limits: tuple[float, float], advice: str, least: bool = False) -> Check:
    """A check of a figure that should be small, or at `least` so large."""
    warn, fail = limits

    def within(limit: float) -> bool:
        return value >= limit if least else value <= limit  # What is not a number is not.

    status = PASS if within(warn) else WARN if within(fail) else FAIL
    bound = f"; wanted: {'at least' if least else 'at most'} {warn:g}"
    return Check(name, status, value, text + bound, "" if status == PASS else advice)


def check_finite(exact: Outcome) -> Check:
    """Whether every score is a number."""
    text = f"{exact.nan_scores:,} scores of all items are not numbers"
    advice = "the model gives NaN: train it again with a lower --learning-rate or with --clip-norm"
    return Check(
        "scores", FAIL if exact.nan_scores else PASS, float(exact.nan_scores), text, advice if exact.nan_scores else ""
    )


def check_coverage(found: Outcome, bootstrap: Bootstrap, limits: Limits) -> Check:
    """Mean coverage."""
    covered = found.coverage[:, -1]
    low, high = bootstrap.interval(covered)
    return _judged(
        "coverage",
        float(covered.mean()),
        f"the search finds {covered.mean():.4f} ({low:.4f} to {high:.4f}) of brute force's answer",
        limits.coverage,
        "search from the history (best-first) or wider: `nann tune --coverage 0.99` finds out how; if that takes too "
        "long, train with a larger --epsilon",
        least=True,
    )


def check_recall_delta(exact: Outcome, found: Outcome, k: int, limits: Limits) -> Check:
    """What the search loses of recall."""
    wanted, got = float(hits(exact.ranks, k).mean()), float(hits(found.ranks, k).mean())
    return _judged(
        "recall-delta",
        recall_delta(wanted, got),
        f"recall-all {wanted:.4f}, recall-retrieval {got:.4f}: {100 * recall_delta(wanted, got):.2f} % lost",
        limits.recall_delta,
        "search wider (`nann tune`), or train with a larger --epsilon",
    )


def check_worst(found: Outcome, bootstrap: Bootstrap, limits: Limits) -> Check:
    """Coverage of the users that the search serves worst."""
    value = float(np.percentile(bootstrap.by_user(found.coverage[:, -1]), 5))
    return _judged(
        "worst users",
        value,
        f"5 % of the users have a coverage of {value:.4f} or less",
        limits.worst,
        "look at the users below; where their histories are short, a larger --pool helps them most",
        least=True,
    )


def check_unseeded(found: Outcome, limits: Limits) -> Check:
    """Coverage where the walk does not start at the history, as for users who have none."""
    value = float(found.coverage[:, -1].mean())
    return _judged(
        "without a history",
        value,
        f"entered by the entry points instead of the history, the search finds {value:.4f}",
        limits.unseeded,
        "new users get worse answers; ask for them with a larger pool, which the request can set",
        least=True,
    )


def check_scored(found: Outcome, items: int, limits: Limits) -> Check:
    """What part of the corpus is scored."""
    value = float(found.items_scored.mean()) / items
    return _judged(
        "items scored",
        value,
        f"{found.items_scored.mean():,.0f} of {items:,} ({100 * value:.1f} %)",
        limits.scored_fraction,
        "brute force is hardly dearer and exact; a search pays on a larger corpus or with a smaller --pool",
    )


def check_unreachable(index: Index, limits: Limits) -> Check:
    """Items that no walk finds, whatever their score."""
    lost = unreachable_items(index)
    value = len(lost) / max(len(index.item_ids), 1)
    example = f", such as {index.item_ids[lost[0]]}" if len(lost) else ""
    return _judged(
        "unreachable items",
        value,
        f"{len(lost):,} of {len(index.item_ids):,} items are met by no walk from the entry points{example}",
        limits.unreachable,
        "build with a larger --m or --ef-construction; many items with equal embeddings have the same effect",
    )


def check_flatness(subject: Subject, limits: Limits) -> Check:
    """How much the score moves around the embeddings that the graph was built from."""
    users, _ = subject.user(even_rows(len(subject.cases), _FLATNESS_USERS))
    items = subject.index.embeddings(even_rows(len(subject.index.item_ids), _FLATNESS_ITEMS))
    value = float(flatness(subject.trained.model.score, users, tf.constant(items), FLATNESS_STEP))
    return _judged(
        "flatness",
        value,
        f"a step of {FLATNESS_STEP:g} rms in e_v moves a score by {value:.3f} of the spread over items",
        limits.flatness,
        "the score changes between near neighbours: train with a larger --epsilon",
    )


def check_model(subject: Subject, exact: Outcome, bootstrap: Bootstrap) -> Check:
    """Whether the model beats the better baseline; that it does not is no fault of the index, and only warns."""
    ranks = baseline_ranks(subject.sequences, subject.cases, subject.cases.histories.shape[1])
    name, best = max(ranks.items(), key=lambda each: (each[1] < subject.k).mean())
    gain, (low, high) = bootstrap.difference(hits(exact.ranks, subject.k), best < subject.k)
    few = bootstrap.users < _FEW_USERS
    status = PASS if low > 0 and not few else WARN
    advice = "this model is not surely better than no model: train longer, or another model"
    return Check(
        "model",
        status,
        gain,
        f"recall-all is {gain:+.4f} ({low:+.4f} to {high:+.4f}) against the baseline {name.replace('_', ' ')}"
        + (f"; {bootstrap.users} users are too few to tell" if few else ""),
        "" if status == PASS else "judge more users" if few else advice,
    )


def check_builds(builds: list[dict[str, Any]], limits: Limits) -> Check:
    """How much coverage depends on the build: `builds` are those of `preflight`."""
    covered = [build["coverage"] for build in builds]
    value = max(covered) - min(covered)
    return _judged(
        "graph builds",
        value,
        f"coverage of {len(builds)} builds is {min(covered):.4f} to {max(covered):.4f}",
        limits.builds,
        "answers depend on how a build turns out: seed the search with the history, or search and build wider",
    )
