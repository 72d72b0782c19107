"""Evaluates a search against brute force on held-out users."""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.artifacts import write_json
from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.index.format import Index
from tfserving_ext.models import UserTensors
from tfserving_ext.ops import SearchResult
from tfserving_ext.progress import progress
from tfserving_ext.retrieval.brute_force import BruteForce
from tfserving_ext.retrieval.metrics import coverage, recall, recall_delta
from tfserving_ext.retrieval.neural_top_k import BestFirst, NeuralTopK, Rounds
from tfserving_ext.training.checkpoint import TrainedModel, load_model
from tfserving_ext.training.extract import check_match

BATCH = 32
# By the name that the figures have them under.
SEARCHES: Mapping[str, BestFirst | Rounds] = MappingProxyType({"best_first": BestFirst(), "rounds": Rounds()})


def user_tensors(trained: TrainedModel, sequences: Sequences, cases: Cases) -> UserTensors:
    """The user tensors of test cases: their histories as the model's user function takes them."""
    # Through the data's own ids, which a model and a data set share; rows they need not.
    history = sequences.ids_of(cases.histories)
    rows = trained.model.items.rows(tf.constant(history))
    categories = np.concatenate([[-1], trained.item_categories])
    features = {"item_history": tf.constant(history), "category_history": tf.gather(categories, rows)}
    return trained.model.user(features)


def evaluate(
    data: str | os.PathLike[str],
    model: str | os.PathLike[str],
    index: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    searches: Mapping[str, BestFirst | Rounds] = SEARCHES,
    k: int = 200,
    positions_per_user: int = 1,
    max_cases: int | None = None,
    split: str = "test",
) -> dict[str, Any]:
    """Measures recall, coverage and the scored fraction at k on held-out users.

    Args:
      data: a folder that `nann convert` wrote.
      model: a folder that `nann train` wrote.
      index: a folder that `nann index` wrote from the same model.
      target: a JSON file to write the figures to, or None.
      searches: parameters of the searches to measure, by name; the best-first search is seeded with the history. None
        at all measures brute force alone (the original's test_all).
      k: length of the answers (the paper's M).
      positions_per_user: test cases per user; 1 asks for the behaviour in the middle of the history.
      max_cases: evaluate this many cases, drawn evenly; None for all.
      split: "test" or "validation".

    Returns:
      The figures: `recall_all`, `brute_force_ms_per_case`, what was evaluated, and under `searches`, for each by name,
      `recall_retrieval`, `recall_delta`, `coverage`, `coverage_5th_percentile`, `items_scored`, `scored_fraction`,
      `ms_per_case` and its parameters.

    Raises:
      NannError: artefacts that do not belong together, or parameters that do not fit.
    """
    sequences, trained, opened = Sequences.open(data), load_model(model), Index.open(index)
    check_match(trained, opened)
    cases = sequences.cases(split, positions_per_user, trained.model.config.history_length)
    chosen = np.arange(len(cases))
    if max_cases is not None and max_cases < len(cases):
        chosen = np.linspace(0, len(cases) - 1, max_cases).astype(np.int64)
    cases = Cases(*(getattr(cases, name)[chosen] for name in ("user_ids", "histories", "targets", "positions")))
    targets = sequences.ids_of(cases.targets)
    neural = NeuralTopK(opened, trained.model.score)
    neural.check(BestFirst(), k)
    brute_force = BruteForce(opened, trained.model.score)
    exact = _Measured(lambda user, seeds: brute_force.search(user, tf.constant(k)))
    measured = {name: _Measured(neural.bind(parameters, k)) for name, parameters in searches.items()}

    with progress("evaluate", len(cases)) as advance:
        for start in range(0, len(cases), BATCH):
            rows = slice(start, start + BATCH)
            part = Cases(cases.user_ids[rows], cases.histories[rows], cases.targets[rows], cases.positions[rows])
            user, seeds = user_tensors(trained, sequences, part), tf.constant(sequences.ids_of(part.histories))
            for search in (exact, *measured.values()):
                search(user, seeds)
            advance(len(part))
    recall_all = float(recall(exact.item_ids, targets).mean())
    figures: dict[str, Any] = {
        "k": k,
        "cases": len(cases),
        "users": len(np.unique(cases.user_ids)),
        "items": len(opened.item_ids),
        "split": split,
        "recall_all": recall_all,
        "brute_force_ms_per_case": 1000 * exact.seconds / len(cases),
        "searches": {},
    }
    for name, search in measured.items():
        retrieval = float(recall(search.item_ids, targets).mean())
        per_case = coverage(search.item_ids, exact.item_ids)
        figures["searches"][name] = {
            "recall_retrieval": retrieval,
            "recall_delta": recall_delta(recall_all, retrieval),
            "coverage": float(per_case.mean()),
            "coverage_5th_percentile": float(np.percentile(per_case, 5)),
            "items_scored": float(search.items_scored.mean()),
            "scored_fraction": float(search.items_scored.mean() / len(opened.item_ids)),
            "ms_per_case": 1000 * search.seconds / len(cases),
            **dataclasses.asdict(searches[name]),
        }
    if target is not None:
        write_json(target, figures)
    return figures


class _Measured:
    """A search, what it found in all calls so far, and the seconds that it took."""

    def __init__(self, search: Callable[[UserTensors, tf.Tensor], SearchResult]) -> None:
        self._search = tf.function(search, reduce_retracing=True)
        self._item_ids: list[np.ndarray] = []
        self._items_scored: list[np.ndarray] = []
        self.seconds = 0.0

    def __call__(self, user: UserTensors, seeds: tf.Tensor) -> None:
        if not self._item_ids:
            self._search.get_concrete_function(user, seeds)  # Tracing is not searching.
        before = time.monotonic()
        result = self._search(user, seeds)
        self._item_ids.append(result.item_ids.numpy())
        self.seconds += time.monotonic() - before
        self._items_scored.append(result.items_scored.numpy())

    @property
    def item_ids(self) -> np.ndarray:
        return np.concatenate(self._item_ids)

    @property
    def items_scored(self) -> np.ndarray:
        return np.concatenate(self._items_scored)


def summary(figures: dict[str, Any]) -> str:
    """The figures for people: a line, and one more for each search."""
    k = figures["k"]
    lines = [f"{figures['cases']:,} cases: recall-all@{k} {figures['recall_all']:.4f}"]
    for name, search in figures["searches"].items():
        lines.append(
            f"{name}: recall-retrieval@{k} {search['recall_retrieval']:.4f}, coverage@{k} {search['coverage']:.4f}, "
            f"{search['items_scored']:,.0f} items scored ({100 * search['scored_fraction']:.1f} %)"
        )
    return "\n          ".join(lines)
