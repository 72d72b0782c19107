"""Every command of README, docs/ and the help, on the demo's artefacts: `make test-docs`. First contact, line 26."""

import contextlib
import itertools
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.docs.conftest import Serving
from tests.docs.pages import PYTHON, ROOT, SHELL, Typed, block_commands, blocks, commands
from tests.docs.running import ALLOWED_TO_FAIL, CHAINED, ELSEWHERE, RUNS, bounded, with_ports
from tfserving_ext import cli
from tfserving_ext.errors import NannError

pytestmark = pytest.mark.documented

RUN = [
    command
    for command in commands()
    if command.words[0].removeprefix(".venv/bin/") in RUNS
    and not any(" ".join(command.words).startswith(start) for start in ELSEWHERE)
]


def nann(words: list[str], folder: Path) -> None:
    """Runs it in this process, where TensorFlow is there already; a server in one of its own, as it would not end."""
    if "serve" in words:
        ports = {place for place, word in enumerate(words) if word in ("--port", "--rest-api-port")}
        words = [word for place, word in enumerate(words) if not {place, place - 1} & ports]
        Serving([*words, "--port", "0", "--rest-api-port", "0"], folder).end()
        return
    ran = CliRunner().invoke(cli.app, words)
    if ran.exit_code == 0:
        return
    if isinstance(ran.exception, NannError):
        for part, allowed in ALLOWED_TO_FAIL.items():
            if part in words and allowed in str(ran.exception):
                return
    pytest.fail(f"{' '.join(words)}: exit status {ran.exit_code}\n{ran.output[-2000:]}\n{ran.exception!r}")


def run(command: Typed, folder: Path, server: Serving) -> None:
    program = command.words[0].removeprefix(".venv/bin/")
    if program == "source":
        assert (ROOT / command.words[1]).exists()
    elif program == "curl":
        words = with_ports(list(command.words), server.grpc, server.rest)
        found = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout)
        rows = found["predictions"] if "predictions" in found else [{"item_ids": found["outputs"]["item_ids"][0]}]
        assert [len(row["item_ids"]) for row in rows] == [5] * len(rows), found
    elif command.words[-1] == "--help":
        assert CliRunner().invoke(cli.app, list(command.words[1:])).exit_code == 0
    else:
        _prepared(command, folder)
        nann(with_ports(bounded(command.words), server.grpc, server.rest), folder)


def _prepared(command: Typed, folder: Path) -> None:
    """What a command takes that another one makes."""
    if "original" in command.words:  # Of less than the demo's data: it writes a record a window.
        nann(bounded(("nann", "convert", "parts", "-o", "data")), folder)
    made = {
        "bench.yaml": ["bench", "--init", "bench.yaml"],
        "result.json": [*_BENCH, "-o", "result.json"],
        "before.json": [*_BENCH, "-o", "before.json"],
        "after.json": [*_BENCH, "-o", "after.json"],
        "models/nann/2": ["export", "model", "index", "-o", "models/nann/2"],
        "original": ["convert", "data", "-o", "original", "--layout", "original"],
    }
    first = {"bench.yaml": "--config", "result.json": "report", "models/nann/2": "verify", "original": "original"}
    for name, words in made.items():
        takes = name in command.words and (
            name in ("before.json", "after.json") or _follows(command.words, first[name], name)
        )
        if takes:
            nann(words, folder)


def _follows(words: tuple[str, ...], before: str, name: str) -> bool:
    if name == "original":
        return words[:3] == ("nann", "convert", "original")
    return (before, name) in itertools.pairwise(words)


_BENCH = ["bench", "--target", "session", "--path", "models/nann/1", "--signature", "retrieve", "--seconds", "1"]
_BENCH += ["--warm-up", "0", "--trace", "0"]


@pytest.mark.parametrize("command", [each for each in RUN if each.page not in CHAINED], ids=str)
def test_command(command, workplace, running):
    run(command, workplace, running)


@pytest.mark.parametrize("page", CHAINED)
def test_commands_that_build_on_each_other(page, workplace, running):
    for block in (each for each in blocks() if (each.page, each.language) == (page, SHELL)):
        for command in block_commands(block):
            run(command, workplace, running)


@pytest.mark.parametrize("script", ["own_model.py", "smoke_client.py", "original_smoke_client.py"])
def test_example(script, tmp_path, running):
    """The scripts of examples/, as their first lines say that they are run."""
    words = {
        "own_model.py": [str(tmp_path / "own_model")],
        "smoke_client.py": [f"127.0.0.1:{running.grpc}", "1082185", "1029743"],
        "original_smoke_client.py": [str(running.grpc)],
    }[script]
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / script, *words], capture_output=True, text=True, check=False, timeout=300
    )
    assert ran.returncode == 0, ran.stderr


# What a block of Python needs before it, and in place of what in it, so that it ends soon.
PRELUDE = {
    "docs/searches.md": """
from tfserving_ext.data.sequences import Sequences
from tfserving_ext.index import Index
from tfserving_ext.retrieval import BruteForce, NeuralTopK
from tfserving_ext.training import load_model

model, data = load_model("model").model, Sequences.open("data")
history = data.ids_of(data.cases("test", 1, 50).histories[:2])
features = {"item_history": history, "category_history": history * 0 - 1}
""",
    "docs/bring_your_model.md": """
import keras
import numpy as np
import tensorflow as tf

import tfserving_ext as nann
from examples.rankers import din, shop

table = shop.items()
ranker, requests = din.make(table), shop.requests(table)
users = {name: requests[name] for name in ("country", "history", "hour")}
targets = table["item_id"].to_numpy()[:4]
pairs = users | {name: table[name].to_numpy()[:4] for name in ("item_id", "category", "brand")}
pairs = {name: tf.constant(value.tolist()) for name, value in pairs.items()} | {"price": np.ones([4, 1], np.float32)}
clicks = tf.data.Dataset.from_tensors((pairs, tf.constant([[1.0], [0.0], [1.0], [0.0]])))
""",
    "docs/own_models.md": """
import keras
import numpy as np
import tensorflow as tf

import tfserving_ext as nann

candidates = tf.data.Dataset.from_tensor_slices((["a", "b", "c"], np.eye(3, dtype=np.float32))).batch(2)
user_model = keras.Sequential([keras.layers.StringLookup(vocabulary=["42"]), keras.layers.Embedding(2, 3)])
""",
    "docs/python.md": """
import dataclasses


def quick(usual):
    few = {name: dataclasses.replace(getattr(usual, name), steps=2, batch_size=8) for name in ("training", "start")}
    return dataclasses.replace(usual, **few)


""",
}
SHORTER = {
    "positions_per_user=9)": "positions_per_user=9, max_cases=4)",
    "curve_cases=500": "curve_cases=2, resamples=10",
    'recipe("nann_attention"))': 'quick(recipe("nann_attention")))',
}


@pytest.mark.parametrize(
    "block", [each for each in blocks() if each.language == PYTHON], ids=lambda block: f"{block.page}:{block.line}"
)
def test_python(block, workplace):
    text = block.text
    for part, shorter in SHORTER.items():
        text = text.replace(part, shorter)
    with contextlib.suppress(AttributeError):
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    exec(compile(PRELUDE.get(block.page, "") + text, f"{block.page}:{block.line}", "exec"), {})
