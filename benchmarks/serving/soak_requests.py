"""Makes the requests of a soak test, and checks their answers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

USERS = (1, 1, 1, 1, 1, 2, 5)
HISTORY_LENGTHS = (1, 3, 20, 50)
EXCLUSIONS = (0, 0, 5, 200)
STRANGERS = (-1, 2**62)  # Ids that no index holds.
STOPPED_BY_DEADLINE = 2

Outcome = dict[str, np.ndarray] | str  # Outputs by name, or the text of the refusal.


@dataclasses.dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
      kind: the name under which it is counted.
      signature: the signature to which it is sent.
      inputs: its inputs by name; for others, the signature's defaults are used.
      deadline_ms: if above 0, the search ends when this time is up; the expected answer is that without a deadline.
      wrong: whether it must be refused.
    """

    kind: str
    signature: str
    inputs: dict[str, np.ndarray]
    deadline_ms: int = 0
    wrong: bool = False


def make_requests(servable: Any, saved_model: Path, count: int, seed: int = 1) -> list[Request]:
    """Draws requests for a model that `nann export` wrote; any 16 successive ones include every kind.

    Args:
      servable: the loaded model.
      saved_model: its folder, from which the ids of its items are read.
      count: how many requests to draw.
      seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    ids = np.fromfile(saved_model / "assets" / "item_ids.bin", "<i8")
    rounds = servable.signature("retrieve_rounds").defaults
    width = servable.signature("serving_default").proto.inputs["comm_seq"].tensor_shape.dim[1].size

    def some(*values: int) -> np.ndarray:
        return np.array(rng.choice(values), np.int32)

    def user_inputs() -> dict[str, np.ndarray]:
        users, known = rng.choice(USERS), np.append(ids, STRANGERS)
        history = rng.choice(known, [users, rng.choice(HISTORY_LENGTHS)])
        exclude = rng.choice(known, [rng.choice([1, users]), rng.choice(EXCLUSIONS)])
        return {"item_history": history, "exclude": exclude, "k": some(1, 10, 200)}

    def best_first() -> dict[str, np.ndarray]:
        return {**user_inputs(), "pool": some(10, 50, 200), "frontier": some(4, 16, 64)}

    def paper() -> dict[str, np.ndarray]:
        ef = np.maximum(rounds["ef"] * rng.uniform(0.05, 0.5), 1).astype(np.int32)
        return {**user_inputs(), "ef": ef, "rounds": np.array([1, *rng.integers(1, 3, len(ef) - 1)], np.int32)}

    def original() -> dict[str, np.ndarray]:
        level_topn = np.array([20, 50, 100, 60, 30, rng.choice([1, 20, 200])], np.int32)
        return {"comm_seq": rng.normal(0, 0.3, [1, width]).astype(np.float16), "level_topn": level_topn}

    def wrong(number: int) -> Request:
        inputs = best_first()
        users = len(inputs["item_history"])
        signature, change = (
            ("retrieve", {**inputs, "k": some(0)}),
            ("retrieve", {**inputs, "pool": some(-3)}),
            ("retrieve", {**inputs, "exclude": np.zeros([users + 2, 1], np.int64)}),
            ("retrieve_rounds", {**paper(), "ef": np.array([5], np.int32)}),
            ("serving_default", {**original(), "level_topn": np.zeros(6, np.int32)}),
        )[number % 5]
        return Request("wrong", signature, change, wrong=True)

    def draw(number: int) -> Request:
        place = number % 16
        if place < 6:
            return Request("retrieve", "retrieve", best_first())
        if place < 9:
            return Request("retrieve_rounds", "retrieve_rounds", paper())
        if place < 12:
            return Request("serving_default", "serving_default", original())
        if place == 12:
            return Request("budget", "retrieve", {**best_first(), "budget": rng.integers(1, 1000, [])})
        if place == 13:
            return Request("deadline", "retrieve", best_first(), deadline_ms=int(rng.integers(1, 30)))
        if place == 14:
            return Request("deadline", "retrieve_rounds", paper(), deadline_ms=int(rng.integers(1, 60)))
        return wrong(number // 16)

    return [draw(number) for number in range(count)]


def ask(servable: Any, request: Request, alone: bool = False) -> Outcome:
    """Sends a request and returns its outputs or the text of its refusal; `alone` leaves the deadline out."""
    from tfserving_ext.serving.models import ServingError

    inputs = dict(request.inputs)
    if request.deadline_ms and not alone:
        inputs["deadline_ms"] = np.array(request.deadline_ms, np.int32)
    try:
        return servable.signature(request.signature).run(inputs)
    except ServingError as error:
        return f"{error.code.name}: {error.message}"


def fault(request: Request, found: Outcome, expected: Outcome) -> str:
    """Says what is wrong with an outcome; returns "" if nothing is.

    Args:
      request: the request that was sent.
      found: its outcome.
      expected: its outcome when it was sent alone and without its deadline.
    """
    name = f"{request.kind} {request.signature}"
    if request.wrong:
        if not isinstance(found, str):
            return f"{name}: answered"
        refused = found.startswith("INVALID_ARGUMENT") and found == expected
        return "" if refused else f"{name}: refused by {found!r}; must be INVALID_ARGUMENT, alone it was {expected!r}"
    if isinstance(found, str) or isinstance(expected, str):
        return f"{name}: refused by {found if isinstance(found, str) else expected!r}"
    rows: Any = slice(None)
    if request.deadline_ms:
        rows = found["stopped"] != STOPPED_BY_DEADLINE
        if _cut_short_badly({output: part[~rows] for output, part in found.items()}, expected["items_scored"][~rows]):
            return f"{name}: the answer that the deadline cut short is wrong"
    for output, part in found.items():
        if part[rows].tobytes() != expected[output][rows].tobytes():
            return f"{name}: {output} differs from that of the request alone"
    return ""


def _cut_short_badly(found: dict[str, np.ndarray], all_scored: np.ndarray) -> bool:
    """Returns whether rows that a deadline ended are out of order, repeat an item, or have scored too many items."""
    repeated = [len(set(row[row >= 0])) != np.count_nonzero(row >= 0) for row in found["item_ids"]]
    ordered = found["scores"][:, :-1] >= found["scores"][:, 1:]
    return any(repeated) or not ordered.all() or bool((found["items_scored"] > all_scored).any())
