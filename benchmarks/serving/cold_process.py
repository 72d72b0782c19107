"""Loads an export in a process of its own, without a server, and prints how long each step took, as JSON.

    python -m benchmarks.serving.cold_process models/nann/1 histories.npy

Nothing but the standard library is imported before the clock starts: `benchmarks.serving.cold_start` runs this.
"""

import json
import os
import statistics
import sys
import time


def first_and_later(seconds: list[float], prefix: str) -> dict[str, float]:
    """Returns the time of the first answer, the median of the later ones, and their ratio."""
    later = statistics.median(seconds[1:])
    return {
        f"{prefix}first_ms": 1000 * seconds[0],
        f"{prefix}later_ms": 1000 * later,
        f"{prefix}first_to_later": seconds[0] / later,
    }


def main(export: str, histories_file: str) -> None:
    """Imports, loads and asks; the last line is the result."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    begin = time.perf_counter()
    import numpy as np

    from tfserving_ext.serving.models import load_servable

    imported = time.perf_counter()
    retrieve = load_servable(export).signature("retrieve")
    loaded = time.perf_counter()
    seconds = []
    for history in np.load(histories_file):
        sent = time.perf_counter()
        retrieve.run({"item_history": history[None]})
        seconds.append(time.perf_counter() - sent)
    steps = {"import_seconds": imported - begin, "load_seconds": loaded - imported}
    print(json.dumps({**steps, **first_and_later(seconds, "in_process_")}))


if __name__ == "__main__":
    main(*sys.argv[1:])
