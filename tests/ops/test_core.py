"""Builds and runs the C++ test of the search core, which needs no TensorFlow at run time."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def test_the_core_passes_its_own_test(tmp_path):
    build = ROOT / "build" / "core_test"
    commands = [
        [BIN / "cmake", "-S", ROOT, "-B", build, "-G", "Ninja", f"-DPython3_EXECUTABLE={sys.executable}",
         f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}"],
        [BIN / "cmake", "--build", build, "--target", "search_test"],
        [build / "search_test"],
    ]  # fmt: skip
    for command in commands:
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
