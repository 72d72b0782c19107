"""The send times of an open loop: at even intervals, as a Poisson process, or as recorded."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfserving_ext.errors import NannError

_BLOCK = 4096
MAX_RECORDED = 1_000_000
MAX_LINE_BYTES = 16 << 20


class Recorded(NamedTuple):
    """A request of a replay.

    Attributes:
      time: seconds after the first request of the recording.
      model: the model's name; None for the scenario's first model.
      inputs: values by input name.
    """

    time: float
    model: str | None
    inputs: dict[str, Any]


def constant(rate: float) -> Iterator[float]:
    """Yields evenly spaced send times in seconds from 0, `rate` per second, without end."""
    number = 0
    while True:
        yield number / rate
        number += 1


def poisson(rate: float, seed: int | Sequence[int]) -> Iterator[float]:
    """Yields send times in seconds of a Poisson process with `rate` arrivals per second, without end."""
    random, now = np.random.default_rng(seed), 0.0
    while True:
        for distance in random.exponential(1 / rate, _BLOCK).tolist():
            now += distance
            yield now


def read_recorded(path: Path) -> list[Recorded]:
    """Reads a JSON-lines file of requests, each `{"time": seconds, "inputs": {...}}`, optionally with `"model": name`.

    Returns:
      The requests in the order of their times, of which the first is 0.

    Raises:
      NannError: the file cannot be read or is empty, or a line is malformed; the message has the line's number.
    """
    found: list[Recorded] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if line.strip():
                    found.append(_recorded(line, f"{path}, line {number}"))
                if len(found) > MAX_RECORDED:
                    raise NannError(f"{path} has more than {MAX_RECORDED:,} requests")
    except OSError as error:
        raise NannError(f"cannot read {path}: {error.strerror}") from error
    if not found:
        raise NannError(f"{path} holds no request")
    found.sort(key=lambda one: one.time)
    first = found[0].time
    return [one._replace(time=one.time - first) for one in found]


def _recorded(line: bytes, where: str) -> Recorded:
    if len(line) > MAX_LINE_BYTES:
        raise NannError(f"{where} has more than {MAX_LINE_BYTES:,} bytes")
    try:
        value = json.loads(line)
        recorded = Recorded(float(value["time"]), value.get("model"), dict(value["inputs"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NannError(f'{where} must be {{"time": seconds, "inputs": {{...}}}}') from error
    if not np.isfinite(recorded.time):
        raise NannError(f"{where}: the time is {recorded.time}, it must be a number of seconds")
    return recorded
