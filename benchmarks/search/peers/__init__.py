"""The peers with which the searches are compared, one per file; `make bench-search` runs all of them in one harness.

A peer answers the same queries under the same model. It has settings from cheap to expensive, and the harness uses the
fastest that reaches the required coverage, so that speeds are compared at equal coverage.
"""

from benchmarks.search.peers.peer import Peer, Workload

__all__ = ["Peer", "Workload"]
