import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import polars as pl
import pytest
import tensorflow as tf

from examples.rankers import din, shop
from tests.docs.pages import ROOT
from tests.docs.running import DEMO, MODULE, RANKERS, model_config
from tfserving_ext.training import TWO_SIDED, fit, recipe

NANN = Path(sys.executable).with_name("nann")
SERVES = re.compile(r"gRPC 127\.0\.0\.1:(\d+), REST http://127\.0\.0\.1:(\d+)/")
TLS = ROOT / "tests" / "serving" / "tls"


class Serving:
    """A `nann serve` in a process of its own, with the ports that it says."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [NANN, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "COLUMNS": "400"},
        )  # fmt: skip
        said = ""
        while self._process.poll() is None and not (found := SERVES.search(said)):
            said += self._process.stdout.readline()
        found = SERVES.search(said)
        assert found, said + self._process.stderr.read()
        self.grpc, self.rest = int(found[1]), int(found[2])

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        _, errors = self._process.communicate(timeout=60)
        assert self._process.returncode == 0, errors


class _HalfPlus(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def run(self, x):
        return {"y": x / 2 + 2}


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server of the demo's export, and of a model that is none of ours, called as the pages call them."""
    folder = tmp_path_factory.mktemp("server")
    half_plus = _HalfPlus()
    signatures = {"serving_default": half_plus.run}
    tf.saved_model.save(half_plus, str(folder / "my_model" / "1"), signatures=signatures)
    models = {"nann": DEMO / "models" / "nann", "my_model": folder / "my_model"}
    (folder / "models.config").write_text(model_config(models))
    server = Serving(["serve", "--model_config_file", "models.config", "--port", "0", "--rest_api_port", "0"], folder)
    yield server
    server.end()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages' commands take, the demo's artefacts by their usual names."""
    assert (DEMO / "evaluation.json").exists(), "test-docs needs the demo's artefacts: run make demo first"
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("data", "model", "embeddings", "index", "models"):
        shutil.copytree(DEMO / name, folder / name)
    if (DEMO / "two_sided").exists():
        shutil.copytree(DEMO / "two_sided", folder / "two_sided")
    else:  # A demo that reads the checkpoint trains no start; the commands need one, however good.
        fit(folder / "data", folder / "two_sided", replace(TWO_SIDED, steps=2), recipe("nann_attention").started())
    csv = DEMO / "purchases" / "UserBehavior.csv"
    shutil.copy(csv, folder / "UserBehavior.csv")
    lines = csv.read_text().splitlines(keepends=True)[:60_000]
    with zipfile.ZipFile(folder / "UserBehavior.csv.zip", "w") as archive:
        archive.writestr("UserBehavior.csv", "".join(_within(lines)))
    (folder / "parts").mkdir()
    (folder / "parts" / "1.csv").write_text("".join(lines[:30_000]))
    columns = {"user_id": int, "item_id": int, "category_id": int, "behavior_type": str, "timestamp": int}
    rows = [line.strip().split(",") for line in lines[30_000:]]
    values = {name: [kind(row[place]) for row in rows] for place, (name, kind) in enumerate(columns.items())}
    pl.DataFrame(values).write_parquet(folder / "more.parquet")
    _write_other_layouts(folder, [line.split(",") for line in lines])
    requests = [{"item_history": [1082185, 1029743], "next": [995242]}]
    (folder / "requests.json").write_text(json.dumps(requests))
    (folder / "visits.json").write_text(json.dumps([{**request, "country": "FR"} for request in requests]))
    pl.DataFrame(requests).write_parquet(folder / "requests.parquet")
    pl.DataFrame({"user_id": [1], "item_history": [[1082185, 1029743]]}).write_parquet(folder / "users.parquet")
    shutil.copy(DEMO / "purchases" / "items.csv", folder / "products.csv")
    (folder / "purchases").mkdir()
    shutil.copy(DEMO / "purchases" / "items.csv", folder / "purchases")
    for name in ("plain", "adversarial", "epsilon_0.1", "evaluation"):
        for kind in ("json", "npz"):
            shutil.copy(DEMO / f"evaluation.{kind}", folder / f"{name}.{kind}")
    shutil.copy(ROOT / "docker" / "monitoring.config", folder / "monitoring.config")
    (folder / "models.config").write_text(model_config({"nann": DEMO / "models" / "nann"}))
    keys = {name: (TLS / f"server.{end}").read_text() for name, end in (("server_key", "key"), ("server_cert", "pem"))}
    (folder / "ssl.config").write_text("".join(f"{name}: {_quoted(text)}\n" for name, text in keys.items()))
    width = np.load(DEMO / "embeddings" / "item_embs.npy", mmap_mode="r").shape[1]
    _items(folder).write_parquet(folder / "items.parquet")
    (folder / "my_module.py").write_text(MODULE)
    (folder / "my_models.py").write_text(RANKERS % width)
    for name, feature in (("ranker", "age"), ("renamed", "user/age")):  # A slash must be renamed by --feature.
        _ranker(width, feature).save(folder / f"{name}.keras")
    table = shop.items()
    table.write_parquet(folder / "items.parquet")
    din.make(table).save(folder / "whole.keras")
    return folder


def _write_other_layouts(folder: Path, rows: list[list[str]]) -> None:
    """Writes the files that docs/data.md converts by a preset or by columns."""
    ratings = ["userId,movieId,rating,timestamp", *(f"{row[0]},{row[1]},4.5,{row[4].strip()}" for row in rows)]
    with zipfile.ZipFile(folder / "ml-25m.zip", "w") as archive:
        archive.writestr("ml-25m/ratings.csv", "\n".join(ratings) + "\n")
    clicks = ({"visitor": f"v{row[0]}", "sku": f"s{row[1]}", "ts": int(row[4]), "kind": "view"} for row in rows)
    (folder / "clicks.jsonl").write_text("".join(json.dumps(click) + "\n" for click in clicks))
    (folder / "log.tsv").write_text("".join(f"{row[0]}\t{row[4].strip()}\t{row[1]}\n" for row in rows))


def _items(folder: Path) -> pl.DataFrame:
    """Made-up attributes of the demo's items."""
    ids = np.load(folder / "embeddings" / "item_ids.npy")
    tags = [["vegan"] if item % 5 == 0 else [] for item in ids]
    columns = {"category": ids % 31, "price": ids % 97 / 4, "in_stock": ids % 3 > 0, "brand": ids % 7, "tags": tags}
    return pl.DataFrame({"item_id": ids, **columns}).with_columns(pl.col("brand").cast(pl.String))


def _ranker(width: int, feature: str) -> keras.Model:
    history, other = keras.Input([None], name="item_history", dtype="int64"), keras.Input([1], name="other")
    item = keras.Input([width], name="item_embedding")
    vectors = keras.layers.Embedding(1000, 8)(keras.ops.mod(keras.ops.abs(history), 1000))
    user = keras.layers.GlobalAveragePooling1D()(vectors)
    hidden = keras.layers.Dense(16, activation="relu")(keras.layers.Concatenate()([user, other, item]))
    inputs = {"item_history": history, feature: other, "item_embedding": item}
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


def _within(lines: list[str]) -> list[str]:
    """The rows with times in the nine days that UserBehavior is of."""
    first = 1_511_539_200
    return [",".join([*line.split(",")[:4], f"{first + 7 * number}\n"]) for number, line in enumerate(lines)]


def _quoted(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'


@pytest.fixture
def workplace(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the inputs; files are linked, which no stage notices: it replaces them."""
    folder = tmp_path / "here"
    shutil.copytree(inputs, folder, copy_function=os.link)
    (folder / "demo").symlink_to(folder)  # Where the pages show the artefacts in the project itself.
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(folder))
    tf.keras.backend.clear_session()
    return folder
