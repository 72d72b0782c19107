"""Evaluates a search against brute force on held-out users."""

import os
import time
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving_ext.artifacts import write_json
from tfserving_ext.data.sequences import Cases, Sequences
from tfserving_ext.index.format import Index
from tfserving_ext.models import UserTensors
from tfserving_ext.progress import progress
from tfserving_ext.retrieval.brute_force import BruteForce
from tfserving_ext.retrieval.metrics import coverage, recall, recall_delta
from tfserving_ext.retrieval.neural_top_k import NeuralTopK, SearchParameters
from tfserving_ext.training.checkpoint import TrainedModel, load_model
from tfserving_ext.training.extract import check_match

BATCH = 32


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
    parameters: SearchParameters = SearchParameters(),  # noqa: B008 - frozen
    k: int = 200,
    positions_per_user: int = 1,
    max_cases: int | None = None,
    search: bool = True,
    split: str = "test",
) -> dict[str, Any]:
    """Measures recall, coverage and the scored fraction at k on held-out users.

    Args:
      data: a folder that `nann convert` wrote.
      model: a folder that `nann train` wrote.
      index: a folder that `nann index` wrote from the same model.
      target: a JSON file to write the figures to, or None.
      parameters: of the search.
      k: length of the answers (the paper's M).
      positions_per_user: test cases per user; 1 asks for the behaviour in the middle of the history.
      max_cases: evaluate this many cases, drawn evenly; None for all.
      search: False measures brute force alone (the original's test_all).
      split: "test" or "validation".

    Returns:
      The figures: `recall_all`, and with a search `recall_retrieval`, `recall_delta`, `coverage`, `scored_fraction`,
      `items_scored`, seconds per case of both, and what was evaluated.

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
    exact = BruteForce(opened, trained.model.score)
    neural = NeuralTopK(opened, trained.model.score)
    neural.check(parameters)
    beam_search = tf.function(lambda *user: neural(user, k=k, ef=parameters.ef, rounds=parameters.rounds))

    exact_ids, found_ids, scored = [], [], []
    seconds = {"brute_force": 0.0, "search": 0.0}
    with progress("evaluate", len(cases)) as advance:
        for start in range(0, len(cases), BATCH):
            rows = slice(start, start + BATCH)
            part = Cases(cases.user_ids[rows], cases.histories[rows], cases.targets[rows], cases.positions[rows])
            user = user_tensors(trained, sequences, part)
            before = time.monotonic()
            exact_ids.append(exact(user, tf.constant(k)).item_ids.numpy())
            seconds["brute_force"] += time.monotonic() - before
            if search:
                before = time.monotonic()
                result = beam_search(*user)
                seconds["search"] += time.monotonic() - before
                found_ids.append(result.item_ids.numpy())
                scored.append(result.items_scored.numpy())
            advance(len(part))
    recall_all = float(recall(np.concatenate(exact_ids), targets).mean())
    figures: dict[str, Any] = {
        "k": k,
        "cases": len(cases),
        "users": len(np.unique(cases.user_ids)),
        "items": len(opened.item_ids),
        "split": split,
        "recall_all": recall_all,
        "brute_force_ms_per_case": 1000 * seconds["brute_force"] / len(cases),
    }
    if search:
        found = np.concatenate(found_ids)
        retrieval = float(recall(found, targets).mean())
        per_case = coverage(found, np.concatenate(exact_ids))
        figures |= {
            "recall_retrieval": retrieval,
            "recall_delta": recall_delta(recall_all, retrieval),
            "coverage": float(per_case.mean()),
            "coverage_5th_percentile": float(np.percentile(per_case, 5)),
            "items_scored": float(np.concatenate(scored).mean()),
            "scored_fraction": float(np.concatenate(scored).mean() / len(opened.item_ids)),
            "search_ms_per_case": 1000 * seconds["search"] / len(cases),
            "ef": list(parameters.ef),
            "rounds": list(parameters.rounds),
        }
    if target is not None:
        write_json(target, figures)
    return figures


def summary(figures: dict[str, Any]) -> str:
    """The figures in one line, for people."""
    k = figures["k"]
    text = f"{figures['cases']:,} cases: recall-all@{k} {figures['recall_all']:.4f}"
    if "coverage" in figures:
        text += (
            f", recall-retrieval@{k} {figures['recall_retrieval']:.4f}, coverage@{k} {figures['coverage']:.4f}, "
            f"{100 * figures['scored_fraction']:.1f} % of the items scored"
        )
    return text
