"""Users' behaviours: reads them, converts them to sequences, draws training batches and test cases from these."""

from tfserving_ext.extras import require

__all__ = [
    "beam",
    "complete_journey",
    "conversion",
    "layouts",
    "original_format",
    "original_windows",
    "rows",
    "sequences",
    "synth",
]

require("train")
