"""The paper's experiment: its runs and their order, and its tables, with evaluations of a small model."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.paper import run as paper
from benchmarks.paper.tables import figures_of, tables
from tfserving_ext.errors import NannError
from tfserving_ext.evaluation import EvaluationOptions, HeldOut, evaluate
from tfserving_ext.evaluation.compare import load
from tfserving_ext.evaluation.intervals import Bootstrap


def test_the_plan_has_what_the_paper_asks_for():
    runs = paper.plan()
    names = [run.name for run in runs]
    assert len(set(names)) == len(names)
    for place, run in enumerate(runs):
        assert not run.start or names.index(run.start) < place
    assert {(run.model, run.epsilon) for run in runs if run.searches and run.in_full} == {
        (model, epsilon) for model in ("two_sided", "dnn", "nann_attention") for epsilon in (0.0, 0.1)
    }
    assert {run.epsilon for run in runs if run.by_epsilon} == set(paper.EPSILONS)
    for kind in ("attention_seed", "two_sided_long_seed"):
        assert {run.seed for run in runs if run.name.startswith(kind)} == {0, 1, 2}


def test_what_is_finished_is_not_run_again_and_a_failure_ends_it(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    runs = [paper.Run("start", "two_sided", 0.0), paper.Run("deep", "dnn", 0.1, start="start", searches=False)]
    monkeypatch.setattr(paper, "plan", lambda: runs)
    monkeypatch.setattr(paper, "figures_of", lambda folder: {"name": folder.name})
    asked = []

    def run_nann(*arguments, log, environment):
        asked.append([str(argument) for argument in arguments])
        target = arguments[arguments.index("-o") + 1]
        target.write_text("made")

    monkeypatch.setattr(paper, "run_nann", run_nann)
    found = paper.Experiment(tmp_path, 2).measure()
    assert [run["name"] for run in found] == ["start", "deep"]
    assert [arguments[0] for arguments in asked].count("evaluate") == 2
    deep = next(arguments for arguments in asked if arguments[0] == "train" and "dnn" in arguments)
    assert deep[deep.index("--start-from") + 1] == str(tmp_path / "start" / "model")
    brute_force = [arguments for arguments in asked if "--brute-force" in arguments]
    assert [str(tmp_path / "deep" / "model") in arguments for arguments in brute_force] == [True]
    asked.clear()
    (tmp_path / "deep" / "index").unlink()
    paper.Experiment(tmp_path, 1).measure()
    assert [arguments[0] for arguments in asked] == ["index"]

    def fails(*_, **__):
        raise NannError("it failed")

    monkeypatch.setattr(paper, "run_nann", fails)
    (tmp_path / "start" / "model").unlink()
    with pytest.raises(NannError, match="it failed"):
        paper.Experiment(tmp_path, 2).measure()


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """A folder in which the results of one small model stand for all runs."""
    root = tmp_path_factory.mktemp("paper")
    kinds = {
        "two_sided_seed0": ("two_sided", 0.0),
        "two_sided_long_seed0": ("two_sided", 0.0),
        "attention_seed0": ("nann_attention", 0.1),
        "attention_epsilon0": ("nann_attention", 0.0),
    }
    for name in kinds:
        shutil.copytree(world.model, root / name / "model")
    asked = {"held_out": HeldOut(20, 3), "options": EvaluationOptions(html=False, resamples=100)}
    first = root / "attention_seed0"
    evaluate(world.data, world.model, world.index, first / "evaluation.json", **asked)
    evaluate(
        world.data,
        world.model,
        world.index,
        first / "epsilon.json",
        **asked | {"options": replace(asked["options"], builds=1)},
    )
    for name, (model, epsilon) in kinds.items():
        files = ("evaluation",) if model == "two_sided" else ("evaluation", "epsilon")
        for file in files if root / name != first else ():
            for suffix in (".json", ".npz"):
                shutil.copy(first / f"{file}{suffix}", root / name / f"{file}{suffix}")
        for path in root.joinpath(name).rglob("*.json"):
            found = json.loads(path.read_text())
            if path.name == "model.json":
                found["model"] = model
                found["training"]["epsilon"] = epsilon
            elif "model" in found:
                found["model"]["model"] = model
                found["model"]["training"]["epsilon"] = epsilon
            path.write_text(json.dumps(found))
    return root


def test_tables_tell_what_the_evaluations_say(folder):
    runs = [figures_of(each) for each in sorted(folder.iterdir())]
    text = tables(folder, runs)
    figures = json.loads((folder / "attention_seed0" / "evaluation.json").read_text())
    assert text.count(f"{figures['recall_all']:.4f}") >= 3
    assert "+0.0000 (+0.0000 to +0.0000)" in text  # The difference of the model from itself.
    own = figures["baselines"]["own_history"]["20"]
    low, high = own["difference_interval"]
    assert f"{own['model_minus_baseline']:+.4f} ({low:+.4f} to {high:+.4f})" in text
    for search in figures["searches"].values():
        assert f"| {search['coverage']:.4f} |" in text
    built = json.loads((folder / "attention_seed0" / "epsilon.json").read_text())["builds"]["rounds"]
    assert ", ".join(f"{graph['coverage']:.4f}" for graph in built["graphs"]) in text
    (evaluation,) = load([folder / "attention_epsilon0" / "epsilon.json"])
    covered = evaluation.coverage("rounds")
    low, high = Bootstrap(evaluation.cases["user_ids"]).interval(covered)
    assert f"{np.mean(covered):.4f} ({low:.4f} to {high:.4f})" in text
