"""The figures of `nann judge`: of all requests and by segment, as one sentence and as tables."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfserving_ext.errors import NannError
from tfserving_ext.retrieval.metrics import held

if TYPE_CHECKING:
    from tfserving_ext.evaluation.intervals import Bootstrap

EXACT = "exact"
# Segments beyond the most frequent ones are told together.
MOST_SEGMENTS = 20
OTHERS = "(others)"


def all_figures(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], chosen: list[np.ndarray] | None
) -> dict[str, dict[str, Any]]:
    """Returns the figures of answers by signature, with their intervals.

    Args:
      answers: by signature and for `EXACT`, item ids, int64 or bytes [N, k], and the numbers of items scored [N].
      chosen: the ids that each user chose next, or None.

    Raises:
      NannError: `chosen` has ids of another kind than the answers.
    """
    from tfserving_ext.evaluation.intervals import Bootstrap

    exact, _ = answers[EXACT]
    if chosen is not None and chosen[0].dtype != exact.dtype:
        kinds = {True: "strings", False: "integers"}
        raise NannError(
            f"'next' holds {kinds[chosen[0].dtype == object]}, but the model's item ids are "
            f"{kinds[exact.dtype == object]}"
        )
    bootstrap = Bootstrap(np.arange(len(exact)))
    return {name: _figures(ids, exact, scored, chosen, bootstrap) for name, (ids, scored) in answers.items()}


def _figures(
    ids: np.ndarray, exact: np.ndarray, scored: np.ndarray, chosen: list[np.ndarray] | None, bootstrap: "Bootstrap"
) -> dict[str, Any]:
    from tfserving_ext.retrieval import coverage

    of_cases = {"coverage": coverage(ids, exact), "items_scored": scored.astype(np.float64)}
    if chosen is not None:
        hits = [np.isin(row, wanted) & held(row) for row, wanted in zip(ids, chosen, strict=True)]
        gains = 1 / np.log2(np.arange(ids.shape[1]) + 2)
        sizes = [len(wanted) for wanted in chosen]
        of_cases |= {
            "recall": np.array([hit.sum() / size for hit, size in zip(hits, sizes, strict=True)]),
            "hit_rate": np.array([float(hit.any()) for hit in hits]),
            "mrr": np.array([1 / (1 + hit.argmax()) if hit.any() else 0.0 for hit in hits]),
            "ndcg": np.array([gains[hit].sum() / gains[:size].sum() for hit, size in zip(hits, sizes, strict=True)]),
        }
    return {
        **{name: float(values.mean()) for name, values in of_cases.items()},
        "intervals": {name: bootstrap.interval(values) for name, values in of_cases.items()},
    }


def verdict(figures: Mapping[str, Any]) -> str:
    """Returns one sentence about the figures of `judge`: what the model serves by default is worth."""
    name = next(name for name in figures["answers"] if name != EXACT)
    one = figures["answers"][name]
    low, high = one["intervals"]["coverage"]
    told = (
        f"{name} finds {one['coverage']:.4f} ({low:.4f} to {high:.4f}) of the best {figures['k']} of "
        f"{figures['items']:,} items, and scores {one['items_scored']:,.0f} of them "
        f"({one['items_scored'] / figures['items']:.1%})"
    )
    if "recall" in one:
        exact = figures["answers"][EXACT]["recall"]
        told += f"; recall of what was chosen next is {one['recall']:.4f}, and {exact:.4f} where every item is scored"
    count = figures["requests"]
    return f"{told}; {count:,} request{'' if count == 1 else 's'}"


def as_segments(figures: Mapping[str, Any]) -> Any:
    """Returns the figures of the first signature by segment as a table, one row for each."""
    from rich.table import Table

    of = next(name for name in figures["answers"] if name != EXACT)
    names = [name for name in figures["answers"][of] if name not in ("intervals", "items_scored")]
    table = Table()
    table.add_column(f"{of} by {figures['by']}")
    for name in ("requests", *names):
        table.add_column(name.replace("_", " "), justify="right")
    for value, one in figures["segments"].items():
        table.add_row(value, f"{one['requests']:,}", *(f"{one['answers'][of][name]:.4f}" for name in names))
    return table


def as_table(figures: Mapping[str, Any]) -> Any:
    """Returns the figures of `judge` as a table, one row for each signature and for the exact answer."""
    from rich.table import Table

    table = Table()
    table.add_column("answers of")
    names = [name for name in figures["answers"][EXACT] if name != "intervals"]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for of, one in figures["answers"].items():
        table.add_row(of, *(f"{one[name]:,.0f}" if name == "items_scored" else f"{one[name]:.4f}" for name in names))
    return table


def by_segment(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], chosen: list[np.ndarray] | None, segments: list[str]
) -> dict[str, dict[str, Any]]:
    """Returns the figures of the requests of each segment, the most frequent first.

    Args:
      answers: as in `all_figures`.
      chosen: as there.
      segments: the segment of each request.
    """
    values, places, counts = np.unique(segments, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    groups = [(str(values[place]), [place]) for place in order[:MOST_SEGMENTS]]
    groups += [(OTHERS, order[MOST_SEGMENTS:].tolist())] if len(order) > MOST_SEGMENTS else []
    found = {}
    for name, held_values in groups:
        rows = np.flatnonzero(np.isin(places, held_values))
        some = {of: (ids[rows], scored[rows]) for of, (ids, scored) in answers.items()}
        wanted = None if chosen is None else [chosen[row] for row in rows]
        found[name] = {"requests": len(rows), "answers": all_figures(some, wanted)}
    return found
