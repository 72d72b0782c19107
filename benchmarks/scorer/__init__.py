"""Benchmarks of reference models, before and after the passes over scorers."""
