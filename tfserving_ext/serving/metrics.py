"""The server's metrics as Prometheus text: TensorFlow Serving's names, and our own for searches."""

import bisect
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from tfserving_ext.ops import _library

PREFIX = ":tensorflow:serving:"
_LATENCY_BOUNDS = tuple(10.0 * 1.8**power for power in range(33))  # Microseconds, as TensorFlow Serving's buckets.
_COUNT_BOUNDS = tuple(float(4**power) for power in range(13))
_MAX_SERIES = 10_000  # Further series are not recorded, so that clients cannot fill the memory with new labels.
_HELP = {
    ":tensorflow:serving:request_count": "Requests by model and by the gRPC status they were answered with.",
    ":tensorflow:serving:request_latency": "Microseconds from a request's arrival to its answer.",
    ":tensorflow:serving:runtime_latency": "Microseconds that TensorFlow took to run a signature.",
    ":nann:search_latency": "Microseconds that TensorFlow took to run a signature with a search.",
    ":nann:items_scored": "Items scored in one user's search.",
    ":nann:nan_scores": "Scores that were NaN: the model is broken, or was given input that it cannot score.",
    ":nann:rounds": "Rounds of one user's search that met at least one item not scored before.",
    ":nann:index_sequence": "The last update of its items that an index has read.",
    ":nann:unindexed_items": "Items that are new or have another embedding, which every search scores.",
    ":nann:updates_stopped": "1 if something is wrong with an index's next update, which the log tells.",
    ":nann:search_stopped": "Users' searches by the reason why they stopped.",
}
_STOPPED = {0: "complete", 1: "budget", 2: "deadline", 3: "max_steps"}  # As in custom_ops/ops/search_ops.cc.


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> list[str]:
        inside = labels[1:-1]
        separator = "," if inside else ""
        found, total = [], 0
        for bound, count in zip([*self._bounds, None], self._counts, strict=True):
            total += count
            shown = "+Inf" if bound is None else f"{bound:g}"
            found.append(f'{name}_bucket{{{inside}{separator}le="{shown}"}} {total}')
        return [*found, f"{name}_sum{labels} {self._sum:g}", f"{name}_count{labels} {total}"]


class Metrics:
    """Counters and histograms; every method may be called from any thread."""

    def __init__(self) -> None:
        """Creates empty metrics."""
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, str], int] = {}
        self._histograms: dict[tuple[str, str], _Histogram] = {}

    def answered(self, model: str, entry: str, status: str, seconds: float) -> None:
        """Counts an answered request.

        Args:
          model: the model's name, "" if it is unknown.
          entry: the method that was called, such as "Predict".
          status: the name of the gRPC status.
          seconds: the time from the request's arrival to its answer.
        """
        with self._lock:
            self._count("request_count", _labels(model_name=model, status=status))
            self._observe("request_latency", _labels(model_name=model, API=entry), 1e6 * seconds)

    def ran(self, model: str, entry: str, seconds: float, outputs: Mapping[str, np.ndarray]) -> None:
        """Counts a run of a signature, with the statistics in its outputs if it contains a search.

        Args:
          model: the model's name.
          entry: the method that was called, such as "Predict".
          seconds: the duration of the run.
          outputs: the outputs of the signature by name.
        """
        with self._lock:
            self._observe("runtime_latency", _labels(model_name=model, API=entry, runtime="TF1"), 1e6 * seconds)
            if "items_scored" not in outputs or "stopped" not in outputs:
                return
            self._observe(":nann:search_latency", _labels(model_name=model), 1e6 * seconds)
            for name in ("items_scored", "rounds"):
                for count in outputs[name].ravel() if name in outputs else ():  # Older exports have no rounds.
                    self._observe(f":nann:{name}", _labels(model_name=model), float(count), _COUNT_BOUNDS)
            if "nan_scores" in outputs:  # Recorded even if zero, so that a later rise from zero is visible.
                self._count(":nann:nan_scores", _labels(model_name=model), int(outputs["nan_scores"].sum()))
            for stopped in outputs["stopped"].ravel():
                reason = _STOPPED.get(int(stopped), str(stopped))
                self._count(":nann:search_stopped", _labels(model_name=model, reason=reason))

    def text(self) -> str:
        """Returns all metrics in Prometheus' text format."""
        with self._lock:
            lines: list[str] = []
            previous = ""
            for (name, labels), count in sorted(self._counters.items()):
                lines += [] if name == previous else [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} counter"]
                previous = name
                lines.append(f"{name}{labels} {count}")
            for (name, labels), histogram in sorted(self._histograms.items()):
                lines += [] if name == previous else [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} histogram"]
                previous = name
                lines += histogram.lines(name, labels)
        return "\n".join(lines + _updates()) + "\n"

    def _count(self, name: str, labels: str, by: int = 1) -> None:
        key = (_full(name), labels)
        if key in self._counters or len(self._counters) < _MAX_SERIES:
            self._counters[key] = self._counters.get(key, 0) + by

    def _observe(self, name: str, labels: str, value: float, bounds: Sequence[float] = _LATENCY_BOUNDS) -> None:
        key = (_full(name), labels)
        if key not in self._histograms and len(self._histograms) < _MAX_SERIES:
            self._histograms[key] = _Histogram(bounds)
        if key in self._histograms:
            self._histograms[key].add(value)


def _updates() -> list[str]:
    """Returns the lines about the indexes that follow updates."""
    lines = []
    followed = _library.followed()
    for name, value in (
        ("index_sequence", "sequence"),
        ("unindexed_items", "unindexed"),
        ("updates_stopped", "stopped"),
    ):
        full = f":nann:{name}"
        lines += [f"# HELP {full} {_HELP[full]}", f"# TYPE {full} gauge"] if followed else []
        lines += [f"{full}{_labels(deltas=one.folder)} {int(getattr(one, value))}" for one in followed]
    return lines


def _full(name: str) -> str:
    return name if name.startswith(":") else PREFIX + name


def _labels(**labels: str) -> str:
    escaped = {
        key: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for key, value in labels.items()
    }
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}"
