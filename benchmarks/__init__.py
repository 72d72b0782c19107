"""Benchmarks. Each is a command, run from the repository's root, that prints its numbers and writes them as raw JSON.

The last line printed is a summary in JSON.
"""
