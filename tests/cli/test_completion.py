"""Completion in a shell: installed by one option, and the commands that it offers."""

import os
import subprocess
import sys
from pathlib import Path

NANN = Path(sys.executable).with_name("nann")


def nann(arguments, home, **variables):
    """Runs `nann` in a Bash, by which Typer tells what to complete for."""
    done = subprocess.run(
        ["bash", "-c", f"{NANN} {arguments}; true"],
        capture_output=True,
        text=True,
        env={**os.environ, "HOME": str(home), **variables},
        check=True,
    )
    return done.stdout


def test_the_script_is_shown(tmp_path):
    shown = nann("--show-completion", tmp_path)
    assert "_NANN_COMPLETE=complete_bash" in shown and "complete -o default -F _nann_completion nann" in shown
    assert not list(tmp_path.iterdir())


def test_the_script_is_installed_and_offers_commands_and_options(tmp_path):
    nann("--install-completion", tmp_path)
    script = tmp_path / ".bash_completions" / "nann.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text()
    asked = {"_NANN_COMPLETE": "complete_bash"}
    offered = nann("", tmp_path, COMP_WORDS="nann ex", COMP_CWORD="1", **asked)
    assert offered.split() == ["extract", "export", "explain"]
    assert "--fold-items" in nann("", tmp_path, COMP_WORDS="nann export --fold", COMP_CWORD="2", **asked)
