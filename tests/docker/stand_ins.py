"""Runs docker/'s scripts with stand-ins for the programs that they start."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def script(*command, path=None, **environment):
    where = {"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"}
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=where | environment, timeout=60
    )
