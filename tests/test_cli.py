"""The command line as users see it: every stage, its help, and its errors without tracebacks."""

import contextlib
import gzip
import io
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.export.sources import SIGNATURES
from tfserving_ext import cli

COMMANDS = [
    "convert",
    "train",
    "extract",
    "index",
    "evaluate",
    "export",
    "verify",
    "inspect",
    "explain",
    "serve",
    "smoke",
    "demo",
]
NANN = Path(sys.executable).with_name("nann")


def nann(*arguments):
    """Runs the command line in this process, which has loaded TensorFlow; returns the same as `subprocess.run`."""
    said, complained, status = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
    ):
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["nann", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as ending:
            status = ending.code or 0
    return subprocess.CompletedProcess(arguments, status, said.getvalue(), complained.getvalue())


def nann_process(*arguments, **options):
    """Runs the command line in a process of its own."""
    return subprocess.run([NANN, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def refused(run, *words):
    """Checks that a run failed with one clear line that contains these words."""
    assert run.returncode != 0
    assert "Traceback" not in run.stderr + run.stdout
    for word in words:
        assert str(word) in run.stderr.replace("\n", " "), run.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command):
    run = nann(command, "--help")
    assert run.returncode == 0
    assert f"Example: nann {command}" in run.stdout


def test_help_lists_every_command():
    """Runs the installed command."""
    text = nann_process("--help", env=os.environ | {"COLUMNS": "200"}).stdout
    assert all(f" {command} " in text for command in COMMANDS)


@pytest.mark.slow
def test_the_stages_by_hand(world, tmp_path):
    data, model, embeddings, index = (tmp_path / name for name in ("data", "model", "embeddings", "index"))
    saved_model = tmp_path / "models" / "nann" / "1"
    for arguments in [
        ("convert", world.csv, "-o", data, "--min-item-count", 2, "--validation", 0.1, "--test", "20"),
        ("train", data, "-o", model, "--steps", 3, "--batch-size", 16, "--negatives", 10, "--start-steps", 2),
        ("extract", model, "-o", embeddings),
        ("index", embeddings, "-o", index),
        ("evaluate", data, model, index, "-o", tmp_path / "figures.json", "-k", 20, "--max-cases", 5),
        ("evaluate", data, model, index, "-k", 20, "--max-cases", 5, "--brute-force"),
        ("export", model, index, "-o", saved_model),
        ("verify", saved_model),
        ("inspect", saved_model),
        ("export", "--reuse-model", saved_model, index, "-o", saved_model.with_name("2")),
    ]:
        run = nann(*arguments)
        assert run.returncode == 0, run.stderr
        assert arguments[0] in run.stdout
        if arguments[0] == "inspect":
            named = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("signature ")]
            assert named == sorted(SIGNATURES)
    assert (tmp_path / "figures.json").exists()


def _truncated(path):
    whole = gzip.compress(b"1,10,3,buy,1\n" * 10_000)
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("missing.csv", lambda path: None, "missing.csv"),
        ("column.csv", lambda path: path.write_text("1,10,3,buy,1\n1,10,buy,1\n"), "line 2"),
        ("id.csv", lambda path: path.write_text("1,10,3,buy,1\n1,apple,3,buy,1\n"), "apple"),
        ("empty.csv", lambda path: path.write_text(""), "empty"),
        ("cut.csv.gz", _truncated, "cut.csv.gz"),
    ],
)
def test_convert_refuses_bad_csv(tmp_path, name, make, words):
    make(tmp_path / name)
    refused(nann("convert", tmp_path / name, "-o", tmp_path / "data"), "error:", words)
    assert not (tmp_path / "data").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {name}


def test_convert_writes_and_reads_the_originals_layout(world, tmp_path):
    original, back = tmp_path / "original", tmp_path / "back"
    ran = nann("convert", world.data, "-o", original, "--layout", "original")
    assert "training windows" in ran.stdout
    assert "histories" not in ran.stderr
    assert f"{world.sequences.num_items:,} items" in nann("convert", original, "-o", back).stdout
    refused(nann("convert", original, "-o", back, "--min-item-count", 9), "min_item_count=9", "one source")
    refused(nann("convert", world.csv, "-o", tmp_path / "new", "--layout", "original"), "is not converted data")


def test_an_output_folder_of_somebody_else_is_left_alone(world, tmp_path):
    (tmp_path / "thesis.tex").write_text("do not lose me")
    refused(nann("convert", world.csv, "-o", tmp_path), "holds files that no stage wrote")
    assert (tmp_path / "thesis.tex").read_text() == "do not lose me"


@pytest.mark.slow
def test_no_space_leaves_nothing_half_written(world, tmp_path):
    """A file size limit makes writes fail, as on a full disk."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    for arguments in [
        ("convert", world.csv, "--min-item-count", 2, "--validation", 0.1, "--test", 0.1),
        ("extract", world.model),
        ("index", world.embeddings),
        ("export", world.model, world.index),
    ]:
        refused(nann_process(*arguments, "-o", tmp_path / "out", preexec_fn=limit), "error:")
        assert list(tmp_path.iterdir()) == []


def test_index_refuses_bad_embeddings(world, tmp_path):
    folder = shutil.copytree(world.embeddings, tmp_path / "embeddings")
    embeddings = np.load(folder / "item_embs.npy")
    np.save(folder / "item_embs.npy", embeddings[:-1])
    refused(nann("index", folder, "-o", tmp_path / "index"), "item ids but", "item embeddings")
    embeddings[5, 3] = np.nan
    np.save(folder / "item_embs.npy", embeddings)
    refused(nann("index", folder, "-o", tmp_path / "index"), "row 5", "NaN")
    os.truncate(folder / "item_embs.npy", 1000)
    refused(nann("index", folder, "-o", tmp_path / "index"), "item_embs.npy")
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "{data}", "{model}", "{broken}"),
        ("export", "{model}", "{broken}", "-o", "{out}"),
    ],
)
def test_a_broken_index_is_refused_by_file_and_position(world, tmp_path, arguments):
    broken = shutil.copytree(world.index, tmp_path / "broken")
    neighbors = np.fromfile(broken / "neighbors_0.bin", np.int32)
    neighbors[17] = 10_000_000
    neighbors.tofile(broken / "neighbors_0.bin")
    places = {"data": world.data, "model": world.model, "broken": broken, "out": tmp_path / "out"}
    run = nann(*(part.format(**places) for part in arguments))
    refused(run, "neighbors_0.bin")
    assert not (tmp_path / "out").exists()


def test_bad_parameters(world):
    refused(nann("evaluate", world.data, world.model, world.index, "--ef", "1,two"), "'1,two'")
    refused(nann("evaluate", world.data, world.model, world.index, "--ef", "1,2"), "the index needs 3 values")
    refused(nann("evaluate", world.data, world.model, world.index, "-k", 5_000_000), "k is 5000000, allowed are 1 to")
    refused(nann("export", world.model, world.index, "--pool", 5_000_000), "pool is 5000000, allowed are 1 to")
    refused(nann("train", world.model, "-o", "model"), "is not converted data")
    refused(nann("convert", world.csv, "--test", "many"), "'many'")
    refused(nann("nonsense"), "No such command")


@pytest.mark.medium
def test_the_command_line_shows_that_sentence(tmp_path):
    script = (
        "import tensorflow as tf, sys\n"
        "tf.__version__ = '2.19.1'\n"
        "from tfserving_ext import cli\n"
        "sys.argv = ['nann', 'evaluate', 'data', 'model', 'index']\n"
        "cli.main()\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    refused(run, "TensorFlow 2.19.1 is installed")
