"""Benchmarks of the local server and of the client of `nann bench`: speed, swaps, soak tests, damaged requests."""
