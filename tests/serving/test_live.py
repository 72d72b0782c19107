"""A server follows updates: its answers, what `nann upsert` and `nann delete` say, and what damage does."""

import shutil
import time

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tfserving_ext import cli
from tfserving_ext.serving import Client, LocalServer, ServerOptions


@pytest.fixture
def followed(world, tmp_path, monkeypatch):
    """A server of a copy of the small world's export, which follows a folder."""
    monkeypatch.setenv("NANN_DELTAS", "")  # Restored in the end: the server sets it.
    shutil.copytree(world.saved_model, tmp_path / "models" / "1")
    options = ServerOptions(grpc_port=0, rest_port=0, deltas=tmp_path / "deltas")
    with LocalServer({"nann": tmp_path / "models"}, options) as server:
        yield server


def ask(server, world, sequence: int) -> np.ndarray:
    """Returns the ids that are answered once the server has read an update."""
    history = world.sequences.ids_of(world.sequences.cases("test").histories[:1])
    with Client(f"127.0.0.1:{server.grpc_port}", "nann") as client:
        for _ in range(500):
            found = client.predict("retrieve", {"item_history": history})
            if found["index_sequence"][0] >= sequence:
                return found["item_ids"][0]
            time.sleep(0.02)
    raise AssertionError(f"update {sequence} was not read")


def run(*words) -> str:
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def metric(name: str) -> float:
    from tfserving_ext.serving.metrics import Metrics

    (line,) = [line for line in Metrics().text().splitlines() if line.startswith(f":nann:{name}{{")]
    return float(line.rsplit(" ", 1)[1])


def test_updates_are_answered_and_damage_is_told(followed, world, tmp_path, capfd):
    before = ask(followed, world, 0)
    models, deltas = tmp_path / "models", tmp_path / "deltas"
    assert "update 1 of" in run("delete", models, deltas, *before[:3])
    after = ask(followed, world, 1)
    assert not set(before[:3]) & set(after)
    # A new item with the embedding of the best one is answered in its place.
    ids, embeddings = (np.load(world.embeddings / f"{name}.npy") for name in ("item_ids", "item_embs"))
    best = embeddings[ids == before[0]][0].tolist()
    pl.DataFrame({"sku": [10**9], "vector": [best]}).write_parquet(tmp_path / "items.parquet")
    said = run("upsert", models, deltas, tmp_path / "items.parquet", "--item-id", "sku", "--embedding", "vector")
    assert "1 items: update 2 of" in said
    assert 10**9 in ask(followed, world, 2)
    assert [metric(name) for name in ("index_sequence", "unindexed_items", "updates_stopped")] == [2, 1, 0]
    (folder,) = deltas.iterdir()
    (folder / "000000000003.seg").write_bytes(b"damaged")
    for _ in range(500):
        if metric("updates_stopped"):
            break
        time.sleep(0.02)
    assert metric("updates_stopped") == 1
    assert 10**9 in ask(followed, world, 2), "searches go on"
    assert "000000000003.seg: it does not begin with NANNDLTA" in capfd.readouterr().err
    (folder / "000000000003.seg").unlink()
    pl.DataFrame({"item_id": [10**9]}).write_csv(tmp_path / "gone.csv")
    assert "1 ids: update 3 of" in run("delete", models, deltas, tmp_path / "gone.csv")
    assert 10**9 not in ask(followed, world, 3)
    assert metric("updates_stopped") == 0
