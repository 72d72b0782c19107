"""Filters the standard error of this project's programs."""

import re

# TensorFlow 2.21 logs a few lines while it is imported, whatever TF_CPP_MIN_LOG_LEVEL says.
_OF_TENSORFLOW = re.compile(
    r"WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} \d\d:\d\d:|To enable the following instructions"
)


def without_tensorflow_s(text: str) -> str:
    """Returns a program's standard error without the lines that TensorFlow logs."""
    return "".join(line for line in text.splitlines(keepends=True) if not _OF_TENSORFLOW.match(line))
