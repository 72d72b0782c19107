"""Models and an index saved with version 1 of the op interface load, and answer as they did."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from export_tools import verify
from tests.compatibility.make_version_1 import FOLDER, ITEMS
from tfserving_ext.index import Index

RECORDED = json.loads((FOLDER / "answers.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("version_1")
    with zipfile.ZipFile(FOLDER / "models.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def answered(models):
    """The answers of a fresh process, which holds nothing of the one that made the models."""
    command = [sys.executable, "-m", "tests.compatibility.answering", models, FOLDER / "answers.json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("way", ["loaded", "session"])
@pytest.mark.parametrize("number", range(len(RECORDED)), ids=[request["signature"] for request in RECORDED])
def test_a_model_answers_as_recorded(answered, number, way):
    found, wanted = answered[number][way], RECORDED[number][way]
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        if name == "scores":
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
        else:
            assert found[name] == values, name


def test_the_export_is_verified(models):
    assert verify(models / "export")["coverage"] > 0.9


def test_the_index_is_opened(models):
    index = Index.open(models / "index", checksums=True)
    assert len(index.item_ids) == ITEMS
