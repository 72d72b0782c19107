"""Runs a test's module as a program, where what it sets up holds for the whole process."""

import os
import subprocess
import sys
from pathlib import Path


def lines_of(module: str, **environment: str) -> list[str]:
    """Runs `python -m module`, which must succeed, and returns the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.splitlines()
