import json
import re
import subprocess

import pytest

from tfserving_ext import machine
from tfserving_ext.machine import commit, provenance, versions


def test_a_measurement_says_where_it_was_made():
    found = json.loads(json.dumps(provenance()))
    assert set(found) == {"machine", "versions", "commit", "date"}
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gb"] > 0
    assert {"python", "tensorflow", "numpy", "faiss-cpu"} <= set(found["versions"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])


def test_packages_that_are_not_there_are_left_out(monkeypatch):
    monkeypatch.setattr(machine, "_PACKAGES", ("numpy", "no-such-package"))
    assert set(versions()) == {"python", "numpy"}


def test_the_commit_is_that_of_the_own_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    assert commit() == ""
    git("init")
    git("commit", "--allow-empty", "-m", "others")
    assert commit() == ""  # The checkout is another project's, which does not contain the package.
    git("add", ".")
    git("commit", "-m", "ours")
    git("tag", "v1")
    assert re.fullmatch("[0-9a-f]{12}", commit())
    (package / "__init__.py").write_text("changed = True\n")
    assert re.fullmatch("[0-9a-f]{12}-dirty", commit())


@pytest.mark.parametrize(
    "text", ["", "nothing of note\n", "processor\t: 0\nmodel name\t: A: B\nflags\t\t: fma avx2 x\n"]
)
def test_cpuinfo_of_any_shape(text, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path / "cpuinfo")
    found = machine.machine()
    if "model name" in text:
        assert (found["processor"], found["flags"]) == ("A: B", ["avx2", "fma"])
    else:
        assert found["processor"] and found["flags"] == []
