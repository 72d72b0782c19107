"""A stage replaces only its own earlier output, so that a wrong `-o` cannot destroy another stage's folder.

First contact, line 5.
"""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tfserving_ext import cli, outputs
from tfserving_ext.artifacts import atomic_folder
from tfserving_ext.data.original_format import write_original
from tfserving_ext.errors import NannError
from tfserving_ext.index import build_index
from tfserving_ext.outputs import check_file_replaceable, check_replaceable
from tfserving_ext.training import extract


def nann(*arguments) -> str:
    """Runs a command, which must fail without a traceback, and returns the text of its error."""
    ran = CliRunner().invoke(cli.app, [str(each) for each in arguments])
    assert isinstance(ran.exception, NannError), ran.exception
    return str(ran.exception)


def held(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.fixture(scope="module")
def stages(world, tmp_path_factory) -> dict[str, Path]:
    """The output folder of each stage, by the stage's name."""
    windows = tmp_path_factory.mktemp("windows") / "windows"
    write_original(world.data, windows)
    return {
        "convert": world.data,
        "convert --layout original": windows,
        "train": world.model,
        "extract": world.embeddings,
        "index": world.index,
        "export": world.saved_model,
    }


def writer(name: str, world, stages) -> list:
    """Returns the command that writes a stage's output, without `-o`."""
    return {
        "convert": ["convert", world.csv, "--min-item-count", 2, "--validation", 0.1, "--test", 0.1],
        "convert original": ["convert", stages["convert --layout original"]],
        "convert --layout original": ["convert", world.data, "--layout", "original"],
        "train": ["train", world.data, "--steps", 1, "--start-steps", 1],
        "extract": ["extract", world.model],
        "index": ["index", world.embeddings],
        "export": ["export", "--no-measure", world.model, world.index],
        "export --reuse-model": ["export", "--reuse-model", world.saved_model, world.index],
        "synth": ["synth", "--rows", 10],
    }[name]


WRITES = {"convert original": "convert", "export --reuse-model": "export"}  # Commands with the output of another stage.
HOLDERS = ("convert", "convert --layout original", "train", "extract", "index", "export")
WRITERS = (*HOLDERS, *WRITES, "synth")
PAIRS = [pair for pair in itertools.product(HOLDERS, WRITERS) if pair[0] != WRITES.get(pair[1], pair[1])]


@pytest.mark.slow
@pytest.mark.parametrize(("holder", "name"), PAIRS)
def test_no_stage_replaces_what_another_wrote(world, stages, tmp_path, holder, name):
    target = shutil.copytree(stages[holder], tmp_path / "target")
    before = held(target)
    error = nann(*writer(name, world, stages), "-o", target)
    assert str(target) in error
    if name == "synth":  # It writes a file.
        assert "is not a regular file" in error
    else:
        assert f"`nann {holder}`" in error
        assert "--force" in error
    assert held(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "synth"])
def test_what_no_stage_wrote_is_left_alone(world, stages, tmp_path, name):
    """A folder of the user's, and a user's file in a folder that the stage itself wrote, stay unchanged."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.tex").write_text("do not lose me")
    (own / "manifest.json").write_text('{"format": "thesis"}')
    mixed = shutil.copytree(stages[WRITES.get(name, name)], tmp_path / "mixed")
    (mixed / "thesis.tex").write_text("do not lose me")
    for target in (own, mixed):
        before = held(target)
        error = nann(*writer(name, world, stages), "-o", target)
        assert "files that no stage wrote, such as " in error
        assert "--force" in error
        assert held(target) == before


@pytest.mark.parametrize("stage", outputs.STAGES, ids=lambda stage: stage.what)
def test_a_stage_replaces_its_own_and_with_force_any_folder(stages, tmp_path, stage):
    for name, folder in stages.items():
        target = shutil.copytree(folder, tmp_path / name)
        if f"(`nann {name}`)" in stage.what:
            check_replaceable(target, stage)
        else:
            with pytest.raises(NannError, match="what another stage wrote"):
                check_replaceable(target, stage)
        with atomic_folder(target, stage, force=True) as new:
            (new / "new").write_text("new")
        assert held(target) == {"new": b"new"}
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty", stage)
    check_replaceable(tmp_path / "nothing", stage)


def test_force_reaches_the_folder(world, tmp_path):
    """Tests the fast functions; the others pass `force` to the same two checks."""
    for number, write in enumerate(
        [
            lambda target, force: extract(world.model, target, force),
            lambda target, force: build_index(np.arange(9), np.ones([9, 2]), target, force=force),
            lambda target, force: write_original(world.data, target, 0, force),
        ]
    ):
        target = tmp_path / str(number)
        target.mkdir()
        (target / "mine").write_text("")
        with pytest.raises(NannError, match=r"such as mine; only .* is replaced"):
            write(target, False)
        write(target, True)
        assert not (target / "mine").exists()


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("name", [name for name in WRITERS if name != "synth"])
def test_an_input_is_no_output_even_by_force(world, stages, tmp_path, name, force):
    command, *inputs = writer(name, world, stages)
    sources = [Path(each) for each in inputs if isinstance(each, Path)]
    before = [held(source) for source in sources]
    for source in sources:
        for target, words in (
            (source, "is the source"),
            (source.parent, "a source, and would be replaced"),
            (source / "deeper", "which would be changed"),
        ):
            if source.is_dir() or target == source.parent:
                assert words in nann(command, *inputs, "-o", target, *force)
    assert [held(source) for source in sources] == before


def test_a_file_and_the_current_folder_are_no_targets(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NannError, match="file is a file; the output must be a new folder"):
        check_replaceable(tmp_path / "file", outputs.INDEX, force=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target in (Path(), Path(".."), tmp_path):
        with pytest.raises(NannError, match="is the current folder or holds it"):
            check_replaceable(target, outputs.INDEX, force=True)


def test_a_damaged_mark_is_no_mark(tmp_path):
    index = build_index(np.arange(9), np.ones([9, 2]), tmp_path / "index").folder
    for text in ("{", "[]", '{"format": "nann-model"}', "\x00", "[" * 100_000):
        (index / "manifest.json").write_text(text)
        with pytest.raises(NannError, match="files that no stage wrote"):
            check_replaceable(index, outputs.INDEX)


# Commands that write files: the command before -o, and the name of the file.
FILES = {
    "evaluate": ("evaluate {data} {model} {index}", "out.json"),
    "report": ("report {root}/none.json", "out.html"),
    "preflight": ("preflight {data} {model} {index}", "out.json"),
    "bench": ("bench --max-seconds 3", "out.json"),
    "bench compare": ("bench compare {root}/none.json {root}/none.json", "out.json"),
    "explain": ("explain {saved_model}", "out.html"),
    "explain svg": ("explain {saved_model}", "out.svg"),
    "synth": ("synth --rows 10", "out.csv"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "content", ["user,item\n1,2\n", '{\n  "format": "nann-index"\n}', "<!doctype html><html></html>"]
)
def test_no_file_of_another_kind_is_replaced(world, tmp_path, name, content):
    line, file = FILES[name]
    (tmp_path / file).write_text(content)
    words = line.format(**{key: value for key, value in vars(world).items() if isinstance(value, Path)}).split()
    error = nann(*words, "-o", tmp_path / file)
    assert "exists and would be replaced" in error
    assert "name another file, or remove it first" in error
    assert (tmp_path / file).read_text() == content


@pytest.mark.parametrize("suffix", [".npz", ".html"])
def test_what_lies_beside_figures_is_not_replaced_for_them(world, tmp_path, suffix):
    (tmp_path / f"out{suffix}").write_text("mine")
    error = nann("evaluate", world.data, world.model, world.index, "-o", tmp_path / "out.json")
    assert f"out{suffix} exists and would be replaced" in error


def test_files_of_the_same_kind_are_replaced(tmp_path):
    for text, mark in (("", "mark"), ("some mark", "mark")):
        (tmp_path / "file").write_text(text)
        check_file_replaceable(tmp_path / "file", "a file", mark)
    (tmp_path / "file").write_text("mine")
    check_file_replaceable(tmp_path / "file", "a file", "", force=True)
