"""`make bench` keeps its results, names the parts that failed, and resumes where a run of the same code ended."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.suite import run as module
from benchmarks.suite.parts import PARTS, Part
from benchmarks.suite.run import Suite
from tfserving_ext.artifacts import read_json, write_json
from tfserving_ext.errors import NannError

FIRST = Part("first", "The first", "make first", "first", ["--quick"])
SECOND = Part("second", "The second", "make second", "second", needs_demo=False)
TWO = (FIRST, SECOND)
ORIGIN = {"machine": {"cores": 2}, "versions": {"python": "3.11"}, "commit": "0123456789ab"}


@pytest.fixture
def ran(monkeypatch):
    """The names of the parts that were run, in order; parts whose names are put into `ran.failing` fail."""

    class Ran(list):
        def __init__(self):
            super().__init__()
            self.failing = set()

    ran = Ran()

    def run(command, check):
        assert not check
        name = "demo" if command[1] == "demo" else command[2].removeprefix("benchmarks.")
        ran.append(name)
        if name in ran.failing:
            return subprocess.CompletedProcess(command, 3)
        if name == "demo":
            make_demo(Path(command[command.index("--folder") + 1]))
        else:
            assert command[:2] == [sys.executable, "-m"]
            assert ("--folder" in command, "--quick" in command) == (
                (True, True) if name == "first" else (False, False)
            )
            write_json(command[command.index("--out") + 1], {**ORIGIN, "summary": {"runs": len(ran)}})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(module.subprocess, "run", run)
    monkeypatch.setattr(module, "provenance", lambda: {**ORIGIN, "date": "2030-01-02T03:04:05+00:00"})
    return ran


def make_demo(folder):
    search = {"coverage": 0.99, "scored_fraction": 0.05}
    figures = {"k": 200, "items": 1000, "recall_all": 0.3, "searches": {"surrogate": search}, "cases": 5}
    (folder / "models" / "nann" / "1").mkdir(parents=True)
    write_json(folder / "evaluation.json", figures)
    (folder / "models" / "nann" / "1" / "saved_model.pb").touch()


def run(folder, **options):
    suite = Suite(folder / "demo", folder / "out", TWO, **options)
    suite.run()
    suite.publish(folder / "results", folder / "performance.md")
    return suite


def test_a_fresh_clone_gets_its_demo_its_figures_and_its_page(tmp_path, ran, capsys):
    suite = run(tmp_path)
    assert ran == ["demo", "first", "second"]
    assert suite.failed == []
    assert "[2/3] first: The first" in capsys.readouterr().out
    assert [line.split()[0] for line in suite.summary()] == ["first", "second"]
    for folder in ("out", "results"):
        assert {path.name for path in (tmp_path / folder).iterdir()} == {"run.json", "first.json", "second.json"}
    page = (tmp_path / "performance.md").read_text()
    assert "1,000 products" in page and "## The second" in page and "Not measured" not in page


def test_after_a_whole_run_all_is_measured_again_but_the_demo(tmp_path, ran):
    run(tmp_path)
    ran.clear()
    run(tmp_path)
    assert ran == ["first", "second"]


def test_a_part_that_fails_is_named_and_the_next_run_measures_it_alone(tmp_path, ran, capsys):
    ran.failing = {"first"}
    suite = run(tmp_path)
    assert suite.failed == ["first"]
    assert suite.summary()[0] == "first        FAILED"
    assert "failed after 0 s with exit status 3" in capsys.readouterr().out
    page = (tmp_path / "performance.md").read_text()
    assert "- The first: `make first`" in page and "## The second" in page
    ran.clear()
    ran.failing = set()
    suite = run(tmp_path)
    assert (ran, suite.failed) == (["first"], [])
    assert "Not measured" not in (tmp_path / "performance.md").read_text()


@pytest.mark.parametrize(
    "changed", [{"commit": "ba9876543210"}, {"commit": "0123456789ab-dirty"}, {"commit": ""}, {"machine": {"cores": 4}}]
)
def test_other_code_or_another_machine_measures_all(tmp_path, ran, monkeypatch, changed):
    monkeypatch.setattr(module, "provenance", lambda: {**ORIGIN, **changed} if "commit" in changed else ORIGIN)
    ran.failing = {"second"}
    run(tmp_path)
    ran.clear()
    monkeypatch.setattr(module, "provenance", lambda: {**ORIGIN, **changed})
    if changed == {"commit": "ba9876543210"}:  # A clean commit, but another one than before.
        monkeypatch.setattr(module, "provenance", lambda: ORIGIN)
    run(tmp_path)
    assert ran == ["first", "second"]


def test_again_and_only(tmp_path, ran):
    ran.failing = {"second"}
    run(tmp_path)
    ran.failing = set()
    ran.clear()
    run(tmp_path, again=True)
    assert ran == ["first", "second"]
    ran.clear()
    before = read_json(tmp_path / "out" / "second.json")
    suite = run(tmp_path, only=["first"])
    assert ran == ["first"]
    assert read_json(tmp_path / "out" / "second.json") == before
    assert [line.split()[0] for line in suite.summary()] == ["first", "second"]
    with pytest.raises(NannError, match="there is no part third; the parts are first, second"):
        run(tmp_path, only=["third"])


def test_without_a_demo_the_rest_is_measured_and_nothing_old_is_shown(tmp_path, ran):
    (tmp_path / "out").mkdir()
    write_json(tmp_path / "out" / "first.json", {"summary": {"old": 1}})
    (tmp_path / "out" / "run.json").write_text("{")
    ran.failing = {"demo"}
    suite = run(tmp_path)
    assert (ran, suite.failed) == (["demo", "second"], ["demo", "first"])
    assert not (tmp_path / "out" / "first.json").exists()
    assert "- The first" in (tmp_path / "performance.md").read_text()


def test_figures_that_make_no_page_replace_nothing(tmp_path, ran, monkeypatch):
    run(tmp_path)
    before = {path: path.read_bytes() for path in (*(tmp_path / "results").iterdir(), tmp_path / "performance.md")}
    suite = Suite(tmp_path / "demo", tmp_path / "out", TWO)
    (tmp_path / "out" / "second.json").write_text(json.dumps({"figures": 1}))
    with pytest.raises(NannError, match=r"second\.json is not what `make second` writes"):
        suite.publish(tmp_path / "results", tmp_path / "performance.md")
    assert {path: path.read_bytes() for path in before} == before


def test_every_part_can_be_run():
    assert len({part.name for part in PARTS}) == len(PARTS)
    for part in PARTS:
        assert importlib.util.find_spec(f"benchmarks.{part.module}")
        target = part.command.split()[1]
        assert f"\n{target}:" in (Path(module.__file__).parents[2] / "Makefile").read_text()
