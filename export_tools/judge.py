"""Measures an exported model on requests: what its searches find of the exact answers, and of what users chose next."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from export_tools.exact import ExactAnswers, different
from export_tools.manifest import exported_index, read_manifest
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.index.item_keys import NO_KEY
from tfserving_ext.outputs import check_json
from tfserving_ext.progress import progress
from tfserving_ext.retrieval.metrics import held
from tfserving_ext.serving.client import Client
from tfserving_ext.serving.models import ModelOptions, Servable, ServingError, load_servable
from tfserving_ext.serving.requests import as_inputs, read_requests

if TYPE_CHECKING:
    from tfserving_ext.evaluation.intervals import Bootstrap

NEXT = "next"  # The ids of the items that a request's user chose next, beside its inputs.
FORMAT, FORMAT_VERSION = "nann-judgement", 1
SIGNATURES = ("retrieve", "retrieve_surrogate", "retrieve_best_first", "retrieve_rounds")
EXACT = "exact"
# Segments beyond the most frequent ones are told together.
MOST_SEGMENTS = 20
NONE, OTHERS = "(none)", "(others)"
# Asks for the outputs of a signature by its name, with inputs by name.
Ask = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


def judge(
    saved_model: str | os.PathLike[str],
    requests: str | os.PathLike[str] | Sequence[Mapping[str, Any]],
    k: int | None = None,
    target: str | os.PathLike[str] | None = None,
    signatures: Sequence[str] = SIGNATURES,
    server: str | None = None,
    by: str | None = None,
) -> dict[str, Any]:
    """Measures an exported model on real requests, against scoring every item by the exported scorer.

    Example:
      >>> requests = [{"item_history": [100031, 100062], "next": [100093]}]
      >>> found = nann.judge("models/nann/1", requests, k=10)
      >>> list(found["answers"])
      ['exact', 'retrieve', 'retrieve_surrogate', 'retrieve_best_first', 'retrieve_rounds']

    Args:
      saved_model: output of `nann export`.
      requests: the inputs of one user each, by name; or a file of them (JSON, JSON lines or Parquet). `next` in a
        request holds the ids of the items that the user chose next; either all requests have it, or none.
      k: how many items to answer; the model's default if None.
      target: a JSON file for the figures, or None.
      signatures: the signatures to measure; those that the model lacks are left out.
      server: HOST:PORT of a server's gRPC port, of TensorFlow Serving or `nann serve`, whose answers are measured in
        place of those of this process; or HOST:PORT/NAME. It serves the same version under the name of the folder
        above it, if NAME does not say another.
      by: an input, or another name in the requests, by whose values the figures are told as well.

    Returns:
      The figures: `requests`, `items` and `k`, and by signature in `answers` the means `coverage`, the share of the
      exact answer that was found, and `items_scored`; where requests have `next`, also `recall`, the share of these
      items that the answer has, `mrr`, the mean reciprocal rank of the first of them, `ndcg`, and `hit_rate`, the
      share of users with one at least. Each has its interval at 95 % in `intervals`. With `by`, `segments` has the
      number of requests and the same figures for each value, the most frequent first.

    Raises:
      NannError: a file is missing or damaged, a request does not fit the signature, or `next` is missing from some.
    """
    if target is not None:
        check_json(Path(target), "figures of `nann judge`", "format", FORMAT)
    path = Path(saved_model)
    manifest = read_manifest(path)
    given = read_requests(Path(requests)) if isinstance(requests, (str, os.PathLike)) else [dict(r) for r in requests]
    chosen, segments = _chosen(given), None if by is None else [_segment(one.get(by)) for one in given]
    k = manifest["defaults"]["k"] if k is None else k
    servable = load_servable(path, ModelOptions(warm_up_runs=0))
    try:
        with exported_index(path, manifest) as index, _asking(servable, server, path) as ask:
            k = min(k, len(index.item_ids))
            if by is not None:
                _check_by(by, given, servable, signatures)
            answers = _answers(servable, ask, ExactAnswers(path, index), given, k, signatures)
            items = len(index.item_ids)
    except ServingError as error:
        raise NannError(f"{saved_model}: {error.message}") from error
    finally:
        servable.close()
    measured = {"saved_model": str(saved_model), "requests": len(given), "items": items, "k": k}
    figures = {"format": FORMAT, "format_version": FORMAT_VERSION, **measured, "answers": _all_figures(answers, chosen)}
    if segments is not None:
        figures |= {"by": by, "segments": _by_segment(answers, chosen, segments)}
    if target is not None:
        write_json(Path(target), figures)
    return figures


@contextlib.contextmanager
def _asking(servable: Servable, server: str | None, path: Path) -> Iterator[Ask]:
    """Gives what answers: the model in this process, or the server."""
    if server is None:
        yield lambda name, inputs: servable.signatures[name].run(inputs)
        return
    target, _, name = server.partition("/")
    with Client(target, name or path.resolve().parent.name) as client:
        yield client.predict


def _segment(value: Any) -> str:
    """Returns the text of a segment; a list of one is its value."""
    held = np.asarray(value, object).ravel()
    return NONE if value is None else ", ".join(map(str, held.tolist()))


def _check_by(by: str, requests: list[dict[str, Any]], servable: Servable, signatures: Sequence[str]) -> None:
    """Checks that requests have the name of the segments, and takes it out of them if it is no input."""
    if not any(by in request for request in requests):
        known = sorted({name for request in requests for name in request})
        raise NannError(f"no request has {by!r}, by which segments are told; they have {', '.join(known)}")
    if any(by in servable.signatures[name].proto.inputs for name in signatures if name in servable.signatures):
        return
    for request in requests:
        request.pop(by, None)


def _by_segment(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], chosen: list[np.ndarray] | None, segments: list[str]
) -> dict[str, dict[str, Any]]:
    """Returns the figures of the requests of each segment."""
    values, places, counts = np.unique(segments, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    groups = [(str(values[place]), [place]) for place in order[:MOST_SEGMENTS]]
    groups += [(OTHERS, order[MOST_SEGMENTS:].tolist())] if len(order) > MOST_SEGMENTS else []
    found = {}
    for name, held_values in groups:
        rows = np.flatnonzero(np.isin(places, held_values))
        some = {of: (ids[rows], scored[rows]) for of, (ids, scored) in answers.items()}
        wanted = None if chosen is None else [chosen[row] for row in rows]
        found[name] = {"requests": len(rows), "answers": _all_figures(some, wanted)}
    return found


def _chosen(requests: list[dict[str, Any]]) -> list[np.ndarray] | None:
    """Takes `next` out of the requests."""
    have = [NEXT in request for request in requests]
    if not any(have):
        return None
    if not all(have):
        raise NannError(f"request {have.index(False) + 1} has no {NEXT!r}, but others have; give it in all or in none")
    chosen = [different(request.pop(NEXT)) for request in requests]
    if empty := [place for place, ids in enumerate(chosen, 1) if not ids.size]:
        raise NannError(f"{NEXT!r} of request {empty[0]} is empty; at least one item is expected")
    return chosen


def _answers(
    servable: Servable,
    ask: Ask,
    exact: ExactAnswers,
    requests: list[dict[str, Any]],
    k: int,
    signatures: Sequence[str],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns, by signature and for `EXACT`, item ids, int64 or bytes [N, k], and the numbers of items scored [N]."""
    names = [name for name in signatures if name in servable.signatures]
    if not names:
        raise NannError(f"the model has none of {', '.join(signatures)}; it has {', '.join(servable.signatures)}")
    found: dict[str, list[tuple[np.ndarray, int]]] = {name: [] for name in (EXACT, *names)}
    with progress("judging (requests)", len(requests)) as advance:
        for number, request in enumerate(requests, 1):
            for name in names:
                signature = servable.signatures[name]
                try:
                    inputs = {**as_inputs(signature, request), "k": np.asarray(k, np.int32)}
                    answer = ask(name, inputs)
                except (NannError, ServingError) as error:
                    raise NannError(f"request {number}: {error}") from error
                if len(answer["item_ids"]) != 1:
                    raise NannError(f"request {number} is of {len(answer['item_ids'])} users; one is expected")
                found[name].append((answer["item_ids"][0], int(answer["items_scored"][0])))
            found[EXACT].append(_exact(exact, inputs, signature.defaults, k))
            advance()
    return {name: (np.stack([ids for ids, _ in one]), np.array([n for _, n in one])) for name, one in found.items()}


def _exact(
    exact: ExactAnswers, inputs: dict[str, np.ndarray], defaults: dict[str, np.ndarray], k: int
) -> tuple[np.ndarray, int]:
    ids, scored = exact.best(inputs, defaults, k)
    none = NO_KEY.encode() if ids.dtype == object else NO_ITEM
    return np.append(ids, np.full(k - len(ids), none, ids.dtype)), scored


def _all_figures(
    answers: Mapping[str, tuple[np.ndarray, np.ndarray]], chosen: list[np.ndarray] | None
) -> dict[str, dict[str, Any]]:
    from tfserving_ext.evaluation.intervals import Bootstrap

    exact, _ = answers[EXACT]
    if chosen is not None and chosen[0].dtype != exact.dtype:
        kinds = {True: "strings", False: "integers"}
        raise NannError(
            f"{NEXT!r} holds {kinds[chosen[0].dtype == object]}, but the model's item ids are "
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
