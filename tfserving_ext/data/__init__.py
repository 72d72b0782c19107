"""Behaviours of users: reading them, converting them to sequences, drawing training batches and test cases."""

from tfserving_ext.extras import require

__all__ = [
    "beam",
    "complete_journey",
    "convert",
    "original_format",
    "original_windows",
    "rows",
    "sequences",
    "synth",
]

require("train")
