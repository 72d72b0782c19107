import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from tfserving_ext.cli import app
from tfserving_ext.errors import NannError
from tfserving_ext.index import Index
from tfserving_ext.index.format import Layer, write_index
from tfserving_ext.index.graph import Graph


def nann(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, NannError | SystemExit):
        raise result.exception
    return result


def test_evaluate_then_report(world, tmp_path, capsys):
    figures = tmp_path / "figures.json"
    evaluate = ("evaluate", world.data, world.model, world.index, "-k", 20, "--max-cases", 6)
    assert nann(*evaluate, "-o", figures, "--split", "validation", "--search", "rounds", "--no-html").exit_code == 0
    told = json.loads(figures.read_text())
    assert (told["split"], list(told["searches"])) == ("validation", ["rounds"])
    assert "curves" not in told
    assert not (tmp_path / "figures.html").exists()
    assert nann("report", figures, figures, "-o", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "page.html").read_text().count("<svg") > 1
    assert nann(*evaluate, "--search", "nonsense").exit_code == 2
    with pytest.raises(SystemExit):
        raise nann(*evaluate, "--split", "train").exception


def test_tune_prints_the_options_that_it_chose(world, tmp_path, monkeypatch):
    from tfserving_ext.retrieval import BestFirst

    monkeypatch.setattr(
        "tfserving_ext.evaluation.tune.grid", lambda k, layers, features: [BestFirst(4, k), BestFirst(16, 3 * k)]
    )
    index = shutil.copytree(world.index, tmp_path / "index")
    result = nann("tune", world.data, world.model, index, "-k", 20, "--max-cases", 6, "--coverage", 0.01)
    assert result.exit_code == 0
    chosen = json.loads((index / "tuning.json").read_text())["chosen"]["parameters"]
    assert chosen["pool"] in (20, 60)
    failed = nann("tune", world.data, world.model, index, "-k", 20, "--max-cases", 6, "--coverage", 2)
    assert "coverage is 2; it must be above 0 and at most 1" in str(failed.exception)


def test_preflight_fails_where_a_check_does(world, tmp_path):
    preflight = ("preflight", world.data, world.model)
    options = ("-k", 20, "--max-cases", 6, "-o", tmp_path / "verdict.json")
    assert nann(*preflight, world.index, *options).exit_code == 0
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] != "FAIL"
    index = Index.open(world.index)
    alone = Layer(np.zeros(len(index.item_ids) + 1, np.int64), np.zeros(0, np.int32))
    write_index(
        tmp_path / "broken",
        index.item_ids,
        index.embeddings(),
        Graph(index.entry_points, [alone] * len(index.layers)),
        {},
    )
    failed = nann(*preflight, tmp_path / "broken", *options, "--search", "rounds")
    assert failed.exit_code == 1
    assert "should not be deployed: coverage" in str(failed.exception)
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "FAIL"


def test_help_shows_examples():
    for command in ("evaluate", "report", "tune", "preflight"):
        assert f"Example: nann {command}" in nann(command, "--help").output
