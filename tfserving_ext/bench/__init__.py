"""Benchmarks: each a command that prints its numbers, JSON on its last line, and writes raw JSON."""
