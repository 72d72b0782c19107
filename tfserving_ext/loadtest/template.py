"""The configuration that `nann bench --init` writes."""

from pathlib import Path

from tfserving_ext.artifacts import atomic_file
from tfserving_ext.errors import NannError

TEMPLATE = """\
# Run it with `nann bench --config THIS_FILE`. Every field has a default; docs/bench.md describes them.

# grpc://HOST:PORT or http://HOST:PORT of TensorFlow Serving or `nann serve`; or session or function, in this process.
target: grpc://127.0.0.1:8500
# For grpcs:// and https://, which use TLS: the authorities to trust, and the client's certificate and key.
# ca: ca.pem
# cert: client.pem
# key: client.key

models:
  - name: nann
    signature: retrieve
    # With several models: the share of requests for each.
    weight: 1
    # The SavedModel: for targets in process, for its hash in the result, and for the values of made-up requests, which
    # are drawn from its warm-up records.
    path: models/nann/1
    # The source of requests: a JSON or npz file, or converted data; by default they are made up from the signature.
    # input_data: requests.json
    # data: data
    # history_length: 20
    # Ranges for made-up inputs that should not be drawn from the records.
    # inputs:
    #   item_history: {shape: [1, 20], low: 1, high: 28165}
    # How many different requests are made; they are sent in turn.
    requests: 64

# Choose one kind of load. Closed loop: the number of clients, each of which waits for its answer (8, 1:64 doubling,
# 10:50:10).
concurrency: 1:16
# Open loop: requests per second, sent whether earlier ones are answered or not.
# rate: 100:500:100
# arrivals: poisson
# Replay: recorded requests, JSON lines of {"time": seconds, "inputs": {...}}.
# replay: requests.jsonl
# Search for the highest rate that meets conditions, between the ends of `rate`.
# max_rate_with: ["p99_ms <= 20", "error_rate <= 0.1%"]

# The longest warm-up in seconds; it ends earlier once the load is steady.
warm_up: 10
# A level ends once the 95 % intervals of throughput and of this percentile are within this bound, in per cent,
bound: 5
percentile: 99
# and at the latest after this many seconds. With `seconds`, it is measured for a fixed time instead.
max_seconds: 60
# seconds: 30
timeout: 10

# Add a new version every 10 seconds to the folder of versions that the server watches.
# swap: {every: 10, base_path: models/nann}

# The server's metrics, and a process whose processor time and memory are recorded.
# prometheus: http://127.0.0.1:8501/monitoring/prometheus/metrics
# pid: 1234

# Conditions that make the exit status 1.
# fail_if: ["p99_ms > 20", "error_rate > 1%"]
"""


def write_template(path: Path) -> None:
    """Writes a commented configuration file.

    Raises:
      NannError: the file exists already, or cannot be written.
    """
    if path.exists():
        raise NannError(f"{path} exists; name another file, or remove it first")
    with atomic_file(path) as new:
        new.write_text(TEMPLATE)
