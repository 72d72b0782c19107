"""The files of this tree as a clone of it would have them."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tree_files(*folders: str) -> list[Path]:
    """Paths below ROOT that git does not ignore, tracked or not; of these folders, or all."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
    listed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    return [Path(name) for name in filter(None, listed.split("\0")) if (ROOT / name).is_file()]
