"""Reads what `nann tune` wrote beside an index: the searches that it measured, and the one that it chose."""

import os
from pathlib import Path
from typing import Any

from tfserving_ext.artifacts import read_json, sha256
from tfserving_ext.errors import NannError

FORMAT, FORMAT_VERSION = "nann-tuning", 1
FILE = "tuning.json"


def read_tuning(index: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the `tuning.json` in an index's folder.

    Raises:
      NannError: there is none, its format is another, or the index was built again afterwards.
    """
    path = Path(index) / FILE
    if not path.exists():
        raise NannError(f"{index} has no {FILE}; make one with `nann tune`")
    tuning = read_json(path)
    found = (tuning.get("format"), tuning.get("format_version")) if isinstance(tuning, dict) else (None, None)
    if found != (FORMAT, FORMAT_VERSION):
        raise NannError(f"{path} has format {found}, this release reads {(FORMAT, FORMAT_VERSION)}")
    if tuning.get("index_manifest_sha256") != sha256(Path(index) / "manifest.json"):
        raise NannError(f"{path} belongs to another build of the index; run `nann tune` again")
    return tuning
