"""Builds and runs the C++ tests of the driver of the passes."""

import subprocess

import pytest

from tests.native.building import build_targets


@pytest.mark.slow
@pytest.mark.medium
def test_what_does_not_verify_is_undone():
    run = subprocess.run(
        [build_targets("run_passes_test") / "run_passes_test"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
