"""Builds and runs the C++ tests of the search core."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.mark.medium
def test_the_core_passes_its_own_tests(tmp_path):
    build = ROOT / "build" / "core_test"
    commands = [
        [BIN / "cmake", "-S", ROOT, "-B", build, "-G", "Ninja", f"-DPython3_EXECUTABLE={sys.executable}",
         f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}"],
        [BIN / "cmake", "--build", build, "--target", "core_tests"],
        [BIN / "ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error"],
    ]  # fmt: skip
    for command in commands:
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
