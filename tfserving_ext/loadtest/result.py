"""Reads result files of `nann bench`."""

from pathlib import Path
from typing import Any

from tfserving_ext.artifacts import read_json
from tfserving_ext.errors import NannError
from tfserving_ext.loadtest.run import FORMAT, FORMAT_VERSION


def read_result(path: Path) -> dict[str, Any]:
    """Reads a result that `nann bench -o` wrote.

    Raises:
      NannError: the file is missing, is something else, or has another format version.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("levels"), list):
        raise NannError(f"{path} is not a result of `nann bench -o`")
    if found.get("format_version") != FORMAT_VERSION:
        raise NannError(
            f"{path} has format_version {found.get('format_version')!r}; this release reads {FORMAT_VERSION}"
        )
    return found
