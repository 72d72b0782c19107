"""Benchmarks of conversion and of building indexes, at scale."""
