"""What the search is measured against, one peer a file; `make bench-search` runs them in one harness.

A peer answers the same queries under the same model. It has settings from cheap to dear; the harness takes the first
that reaches the coverage asked for, so that speeds are compared at equal coverage.
"""

from benchmarks.search.peers.contract import Peer, Workload

__all__ = ["Peer", "Workload"]
