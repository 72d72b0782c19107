"""The checks of `preflight`: each compares a metric with its limits, and advises what to change."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.evaluation.baselines import baseline_ranks
from tfserving_ext.evaluation.cases import even_rows
from tfserving_ext.evaluation.figures import hits
from tfserving_ext.evaluation.intervals import Bootstrap
from tfserving_ext.evaluation.subject import Outcome, Setting, Subject
from tfserving_ext.index.format import Index
from tfserving_ext.index.reach import unreachable_items
from tfserving_ext.retrieval.flatness import flatness
from tfserving_ext.retrieval.metrics import recall_delta
from tfserving_ext.retrieval.parameters import BestFirst

PASS, WARN, FAIL = "PASS", "WARN", "FAIL"
FLATNESS_STEP = 0.1
_FEW_USERS = 10  # An interval over fewer users says little, and over a single user nothing.
_FLATNESS_USERS, _FLATNESS_ITEMS = 32, 1000


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of the checks as (warn, fail): beyond the first a check warns, beyond the second it fails.

    Attributes:
      coverage: lower limits of mean coverage@k.
      unseeded: lower limits of coverage@k when the search is not seeded with the history; by default it cannot fail.
      worst: lower limits of the 5th percentile over users of coverage@k.
      recall_delta: upper limits of recall-delta@k.
      unreachable: upper limits of the share of items that no walk from the entry points reaches.
      flatness: upper limits of the change of a score by a step of `FLATNESS_STEP`; by default it cannot fail.
      builds: upper limits of the difference in mean coverage@k between graph builds.
      scored_fraction: upper limits of the share of the corpus that is scored; by default it cannot fail.
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
    """The result of one check.

    Attributes:
      name: the check's name.
      status: PASS, WARN or FAIL.
      value: the metric.
      text: the metric in words.
      advice: what to change; empty if nothing has to change.
    """

    name: str
    status: str
    value: float
    text: str
    advice: str = ""


def _check(name: str, value: float, text: str, limits: tuple[float, float], advice: str, least: bool = False) -> Check:
    """Compares a metric with its limits, which are upper ones, or lower ones if `least`."""
    warn, fail = limits

    def within(limit: float) -> bool:
        return value >= limit if least else value <= limit  # False for NaN.

    status = PASS if within(warn) else WARN if within(fail) else FAIL
    bound = f"; wanted: {'at least' if least else 'at most'} {warn:g}"
    return Check(name, status, value, text + bound, "" if status == PASS else advice)


@dataclasses.dataclass(frozen=True)
class Options:
    """The options in use, so that advice names the values to go beyond, and never advises what is done already.

    Attributes:
      setting: the search that will be deployed.
      k: length of the answers.
      training: the options that the model was trained with, by name.
      build: the manifest of the index.
    """

    setting: Setting
    k: int
    training: Mapping[str, Any]
    build: Mapping[str, Any]

    @classmethod
    def of(cls, subject: Subject, setting: Setting) -> "Options":
        """Returns the options of a subject."""
        return cls(setting, subject.k, subject.trained.manifest.get("training") or {}, subject.index.manifest)

    def wider(self) -> str:
        """Returns advice on searching more widely."""
        search = self.setting.parameters
        if isinstance(search, BestFirst):
            return (
                f"search wider (--pool above {search.pool}, --frontier above {search.frontier}; `nann tune` finds out)"
            )
        return (
            "search from the history (--search best_first), or wider (--ef above "
            f"{_listed(search.ef)}, --rounds above {_listed(search.rounds)}; `nann tune` finds out)"
        )

    def flatter(self) -> str:
        """Returns advice on training a score that changes less between near items."""
        return f"train with an --epsilon above {self._of_training('epsilon')}"

    def tamer(self) -> str:
        """Returns advice on training a model whose scores stay finite."""
        rate, clip = self._of_training("learning_rate"), self.training.get("clip_norm")
        clipping = f"a --clip-norm below {clip:g}" if clip else "--clip-norm"
        return f"train it again with a --learning-rate below {rate} or with {clipping}"

    def denser(self) -> str:
        """Returns advice on building a graph with more paths through it."""
        known = {"--m": self.build.get("M"), "--ef-construction": self.build.get("efConstruction")}
        if self.build.get("graph") == "knn":
            known = {"--neighbors": self.build["knn"]["K"]}
        return " or ".join(f"{name} above {value}" if value else f"a larger {name}" for name, value in known.items())

    def _of_training(self, name: str) -> str:
        value = self.training.get(name)
        return f"{value:g}" if isinstance(value, int | float) else "the present one"


def _listed(values: Any) -> str:
    return ",".join(str(value) for value in values)


def check_finite(exact: Outcome, options: Options) -> Check:
    """Checks that no score is NaN."""
    text = f"{exact.nan_scores:,} of the scores of all items are NaN"
    advice = f"the model gives NaN: {options.tamer()}"
    return Check(
        "scores", FAIL if exact.nan_scores else PASS, float(exact.nan_scores), text, advice if exact.nan_scores else ""
    )


def check_coverage(found: Outcome, bootstrap: Bootstrap, limits: Limits, options: Options) -> Check:
    """Checks the mean coverage."""
    covered = found.coverage[:, -1]
    low, high = bootstrap.interval(covered)
    return _check(
        "coverage",
        float(covered.mean()),
        f"the search finds {covered.mean():.4f} ({low:.4f} to {high:.4f}) of brute force's answer",
        limits.coverage,
        f"{options.wider()}; if that takes too long, {options.flatter()}",
        least=True,
    )


def check_recall_delta(exact: Outcome, found: Outcome, limits: Limits, options: Options) -> Check:
    """Checks how much recall the search loses."""
    k = options.k
    wanted, got = float(hits(exact.ranks, k).mean()), float(hits(found.ranks, k).mean())
    return _check(
        "recall-delta",
        recall_delta(wanted, got),
        f"recall-all {wanted:.4f}, recall-retrieval {got:.4f}: {100 * recall_delta(wanted, got):.2f} % lost",
        limits.recall_delta,
        f"{options.wider()}, or {options.flatter()}",
    )


def check_worst(found: Outcome, bootstrap: Bootstrap, limits: Limits, options: Options) -> Check:
    """Checks the coverage of the users with the worst coverage."""
    value = float(np.percentile(bootstrap.by_user(found.coverage[:, -1]), 5))
    return _check(
        "worst users",
        value,
        f"5 % of the users have a coverage of {value:.4f} or less",
        limits.worst,
        f"look at the users below; {options.wider()}",
        least=True,
    )


def check_unseeded(found: Outcome, limits: Limits, options: Options) -> Check:
    """Checks the coverage when the walk does not start at the history, as for users without one."""
    value = float(found.coverage[:, -1].mean())
    return _check(
        "without a history",
        value,
        f"started at the entry points instead of the history, the search finds {value:.4f}",
        limits.unseeded,
        "new users get worse answers; search for them with a pool larger than "
        f"{getattr(options.setting.parameters, 'pool', options.k)}, which the request can set",
        least=True,
    )


def check_scored(found: Outcome, items: int, limits: Limits, options: Options) -> Check:
    """Checks the share of the corpus that is scored."""
    value = float(found.items_scored.mean()) / items
    search = options.setting.parameters
    if not isinstance(search, BestFirst):
        narrower = f", with --search best_first, or with --ef below {_listed(search.ef)}"
    elif search.pool > options.k:
        narrower = f" or with a --pool below {search.pool}"
    else:  # The pool cannot be smaller than k.
        narrower = f" or for fewer answers than {options.k}"
    return _check(
        "items scored",
        value,
        f"{found.items_scored.mean():,.0f} of {items:,} ({100 * value:.1f} %)",
        limits.scored_fraction,
        f"brute force costs hardly more and is exact; a search pays off on a larger corpus{narrower}",
    )


def check_unreachable(index: Index, limits: Limits) -> Check:
    """Checks the share of items that no walk finds, whatever their score."""
    lost = unreachable_items(index)
    value = len(lost) / max(len(index.item_ids), 1)
    example = f", such as {index.item_ids[lost[0]]}" if len(lost) else ""
    return _check(
        "unreachable items",
        value,
        f"{len(lost):,} of {len(index.item_ids):,} items cannot be reached from the entry points{example}",
        limits.unreachable,
        "build the graph again with `nann index`, which links them from their nearest neighbours; this one was "
        "imported, or built by an earlier release",
    )


def check_flatness(subject: Subject, limits: Limits, options: Options) -> Check:
    """Checks how much the score changes around the embeddings that the graph was built from."""
    users, _ = subject.user(even_rows(len(subject.cases), _FLATNESS_USERS))
    items = subject.index.embeddings(even_rows(len(subject.index.item_ids), _FLATNESS_ITEMS))
    value = float(flatness(subject.trained.model.score, users, tf.constant(items), FLATNESS_STEP))
    return _check(
        "flatness",
        value,
        f"a step of {FLATNESS_STEP:g} rms in e_v moves a score by {value:.3f} of the spread over items",
        limits.flatness,
        f"the score changes between near neighbours: {options.flatter()}",
    )


def check_model(subject: Subject, exact: Outcome, bootstrap: Bootstrap) -> Check:
    """Checks that the model beats the better baseline, by the interval of the difference; see `judge_gain`."""
    ranks = baseline_ranks(subject.sequences, subject.cases, subject.cases.histories.shape[1])
    name, best = max(ranks.items(), key=lambda each: (each[1] < subject.k).mean())
    gain, interval = bootstrap.difference(hits(exact.ranks, subject.k), best < subject.k)
    return judge_gain(gain, interval, bootstrap.users, name.replace("_", " "))


def judge_gain(gain: float, interval: tuple[float, float], users: int, baseline: str) -> Check:
    """Checks a gain in recall over a baseline: passes if its interval is above 0, fails if it is below, else warns.

    Args:
      gain: the model's recall minus the baseline's.
      interval: the 95 % interval of the gain.
      users: the number of users that it is computed from.
      baseline: the baseline's name in words.
    """
    low, high = interval
    text = f"recall-all is {gain:+.4f} ({low:+.4f} to {high:+.4f}) against the baseline {baseline}"
    if users < _FEW_USERS:
        return Check("model", WARN, gain, f"{text}; {users} users are too few to tell", "use more users")
    if low > 0:
        return Check("model", PASS, gain, text)
    if high < 0:
        advice = (
            f"this model is significantly worse than {baseline}, which needs no model: do not serve it; train another"
        )
        return Check("model", FAIL, gain, text, advice)
    advice = (
        f"this model is not significantly better than {baseline}, which needs no model: train longer, or another model"
    )
    return Check("model", WARN, gain, text, advice)


def check_builds(builds: list[dict[str, Any]], limits: Limits, options: Options) -> Check:
    """Checks how much coverage varies between builds of the graph; `builds` as `preflight` returns them."""
    covered = [build["coverage"] for build in builds]
    value = max(covered) - min(covered)
    return _check(
        "graph builds",
        value,
        f"coverage of {len(builds)} builds is {min(covered):.4f} to {max(covered):.4f}",
        limits.builds,
        f"answers vary between builds of the graph: {options.wider()}, or build with {options.denser()}",
    )
