"""Moves an export to another place, as deployments do."""

import shutil

from export_tools import verify
from tests.export.explained import check_explained
from tfserving_ext.serving.models import load_servable


def move_and_verify(exported, tmp_path):
    """Moves the export to another place and verifies it there."""
    target = tmp_path / "elsewhere" / "3"
    shutil.move(exported, target)
    check_explained(target, tmp_path)
    found = verify(target)
    assert found["coverage"] >= 0.9
    assert found["warm_up_records"] > 10
    return load_servable(target), found
