"""Runs peers on one workload: the coverage and the time of each setting, and the fastest that covers enough."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.peers.contract import Peer, Workload
from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import user_tensors
from tfserving_ext.index.format import Index
from tfserving_ext.models.checkpoint import load_model
from tfserving_ext.progress import progress
from tfserving_ext.retrieval.brute_force import BruteForce
from tfserving_ext.retrieval.metrics import coverage, recall

BATCH = 16  # Cases per call of a peer.
LEAST_COVERAGE = 0.98  # What "at equal coverage" means.
CLOSE = 1.25  # How much slower a setting may seem, in one pass, and yet be the fastest.


@dataclasses.dataclass
class Measured:
    """One setting of one peer.

    Attributes:
      setting: as the peer takes it.
      cases: cases that it answered.
      coverage: mean coverage@k against brute force.
      recall: mean recall@k, recall-retrieval of a search.
      ms_per_query: milliseconds, of a single pass.
    """

    setting: Any
    cases: int
    coverage: float
    recall: float
    ms_per_query: float


def make_workload(folder: Path, index: Index, cases: int, positions: int, k: int, threads: int) -> Workload:
    """The held-out cases of a demo's folder, with brute force's answers.

    Args:
      folder: holds `data` and `model`.
      index: over the model's embeddings.
      cases: how many, drawn evenly.
      positions: cases per held-out user to draw from.
      k: length of an answer.
      threads: what peers may use.

    Raises:
      NannError: the folder lacks an artefact.
    """
    for name in ("data", "model"):
        if not (folder / name).exists():
            raise NannError(f"{folder / name} does not exist; make it with `nann demo --folder {folder}`")
    sequences, trained = Sequences.open(folder / "data"), load_model(folder / "model")
    drawn = sequences.cases("test", positions, trained.model.config.history_length)
    rows = np.unique(np.linspace(0, len(drawn) - 1, cases).astype(np.int64))
    drawn = Cases(*(getattr(drawn, name)[rows] for name in ("user_ids", "histories", "targets", "positions")))
    user = user_tensors(trained, sequences, drawn)
    exact = exact_answers(index, trained.model.score, user, k)
    histories, targets = sequences.ids_of(drawn.histories), sequences.ids_of(drawn.targets)
    scratch = folder / "bench"
    scratch.mkdir(exist_ok=True)
    return Workload(trained, sequences, index, user, histories, targets, exact, k, threads, scratch)


def exact_answers(index: Index, score: Any, user: tuple, k: int) -> np.ndarray:
    """Brute force's answers, item ids int64 [N, k]."""
    brute_force, parts = BruteForce(index, score), []
    count = len(user[0])
    with progress("brute force, for the coverage", count) as advance:
        for first in range(0, count, BATCH):
            part = tuple(tensor[first : first + BATCH] for tensor in user)
            parts.append(brute_force.search(part, k).item_ids.numpy())
            advance(len(parts[-1]))
    return np.concatenate(parts)


def answer(peer: Peer, setting: Any, cases: int) -> tuple[np.ndarray, float]:
    """The answers to the first `cases` cases, int64 [cases, k], and the seconds that they took."""
    begin = time.perf_counter()
    answers = [peer(first, min(first + BATCH, cases), setting) for first in range(0, cases, BATCH)]
    return np.concatenate(answers), time.perf_counter() - begin


def measure(peer: Peer, workload: Workload, setting: Any, cases: int) -> Measured:
    """What a peer finds with a setting, and about how long it takes."""
    cases = min(cases, len(workload.targets))
    found, seconds = answer(peer, setting, cases)
    covered = coverage(found, workload.exact[:cases]).mean()
    recalled = recall(found, workload.targets[:cases]).mean()
    return Measured(setting, cases, float(covered), float(recalled), 1000 * seconds / cases)


def race(
    runners: Mapping[str, tuple[Peer, Sequence[Measured]]], cases: Mapping[str, int], repeats: int
) -> dict[str, tuple[Measured, float]]:
    """Per runner the fastest of its settings and that setting's milliseconds per query.

    All take turns, `repeats` times over, and the fastest time of each setting counts. A shared machine is slow for
    seconds at a time: taking turns, and keeping the fastest, lets no runner suffer alone.
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
    """The settings of one peer that race: those that cover enough, at most `CLOSE` times as slow as the fastest.

    One pass of each is too noisy to name the fastest. Where none covers enough, as the rerank's may not, the one that
    covers the most.
    """
    enough = [one for one in measured if one.coverage >= least_coverage]
    if not enough:
        return [max(measured, key=lambda one: one.coverage)]
    fastest = min(one.ms_per_query for one in enough)
    return [one for one in enough if one.ms_per_query <= CLOSE * fastest]
