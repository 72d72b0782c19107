"""Every export answers beside an accelerator as it does without one (fake_accelerator.cc).

TensorFlow puts variables on an accelerator where there is one. Until searches were exempt from following their inputs,
an export failed there: "Cannot place the graph because a reference or resource edge connects colocation groups with
incompatible assigned devices".
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from export_tools import Defaults, ExportOptions, export
from tests.export.sources import Ranker, keras_ranker
from tests.native.building import ROOT, build_targets
from tfserving_ext.index import Hnsw, Index, build_index
from tfserving_ext.models import DnnConfig, TwoSidedConfig
from tfserving_ext.training import TrainingConfig, extract, fit

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def library() -> Path:
    """The fake accelerator."""
    return build_targets("fake_accelerator") / "libfake_accelerator.so"


def lines_of(module: str, *arguments: Path | str, **environment: str) -> list[str]:
    """Returns what a program of this folder prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.native.{module}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def answers(library: Path | str, models: list[Path], **environment: str) -> dict:
    """Returns what a fresh process answers."""
    return json.loads(lines_of("beside", library, *models, **environment)[-1])


def check(library: Path, models: list[Path], **environment: str) -> None:
    """Compares answers beside the accelerator with those without one, and checks that the accelerator computed."""
    wanted, found = answers("none", models), answers(library, models, **environment)
    assert wanted.keys() == found.keys()
    for key, without in wanted.items():
        assert found[key]["kernels"] > 0, key
        assert len(found[key]["answers"]) == len(without["answers"]) > 0, key
        for one, other in zip(found[key]["answers"], without["answers"], strict=True):
            assert one.keys() == other.keys()
            for name, value in other.items():
                if np.asarray(value).dtype.kind == "f":
                    np.testing.assert_allclose(one[name], value, rtol=1e-4, atol=1e-5, err_msg=f"{key} {name}")
                else:
                    assert one[name] == value, (key, name)


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> dict[str, Path]:
    """The SavedModels of version 1: an export, and searches whose scorers are rewritten in the server."""
    folder = tmp_path_factory.mktemp("kept")
    with zipfile.ZipFile(ROOT / "tests" / "compatibility" / "version_1" / "models.zip") as archive:
        archive.extractall(folder)
    for name in ("export", "searches"):
        (folder / "served" / name).mkdir(parents=True)
        (folder / name).rename(folder / "served" / name / "1")
    return {name: folder / "served" / name / "1" for name in ("export", "searches")}


@pytest.mark.slow
@pytest.mark.parametrize("copies", ["at once", "late"])
def test_kept_models_answer_beside_an_accelerator(library, kept, copies):
    """With and without the passes, by XLA where it can compile, and with scorers that prepare a user."""
    check(library, list(kept.values()), NANN_FAKE_COPIES=copies)


@pytest.mark.slow
def test_an_export_of_a_trained_model_answers_beside_an_accelerator(library, world):
    check(library, [world.saved_model])


@pytest.mark.parametrize("copies", ["at once", "late"])
def test_scorers_run_where_their_variables_are_and_on_the_devices_that_they_name(library, copies):
    """Each answers 64 users at once, of whom none may get what is computed for another."""
    lines = lines_of("scorers_beside", library, NANN_FAKE_COPIES=copies)
    on_the_cpu = ("constants,", "variables_on_the_cpu,")
    assert len(lines) == 14
    for line in lines:
        where = "the accelerator had nothing to do" if line.startswith(on_the_cpu) else "the accelerator computed"
        assert line.endswith(f": 0 answers are wrong, {where}")


def rule(model, index, target, **options):
    return export(model, index, target, Defaults(k=10), options=ExportOptions(measure=False, **options))


@pytest.mark.slow
def test_every_kind_of_model_answers_beside_an_accelerator(library, world, tmp_path):
    """The reference models, with and without the passes, a Keras archive, and an object with variables of its own."""
    models = []
    for name, config in {"dnn": DnnConfig(), "two_sided": TwoSidedConfig()}.items():
        folder = tmp_path / name
        fit(world.data, folder / "model", TrainingConfig(steps=3, batch_size=16, negatives=10), config)
        extract(folder / "model", folder / "embeddings")
        arrays = (np.load(folder / "embeddings" / f"{array}.npy") for array in ("item_ids", "item_embs"))
        build_index(*arrays, folder / "index", Hnsw(threads=1))
        models.append(rule(folder / "model", folder / "index", folder / "served" / "1"))
    keras_ranker(world, tmp_path / "ranker.keras")
    models.append(rule(tmp_path / "ranker.keras", world.index, tmp_path / "keras" / "1"))
    models.append(rule(Ranker(Index.open(world.index)), world.index, tmp_path / "ranker" / "1"))
    models.append(rule(world.model, world.index, tmp_path / "unchanged" / "1", rewrite=False))
    models.append(rule(world.model, world.index, tmp_path / "plain" / "1", fold_items=False))
    check(library, models)
