"""The configuration that `nann bench --init` writes."""

from pathlib import Path

from tfserving_ext.artifacts import atomic_file
from tfserving_ext.errors import NannError

TEMPLATE = """\
# A run of `nann bench --config THIS_FILE`. Everything has a default; docs/bench.md describes each field.

# grpc://HOST:PORT or http://HOST:PORT of TensorFlow Serving or `nann serve`; or, in this process, session or function.
target: grpc://127.0.0.1:8500
# grpcs:// and https:// are TLS: by whom the server is known, and what shows who the client is.
# ca: ca.pem
# cert: client.pem
# key: client.key

models:
  - name: nann
    signature: retrieve
    # With several models: the share of requests of each.
    weight: 1
    # The SavedModel: for targets in process, for its hash in the result, and for the values of made-up requests, which
    # are drawn from its warm-up records.
    path: models/nann/1
    # Where requests come from: a JSON or npz file, a converted data set, or made up from the signature.
    # input_data: requests.json
    # data: data
    # history_length: 20
    # What is made up otherwise, where its vocabularies are not those of the records.
    # inputs:
    #   item_history: {shape: [1, 20], low: 1, high: 28165}
    # How many different requests are sent by turns.
    requests: 64

# One kind of load. Closed loop: so many clients wait for their answers (8, 1:64 doubling, 10:50:10).
concurrency: 1:16
# Open loop: requests a second, whatever the answers do.
# rate: 100:500:100
# arrivals: poisson
# Recorded requests, JSON lines of {"time": seconds, "inputs": {...}}.
# replay: requests.jsonl
# The highest rate that keeps conditions; searched between the ends of `rate`.
# max_rate_with: ["p99_ms <= 20", "error_rate <= 0.1%"]

# Warm-up until steady, at most so many seconds.
warm_up: 10
# A level ends when the 95 % intervals of throughput and of this percentile are within the bound, in per cent,
bound: 5
percentile: 99
# at the latest after so many seconds. Or measure for a fixed time.
max_seconds: 60
# seconds: 30
timeout: 10

# A new version every so many seconds, in the folder of versions that the server watches.
# swap: {every: 10, base_path: models/nann}

# What the server says and uses.
# prometheus: http://127.0.0.1:8501/monitoring/prometheus/metrics
# pid: 1234

# Exit status 1 where one holds.
# fail_if: ["p99_ms > 20", "error_rate > 1%"]
"""


def write_template(path: Path) -> None:
    """Writes a commented configuration.

    Raises:
      NannError: there is a file already, or it cannot be written.
    """
    if path.exists():
        raise NannError(f"{path} exists; name another file, or remove it first")
    with atomic_file(path) as new:
        new.write_text(TEMPLATE)
