"""Paths of remote file systems, which Python's own functions take for folders of strange names."""

import os
import re

from tfserving_ext.errors import NannError

# pathlib makes one slash of two.
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def check_local(path: str | os.PathLike[str]) -> None:
    """Checks that a path is of the local file system.

    Raises:
      NannError: it is a URL, such as s3://bucket/model.
    """
    text = os.fspath(path)
    if _REMOTE.match(text):
        scheme, _, rest = text.partition(":")
        raise NannError(
            f"{scheme}://{rest.lstrip('/')} is not on a local file system, where nann reads and writes; copy or mount "
            "it and give that folder. TensorFlow Serving reads an export from there by itself (docs/operations.md)"
        )
