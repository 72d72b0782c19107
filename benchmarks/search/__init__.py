"""Benchmarks of the searches against their peers, and the peers themselves."""
