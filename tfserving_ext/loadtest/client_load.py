"""Checks whether the client, rather than the server, limits a measurement."""

import threading
import time
from pathlib import Path
from typing import Any

BUSY = 0.9  # The share of one core above which requests wait for the client.
IDLE = 0.3  # Below this share, late requests are blamed on other programs.
# The client is too late if the 99th percentile of its delay is above both: milliseconds, and a share of p99 latency.
LATE_MS, LATE_SHARE = 1.0, 0.1


class ThreadClock:
    """Measures how busy the current thread is: the time it works, and the time it waits for a processor."""

    def __init__(self) -> None:
        """Starts measuring the calling thread."""
        self._schedule = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self.restart()

    def restart(self) -> None:
        """Starts again from now."""
        self._wall, self._work, self._waited = time.monotonic(), time.thread_time(), self._waiting()

    def read(self) -> tuple[float, float]:
        """Returns the shares of the time since the start spent working and waiting for a processor.

        Must be called on the measured thread.
        """
        wall = max(time.monotonic() - self._wall, 1e-9)
        return (time.thread_time() - self._work) / wall, (self._waiting() - self._waited) / wall

    def _waiting(self) -> float:
        try:
            return int(self._schedule.read_text().split()[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0  # Only Linux reports it.


def judge(
    work: float, waiting: float, late_ms: float | None, latency_ms: float | None, blocked: int, limit: int
) -> dict[str, Any]:
    """Decides whether the client was the bottleneck of a level.

    Args:
      work: the share of one core that the client used.
      waiting: the share of the time that it waited for a processor.
      late_ms: the 99th percentile of the delay between the intended and the actual send time.
      latency_ms: the 99th percentile of the latency.
      blocked: how many requests had to wait because `limit` others were in flight.
      limit: how many requests may be in flight.

    Returns:
      The client's part of a level's figures: these values, `saturated`, and the `reasons` for it.
    """
    reasons = []
    if work + waiting >= BUSY:
        reason = f"the client is busy {100 * work:.0f} % of the time"
        if waiting >= 0.1:
            reason += f" and waits for a processor for another {100 * waiting:.0f} %"
        reasons.append(reason)
    if late_ms is not None and late_ms > max(LATE_MS, LATE_SHARE * (latency_ms or 0.0)):
        reason = f"1 % of the requests are sent {late_ms:.1f} ms late or more"
        if work < IDLE:
            reason += f"; as the client uses {100 * work:.0f} % of a core, other programs delay it"
        reasons.append(reason)
    if blocked:
        reasons.append(f"{blocked:,} requests had to wait because {limit:,} others were in flight")
    return {
        "work": work,
        "waiting": waiting,
        "late_p99_ms": late_ms,
        "blocked": blocked,
        "saturated": bool(reasons),
        "reasons": reasons,
    }
