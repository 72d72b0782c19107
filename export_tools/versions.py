"""The versions of an exported model: numbered folders, as TensorFlow Serving takes them."""

import os
from pathlib import Path

from tfserving_ext.errors import NannError


def newest_version(exported: str | os.PathLike[str]) -> Path:
    """Returns the folder of an exported model's newest version; `exported` itself if it is one.

    Raises:
      NannError: there is no version.
    """
    exported = Path(exported)
    if (exported / "saved_model.pb").exists():
        return exported
    versions = versions_of(exported)
    if not versions:
        raise NannError(f"{exported} has no version, such as {exported / '1'}: make one with `nann export`")
    return versions[-1]


def versions_of(base: Path) -> list[Path]:
    """Returns the folders of a model's versions, oldest first."""
    if not base.is_dir():
        return []
    found = [path for path in base.iterdir() if path.name.isdecimal() and (path / "saved_model.pb").exists()]
    return sorted(found, key=lambda path: int(path.name))
