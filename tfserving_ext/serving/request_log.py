"""What is told of requests and versions: counted for Prometheus, and written as lines of a log."""

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
    """Counts and logs; may be used from any thread."""

    def __init__(self, models: ServedModels, log: Log) -> None:
        """Takes whose requests these are, and who takes the lines."""
        self._models, self._log = models, log

    def done(self, call: Call) -> None:
        """Tells of a request that is answered, or refused."""
        seconds = time.monotonic() - call.arrival
        # Names of models that are not there come from clients: they are not counted by name.
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
    """What gRPC calls a client, without the kind of its address."""
    return urllib.parse.unquote(peer.partition(":")[2]) if peer.startswith(("ipv4:", "ipv6:")) else peer


def log_json(**facts: object) -> None:
    """Writes one line of JSON to standard error."""
    print(to_json({"time": _now(), **facts}, indent=None), file=sys.stderr, flush=True)


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
