"""What the tests of docker/'s scripts share."""

import pytest


@pytest.fixture
def programs(tmp_path):
    """A folder of programs that print what they were called with; `add(name, more)`."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def add(name, more=""):
        (folder / name).write_text(f'#!/bin/bash\necho {name} "$@"\n{more}\n')
        (folder / name).chmod(0o755)
        return folder

    return add
