"""The log of requests and versions, and the count of requests for Prometheus."""

import datetime
import sys
import time
import urllib.parse
from collections.abc import Callable

from tfserving_ext.artifacts import to_json
from tfserving_ext.serving.inference import Call, ServedModels

MAX_NAME = 256
MAX_ERROR = 1024

Log = Callable[..., None]


class RequestLog:
    """Counts and logs finished requests; may be used from any thread."""

    def __init__(self, models: ServedModels, log: Log) -> None:
        """Creates a log.

        Args:
          models: the models that the requests are for, and the metrics that count them.
          log: called with keyword arguments for each finished request.
        """
        self._models, self._log = models, log

    def done(self, call: Call) -> None:
        """Counts and logs a request that was answered or refused."""
        seconds = time.monotonic() - call.arrival
        # Clients choose the names of unknown models, so those do not become labels of a metric.
        known = call.model if call.model in self._models.manager.names() else ""
        self._models.metrics.answered(known, call.entry, call.status.name, seconds)
        self._log(
            api=call.api,
            entry=call.entry,
            client=call.client,
            model=call.model[:MAX_NAME],
            **({} if call.version is None else {"version": call.version}),
            **({"signature": call.signature[:MAX_NAME]} if call.signature else {}),
            status=call.status.name,
            seconds=round(seconds, 6),
            **({"error": call.error[:MAX_ERROR]} if call.error else {}),
        )


def address(peer: str) -> str:
    """Returns the address in gRPC's name for a client, without the prefix ipv4: or ipv6:."""
    return urllib.parse.unquote(peer.partition(":")[2]) if peer.startswith(("ipv4:", "ipv6:")) else peer


def log_json(**facts: object) -> None:
    """Writes one line of JSON to standard error."""
    print(to_json({"time": _now(), **facts}, indent=None), file=sys.stderr, flush=True)


def log_events(**facts: object) -> None:
    """Writes the events of versions as text to standard error; ignores requests."""
    if "event" not in facts:
        return
    event, model, version = (facts.pop(name, None) for name in ("event", "model", "version"))
    subject = f"{model} version {version}: {event}" if version is not None else f"{event}"
    details = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    print(f"{_now()} {subject}{', ' * bool(details)}{details}", file=sys.stderr, flush=True)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
