"""The parts of `make bench`: how each is measured, and what docs/performance.md shows. A new part is one entry."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.suite import page_tables


@dataclass(frozen=True)
class Part:
    """One benchmark.

    Attributes:
      name: name of its JSON file.
      title: title of its section in the page.
      command: the command that runs it alone.
      module: the module that `make bench` runs, by `python -m benchmarks.MODULE ... --out FILE`.
      options: options of the module.
      needs_demo: whether it takes `--folder DEMO`.
      figures: what the page calls numbers of the JSON's `summary`, by their names there; empty to show all of them
        under these names.
      tables: makes further tables from the whole JSON.
    """

    name: str
    title: str
    command: str
    module: str
    options: Sequence[str] = ()
    needs_demo: bool = True
    figures: Mapping[str, str] = field(default_factory=dict)
    tables: Callable[[Mapping[str, Any]], str] | None = None


PARTS = (
    Part(
        "search",
        "Search against its peers",
        "make bench-search QUICK=1",
        "search.run",
        ["--quick"],
        figures={
            "coverage": "coverage@200 against brute force, default search, mean over graphs",
            "coverage_lowest": "the same, lowest of the graphs",
            "scored_vs_rounds": "items scored / those of the paper's rounds",
            "qps_vs_rounds": "queries per second / the paper's rounds in our op, at a coverage of 0.98",
            "qps_vs_tf_ops": "queries per second / the same rounds in TensorFlow's ops",
            "qps_vs_usearch": "queries per second / usearch with a metric as documented",
            "qps_vs_usearch_tuned": "queries per second / usearch with a metric tuned by hand",
            "qps_vs_brute_force": "queries per second / brute force",
            "qps_vs_brute_force_1m": "queries per second / brute force, on the large corpus",
            "overhead_share": "part of the default search's time outside the model",
            "recall_lead_vs_rerank": "recall@200 minus that of two-sided candidates reranked in equal time",
            "dot_qps_vs_faiss": "the walk alone, dot product, recall@10 of 0.95: queries per second / Faiss",
            "dot_qps_vs_hnswlib": "the walk alone: queries per second / hnswlib",
            "map_seconds": "seconds to open the large index, every edge checked",
        },
        tables=page_tables.race,
    ),
    Part(
        "scorer",
        "The passes over scorers",
        "make bench-scorer QUICK=1",
        "scorer.run",
        ["--quick"],
        figures={
            "speedup_median": "speed-up of NANN attention, as exported, over XLA without passes, median of batch sizes",
            "speedup_min": "the same, least of batch sizes",
            "lowest_speedup_median": "lowest median speed-up of all models",
            "search_speedup": "speed-up of the demo's whole search",
        },
        tables=page_tables.scorers,
    ),
    Part(
        "convert",
        "Conversion",
        "make bench-convert QUICK=1",
        "data.convert",
        ["--quick"],
        needs_demo=False,
        figures={
            "rows": "rows of the CSV",
            "seconds": "seconds",
            "rows_per_second": "rows a second",
            "memory_bound_gb": "bound on memory, GB",
            "peak_memory_gb": "peak memory, GB",
            "speedup_vs_rowwise": "rows a second / Python row by row",
        },
    ),
    Part(
        "serve",
        "The local server",
        "make bench-serve QUICK=1",
        "serving.run",
        ["--quick"],
        figures={
            "server_efficiency": "requests a second by gRPC / the same model in process, 8 clients",
            "server_per_second": "requests a second by gRPC",
            "swap_requests": "requests while versions are swapped, 32 clients",
            "swap_failed": "failed requests among them",
            "swap_wrong": "answers among them that are not their version's",
            "swap_p99_swap_to_quiet": "p99 around swaps / p99 in quiet time",
        },
    ),
    Part(
        "index_build",
        "Building the index",
        "make bench-index QUICK=1",
        "data.index_build",
        ["--quick"],
        tables=page_tables.index_builds,
    ),
    Part(
        "cold_start",
        "Cold start",
        "make bench-cold QUICK=1",
        "serving.cold_start",
        ["--quick"],
        tables=page_tables.cold_starts,
    ),
    Part(
        "load_client",
        "The client of `nann bench`",
        "make bench-client QUICK=1",
        "serving.load_client",
        ["--quick"],
        needs_demo=False,
        figures={
            "grpc_per_second": "requests a second by gRPC, to a stub that answers at once, 16 clients, on one core",
            "grpc_saturated": "1 if the client said that it was the bottleneck by gRPC",
            "rest_per_second": "requests a second by REST",
            "rest_saturated": "1 if the client said that it was the bottleneck by REST",
            "overhead_ms_at_100": "median latency minus the stub's 5 ms, by gRPC at 100 a second, ms",
            "overhead_ms_at_1000": "the same at 1,000 a second, ms",
        },
    ),
)
