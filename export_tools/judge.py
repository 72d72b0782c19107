"""Measures an exported model on requests: what its searches find of the exact answers, and of what users chose next."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export_tools.exact import ExactAnswers, different
from export_tools.judgement import EXACT, all_figures, by_segment
from export_tools.manifest import exported_index, read_manifest
from tfserving_ext.artifacts import write_json
from tfserving_ext.errors import NannError
from tfserving_ext.index.checks import NO_ITEM
from tfserving_ext.index.item_keys import NO_KEY
from tfserving_ext.outputs import check_json
from tfserving_ext.progress import outcome, progress
from tfserving_ext.serving.client import Client
from tfserving_ext.serving.models import ModelOptions, Servable, ServingError, load_servable
from tfserving_ext.serving.requests import as_inputs, read_requests

NEXT = "next"  # The ids of the items that a request's user chose next, beside its inputs.
FORMAT, FORMAT_VERSION = "nann-judgement", 1
_HEAD: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
SIGNATURES = ("retrieve", "retrieve_surrogate", "retrieve_best_first", "retrieve_rounds")
NO_SEGMENT = "(none)"
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
      server: HOST:PORT or HOST:PORT/NAME of a server's gRPC port, whose answers are measured in place of those of this
        process. It serves the same version, by default under the name of the folder above it.
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
    path, given = Path(saved_model), _given(requests)
    chosen, segments = _chosen(given), [] if by is None else [_segment(one.get(by)) for one in given]
    answers, items = _asked(path, given, k, signatures, server, by)
    k = answers[EXACT][0].shape[1]
    figures = {**_HEAD, "saved_model": str(path), "requests": len(given), "items": items, "k": k}
    figures["answers"] = all_figures(answers, chosen)
    if by is not None:
        figures |= {"by": by, "segments": by_segment(answers, chosen, segments)}
    if target is not None:
        write_json(Path(target), figures)
    return figures


def _asked(
    path: Path,
    requests: list[dict[str, Any]],
    k: int | None,
    signatures: Sequence[str],
    server: str | None,
    by: str | None,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """Returns the answers, as `_answers` does, and the number of items."""
    manifest = read_manifest(path)
    servable = load_servable(path, ModelOptions(warm_up_runs=0))
    try:
        with exported_index(path, manifest) as index, _asking(servable, server, path) as ask:
            items = len(index.item_ids)
            k = min(manifest["defaults"]["k"] if k is None else k, items)
            _check_by(by, requests, servable, signatures)
            return _answers(servable, ask, ExactAnswers(path, index), requests, k, signatures), items
    except ServingError as error:
        raise NannError(f"{path}: {error.message}") from error
    finally:
        servable.close()


def _given(requests: str | os.PathLike[str] | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the requests as dicts of our own, read from a file if they are one."""
    if isinstance(requests, (str, os.PathLike)):
        return read_requests(Path(requests))
    return [dict(request) for request in requests]


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
    return NO_SEGMENT if value is None else ", ".join(map(str, held.tolist()))


def _check_by(by: str | None, requests: list[dict[str, Any]], servable: Servable, signatures: Sequence[str]) -> None:
    """Checks that requests have the name of the segments, and takes it out of them if it is no input."""
    if by is None:
        return
    if not any(by in request for request in requests):
        known = sorted({name for request in requests for name in request})
        raise NannError(f"no request has {by!r}, by which segments are told; they have {', '.join(known)}")
    if any(by in servable.signatures[name].proto.inputs for name in signatures if name in servable.signatures):
        return
    for request in requests:
        request.pop(by, None)


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
    updates = 0
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
                updates = max(updates, int(answer.get("index_sequence", [0])[0]))
            found[EXACT].append(_exact(exact, inputs, signature.defaults, k))
            advance()
    if updates:
        outcome(
            "judge",
            f"the answers hold updates up to number {updates}, the exact ones do not: an item that an update brought "
            "counts as missed; fold them into a version by `nann compact`, and judge that",
        )
    return {name: (np.stack([ids for ids, _ in one]), np.array([n for _, n in one])) for name, one in found.items()}


def _exact(
    exact: ExactAnswers, inputs: dict[str, np.ndarray], defaults: dict[str, np.ndarray], k: int
) -> tuple[np.ndarray, int]:
    ids, scored = exact.best(inputs, defaults, k)
    none = NO_KEY.encode() if ids.dtype == object else NO_ITEM
    return np.append(ids, np.full(k - len(ids), none, ids.dtype)), scored
