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
    draw = _Draw(servable, np.fromfile(saved_model / "assets" / "item_ids.bin", "<i8"), np.random.default_rng(seed))
    return [draw.request(number) for number in range(count)]


class _Draw:
    """Draws the inputs of one request after another."""

    def __init__(self, servable: Any, ids: np.ndarray, rng: np.random.Generator) -> None:
        self._known, self._rng = np.append(ids, STRANGERS), rng
        self._ef = servable.signature("retrieve_rounds").defaults["ef"]
        self._width = servable.signature("serving_default").proto.inputs["comm_seq"].tensor_shape.dim[1].size

    def request(self, number: int) -> Request:
        """Draws a request, whose kind is a function of its number."""
        place = number % 16
        if place < 6:
            return Request("retrieve", "retrieve", self._best_first())
        if place < 9:
            return Request("retrieve_rounds", "retrieve_rounds", self._paper())
        if place < 12:
            return Request("serving_default", "serving_default", self._original())
        if place == 12:
            return Request("budget", "retrieve", {**self._best_first(), "budget": self._rng.integers(1, 1000, [])})
        if place == 13:
            return Request("deadline", "retrieve", self._best_first(), deadline_ms=int(self._rng.integers(1, 30)))
        if place == 14:
            return Request("deadline", "retrieve_rounds", self._paper(), deadline_ms=int(self._rng.integers(1, 60)))
        return self._wrong(number // 16)

    def _some(self, *values: int) -> np.ndarray:
        return np.array(self._rng.choice(values), np.int32)

    def _user(self) -> dict[str, np.ndarray]:
        rng, users = self._rng, self._rng.choice(USERS)
        history = rng.choice(self._known, [users, rng.choice(HISTORY_LENGTHS)])
        exclude = rng.choice(self._known, [rng.choice([1, users]), rng.choice(EXCLUSIONS)])
        return {"item_history": history, "exclude": exclude, "k": self._some(1, 10, 200)}

    def _best_first(self) -> dict[str, np.ndarray]:
        return {**self._user(), "pool": self._some(10, 50, 200), "frontier": self._some(4, 16, 64)}

    def _paper(self) -> dict[str, np.ndarray]:
        ef = np.maximum(self._ef * self._rng.uniform(0.05, 0.5), 1).astype(np.int32)
        user = self._user()
        return {**user, "ef": ef, "rounds": np.array([1, *self._rng.integers(1, 3, len(ef) - 1)], np.int32)}

    def _original(self) -> dict[str, np.ndarray]:
        level_topn = np.array([20, 50, 100, 60, 30, self._rng.choice([1, 20, 200])], np.int32)
        return {"comm_seq": self._rng.normal(0, 0.3, [1, self._width]).astype(np.float16), "level_topn": level_topn}

    def _wrong(self, number: int) -> Request:
        inputs = self._best_first()
        users = len(inputs["item_history"])
        signature, change = (
            ("retrieve", {**inputs, "k": self._some(0)}),
            ("retrieve", {**inputs, "pool": self._some(-3)}),
            ("retrieve", {**inputs, "exclude": np.zeros([users + 2, 1], np.int64)}),
            ("retrieve_rounds", {**self._paper(), "ef": np.array([5], np.int32)}),
            ("serving_default", {**self._original(), "level_topn": np.zeros(6, np.int32)}),
        )[number % 5]
        return Request("wrong", signature, change, wrong=True)


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
