"""Runs peers on one workload: measures coverage and time of each setting, and finds the fastest that covers enough."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.peers.peer import Peer, Workload
from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import user_tensors
from tfserving_ext.index.format import Index
from tfserving_ext.models.checkpoint import load_model
from tfserving_ext.progress import progress
from tfserving_ext.retrieval.brute_force import BruteForce
from tfserving_ext.retrieval.metrics import coverage, recall

BATCH = 16  # Cases per call of a peer.
LEAST_COVERAGE = 0.98  # The coverage that a setting must reach for comparisons "at equal coverage".
CLOSE = 1.25  # A setting may seem so many times as slow in one pass, and yet be the fastest.


@dataclasses.dataclass
class Measured:
    """The result of one setting of one peer.

    Attributes:
      setting: the setting, in the form that the peer takes.
      cases: how many cases it answered.
      coverage: mean coverage@k against brute force.
      recall: mean recall@k; for a search, this is recall-retrieval.
      ms_per_query: milliseconds per query in a single pass.
    """

    setting: Any
    cases: int
    coverage: float
    recall: float
    ms_per_query: float


def make_workload(folder: Path, index: Index, cases: int, positions: int, k: int, threads: int) -> Workload:
    """Makes a workload from the held-out cases of a demo's folder, with brute force's answers.

    Args:
      folder: a folder with `data` and `model`.
      index: an index of the model's embeddings.
      cases: how many cases to draw, evenly.
      positions: cases per held-out user to draw from.
      k: length of an answer.
      threads: threads that a peer may use.

    Raises:
      NannError: the folder lacks an artefact.
    """
    workload = without_answers(folder, index, cases, positions, threads)
    exact = exact_answers(index, workload.trained.model.score, workload.user, k)
    return dataclasses.replace(workload, exact=exact, k=k)


def without_answers(folder: Path, index: Index, cases: int, positions: int, threads: int) -> Workload:
    """Makes a workload whose `exact` is empty and whose k is 0; see `make_workload`."""
    for name in ("data", "model"):
        if not (folder / name).exists():
            raise NannError(f"{folder / name} does not exist; make it with `nann demo --folder {folder}`")
    sequences, trained = Sequences.open(folder / "data"), load_model(folder / "model")
    drawn = sequences.cases("test", positions, trained.model.config.history_length)
    rows = np.unique(np.linspace(0, len(drawn) - 1, cases).astype(np.int64))
    drawn = Cases(*(getattr(drawn, name)[rows] for name in ("user_ids", "histories", "targets", "positions")))
    user = user_tensors(trained, sequences, drawn)
    histories, targets = sequences.ids_of(drawn.histories), sequences.ids_of(drawn.targets)
    scratch = folder / "bench"
    scratch.mkdir(exist_ok=True)
    none = np.empty([len(drawn), 0], np.int64)
    return Workload(trained, sequences, index, user, histories, targets, none, 0, threads, scratch)


def exact_answers(index: Index, score: Any, user: tuple, k: int) -> np.ndarray:
    """Returns brute force's answers, item ids int64 [N, k]."""
    brute_force, parts = BruteForce(index, score), []
    count = len(user[0])
    with progress("brute force, for the coverage", count) as advance:
        for first in range(0, count, BATCH):
            part = tuple(tensor[first : first + BATCH] for tensor in user)
            parts.append(brute_force.search(part, k).item_ids.numpy())
            advance(len(parts[-1]))
    return np.concatenate(parts)


def answer(peer: Peer, setting: Any, cases: int) -> tuple[np.ndarray, float]:
    """Returns a peer's answers to the first `cases` cases, int64 [cases, k], and the seconds that they took."""
    begin = time.perf_counter()
    answers = [peer(first, min(first + BATCH, cases), setting) for first in range(0, cases, BATCH)]
    return np.concatenate(answers), time.perf_counter() - begin


def measure(peer: Peer, workload: Workload, setting: Any, cases: int) -> Measured:
    """Measures what a peer finds with a setting, and about how long it takes."""
    cases = min(cases, len(workload.targets))
    found, seconds = answer(peer, setting, cases)
    covered = coverage(found, workload.exact[:cases]).mean()
    recalled = recall(found, workload.targets[:cases]).mean()
    return Measured(setting, cases, float(covered), float(recalled), 1000 * seconds / cases)


def race(
    runners: Mapping[str, tuple[Peer, Sequence[Measured]]], cases: Mapping[str, int], repeats: int
) -> dict[str, tuple[Measured, float]]:
    """Returns, for each runner, its fastest setting and that setting's milliseconds per query.

    All settings take turns, `repeats` times, and the fastest time of each counts. A shared machine is slow for seconds
    at a time; with turns and the fastest time, this does not put a single runner at a disadvantage.

    Args:
      runners: the peers by name, each with its measured settings.
      cases: how many cases each of them answers in a turn.
      repeats: number of turns.
    """
    best = {(name, place): float("inf") for name, (_, settings) in runners.items() for place in range(len(settings))}
    for _ in range(repeats):
        for name, place in best:
            peer, measured = runners[name][0], runners[name][1][place]
            count = min(cases[name], measured.cases)
            best[name, place] = min(best[name, place], 1000 * answer(peer, measured.setting, count)[1] / count)
    fastest: dict[str, tuple[Measured, float]] = {}
    for (name, place), ms in best.items():
        if name not in fastest or ms < fastest[name][1]:
            fastest[name] = runners[name][1][place], ms
    return fastest


def contenders(measured: Sequence[Measured], least_coverage: float = LEAST_COVERAGE) -> list[Measured]:
    """Returns the settings of a peer to race: those that cover enough and take at most `CLOSE` times the least time.

    One pass of each is too noisy to tell which is the fastest. If none covers enough, as may happen with the rerank,
    the one that covers the most is returned.
    """
    enough = [one for one in measured if one.coverage >= least_coverage]
    if not enough:
        return [max(measured, key=lambda one: one.coverage)]
    fastest = min(one.ms_per_query for one in enough)
    return [one for one in enough if one.ms_per_query <= CLOSE * fastest]
