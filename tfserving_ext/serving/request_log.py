"""What is told of requests and versions: counted for Prometheus, and written as lines of a log."""

import datetime
import json
import sys
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from tfserving_ext.serving.predict import Predictor

MAX_NAME = 256
MAX_ERROR = 1024

Log = Callable[..., None]


@dataclass
class Asked:
    """A request, as far as it is known.

    Attributes:
      api: "grpc" or "rest".
      entry: what was asked, such as "Predict".
      client: its address.
      model: the name that it came with.
      version: of the model that answered, or refused.
      signature: that was asked for.
    """

    api: str
    entry: str
    client: str = ""
    model: str = ""
    version: int | None = None
    signature: str = ""

    def of(self, spec: Any) -> None:
        """Takes what a ModelSpec says."""
        self.model, self.signature = spec.name, spec.signature_name


class RequestLog:
    """Counts and logs; may be used from any thread."""

    def __init__(self, predictor: Predictor, log: Log) -> None:
        """Takes whose models are asked, and who takes the lines."""
        self._predictor, self._log = predictor, log

    def done(self, asked: Asked, status: grpc.StatusCode, seconds: float, error: str = "") -> None:
        """Tells of a request that is answered.

        Args:
          asked: the request.
          status: what it ended with.
          seconds: from its arrival to its answer.
          error: the text where it failed.
        """
        # Names of models that are not there come from clients: they are not counted by name.
        known = asked.model if asked.model in self._predictor.manager.names() else ""
        self._predictor.metrics.answered(known, asked.entry, status.name, seconds)
        self._log(
            api=asked.api,
            entry=asked.entry,
            client=asked.client,
            model=asked.model[:MAX_NAME],
            **({} if asked.version is None else {"version": asked.version}),
            **({"signature": asked.signature[:MAX_NAME]} if asked.signature else {}),
            status=status.name,
            seconds=round(seconds, 6),
            **({"error": error[:MAX_ERROR]} if error else {}),
        )


def address(peer: str) -> str:
    """What gRPC calls a client, without the kind of its address."""
    return urllib.parse.unquote(peer.partition(":")[2]) if peer.startswith(("ipv4:", "ipv6:")) else peer


def log_json(**facts: object) -> None:
    """Writes one line of JSON to standard error."""
    print(json.dumps({"time": _now(), **facts}), file=sys.stderr, flush=True)


def log_events(**facts: object) -> None:
    """Writes what becomes of versions as text to standard error, and nothing of requests."""
    if "event" not in facts:
        return
    event, model, version = (facts.pop(name, None) for name in ("event", "model", "version"))
    what = f"{model} version {version}: {event}" if version is not None else f"{event}"
    more = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    print(f"{_now()} {what}{', ' * bool(more)}{more}", file=sys.stderr, flush=True)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
