"""Refuses paths on remote file systems, which Python's functions would take for local folders with strange names."""

import os
import re

from tfserving_ext.errors import NannError

# One slash, because pathlib turns two into one.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_local(path: str | os.PathLike[str]) -> None:
    """Checks that a path is on the local file system.

    Raises:
      NannError: the path is a URL, such as s3://bucket/model.
    """
    text = os.fspath(path)
    if _REMOTE.match(text):
        scheme, _, rest = text.partition(":")
        raise NannError(
            f"{scheme}://{rest.lstrip('/')} is not on a local file system, where nann reads and writes; copy or mount "
            "it and give that folder. TensorFlow Serving reads an export from there by itself (docs/operations.md)"
        )
