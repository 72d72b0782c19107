"""Measurements of the server during the load: its Prometheus metrics, its processor time and memory."""

import asyncio
import time
import urllib.error
import urllib.request
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tfserving_ext.errors import NannError

MAX_BYTES = 16 << 20
SCRAPE_SECONDS = 5.0
SAMPLE_SECONDS = 1.0


async def scrape(url: str) -> dict[str, float]:
    """Reads a Prometheus page.

    Returns:
      The values by metric name with labels.

    Raises:
      NannError: the page cannot be read.
    """
    return await asyncio.to_thread(_scrape, url)


def _scrape(url: str) -> dict[str, float]:
    if not url.startswith(("http://", "https://")):
        raise NannError(f"prometheus is {url!r}, it must be a URL that starts with http:// or https://")
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=SCRAPE_SECONDS) as answer:
            text = answer.read(MAX_BYTES).decode(errors="replace")
        return {
            sample.name + _labels(sample.labels): float(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except urllib.error.HTTPError as error:
        raise NannError(f"{url} answered {error.code}; does the server have a monitoring configuration?") from error
    except (OSError, ValueError) as error:
        raise NannError(f"cannot read metrics from {url}: {error}") from error


def _labels(labels: dict[str, str]) -> str:
    inside = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{{{inside}}}" if inside else ""


def difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Returns the changes of all metrics that changed; new metrics count from zero."""
    changes = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return {name: round(change, 6) for name, change in changes.items() if change}


class ProcessWatch:
    """Samples the processor time and memory of a process and its children every second."""

    def __init__(self, pid: int) -> None:
        """Finds the process.

        Raises:
          NannError: there is no such process, or it may not be inspected.
        """
        try:
            self._process = psutil.Process(pid)
            self._process.cpu_times()
        except (psutil.Error, ValueError) as error:
            raise NannError(f"cannot watch process {pid}: {error}") from error
        self.samples: list[list[float]] = []
        self._zero = time.monotonic()
        self._last: tuple[float, float] | None = None

    async def watch(self) -> None:
        """Samples until it is cancelled or the process has ended."""
        while self._sample():
            await asyncio.sleep(SAMPLE_SECONDS)

    def figures(self) -> dict[str, Any]:
        """Returns the mean and largest use of cores and resident memory in MB; samples are [second, cores, MB]."""
        cores = [cores for _, cores, _ in self.samples if cores >= 0]
        return {
            "pid": self._process.pid,
            "cores_mean": sum(cores) / len(cores) if cores else None,
            "cores_max": max(cores, default=None),
            "rss_mb_first": self.samples[0][2] if self.samples else None,
            "rss_mb_max": max((rss for _, _, rss in self.samples), default=None),
            "samples": [[round(value, 3) for value in sample] for sample in self.samples if sample[1] >= 0],
        }

    def _sample(self) -> bool:
        used, memory = 0.0, 0
        try:
            for process in (self._process, *self._process.children(recursive=True)):
                times = process.cpu_times()
                used += times.user + times.system
                memory += process.memory_info().rss
        except psutil.Error:
            return self._process.is_running()
        now = time.monotonic()
        cores = -1.0 if self._last is None else (used - self._last[1]) / max(now - self._last[0], 1e-9)
        self._last = now, used
        self.samples.append([now - self._zero, max(cores, 0.0) if self.samples else -1.0, memory / 1e6])
        return True
