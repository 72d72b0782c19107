"""Builds programs and libraries of the C++ tests, where setup.py has compiled most of what they are made of."""

import subprocess
import sys
from pathlib import Path

import tensorflow as tf

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MINOR = ".".join(tf.__version__.split(".")[:2])


def build_targets(*targets: str) -> Path:
    """Builds targets of CMake, and returns the folder that they are built in."""
    folder = ROOT / "build" / f"cmake-tensorflow-{MINOR}"
    options = [f"-DPython3_EXECUTABLE={sys.executable}", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}"]
    for command in (
        [BIN / "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", *options],
        [BIN / "cmake", "--build", folder, "--parallel", "2", "--target", *targets],
    ):
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    return folder
