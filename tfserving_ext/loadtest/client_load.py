"""Whether the client itself holds the measurement back."""

import threading
import time
from pathlib import Path
from typing import Any

# Of one core's time, from which on requests wait for the client.
BUSY = 0.9
IDLE = 0.3
# One request in a hundred is sent later than this, and by more than a tenth of what the slowest hundredth takes.
LATE_MS, LATE_SHARE = 1.0, 0.1


class ThreadClock:
    """How busy the thread that made this is, in cores: its own work, and its waiting for a processor."""

    def __init__(self) -> None:
        """Begins to watch."""
        self._schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self.restart()

    def restart(self) -> None:
        """Begins anew."""
        self._wall, self._work, self._waited = time.monotonic(), time.thread_time(), self._waiting()

    def read(self) -> tuple[float, float]:
        """Shares of the time since then: at work, and waiting for a processor. Call it on the same thread."""
        wall = max(time.monotonic() - self._wall, 1e-9)
        return (time.thread_time() - self._work) / wall, (self._waiting() - self._waited) / wall

    def _waiting(self) -> float:
        try:
            return int(self._schedule.read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0  # Not Linux: nobody says.


def judge(
    work: float, waiting: float, late_ms: float | None, latency_ms: float | None, blocked: int, limit: int
) -> dict[str, Any]:
    """The client's part of a level's figures.

    Args:
      work: share of one core that the client was at work.
      waiting: share of the time that it waited for a processor.
      late_ms: 99th percentile of how late it sent.
      latency_ms: 99th percentile of the latency.
      blocked: requests that waited for a place among those on their way.
      limit: how many places there are.

    Returns:
      These, and `saturated` with the `reasons`.
    """
    reasons = []
    if work + waiting >= BUSY:
        told = f"the client is busy {100 * work:.0f} % of the time"
        if waiting >= 0.1:
            told += f" and waits for a processor another {100 * waiting:.0f} %"
        reasons.append(told)
    if late_ms is not None and late_ms > max(LATE_MS, LATE_SHARE * (latency_ms or 0.0)):
        told = f"1 % of the requests are sent {late_ms:.1f} ms late or more"
        if work < IDLE:
            told += f"; with {100 * work:.0f} % of a core in use, it is other work that holds it up"
        reasons.append(told)
    if blocked:
        reasons.append(f"{blocked:,} requests waited as {limit:,} were on their way at once")
    return {
        "work": work,
        "waiting": waiting,
        "late_p99_ms": late_ms,
        "blocked": blocked,
        "saturated": bool(reasons),
        "reasons": reasons,
    }
