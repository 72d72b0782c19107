"""The demo's stages: which are reused and which run again, and the whole demo with the checkpoint's model."""

import json
import re
from dataclasses import replace

import pytest

from tfserving_ext import evaluation
from tfserving_ext.demo import run_demo
from tfserving_ext.demo.checkpoint import facts
from tfserving_ext.demo.stages import Stages
from tfserving_ext.errors import NannError


class StageError(Exception):
    pass


def stage(stages, work=lambda path: path.write_text("made"), parameters=None, inputs=(), name="first"):
    made = []

    def counted(path):
        made.append(path)
        work(path)

    result = stages.run(name, f"{name}.txt", parameters or {}, list(inputs), counted, lambda path: path.read_text())
    return result, bool(made)


def test_a_finished_stage_is_reused_by_the_next_run(tmp_path):
    first, made = stage(Stages(tmp_path))
    assert made
    again, made = stage(Stages(tmp_path))
    assert not made
    assert again.identity == first.identity


def test_parameters_inputs_and_results_decide(tmp_path):
    stages = Stages(tmp_path)
    first, _ = stage(stages)
    second, _ = stage(stages, inputs=[first], name="second")
    assert not stage(stages, inputs=[first], name="second")[1]
    changed, made = stage(stages, parameters={"steps": 2})
    assert made
    assert stage(stages, inputs=[changed], name="second")[1]
    second.path.unlink()
    assert stage(stages, inputs=[changed], name="second")[1]


def test_an_interrupted_stage_is_made_anew(tmp_path):
    stages = Stages(tmp_path)
    stage(stages)

    def interrupted(path):
        raise StageError

    with pytest.raises(StageError):
        stage(stages, interrupted, {"steps": 2})
    # The result of the earlier parameters still exists, but its record must be gone.
    assert stage(Stages(tmp_path), parameters={"steps": 2})[1]


def test_another_stage_s_result_does_not_pass_for_its_own(tmp_path):
    stages = Stages(tmp_path)
    result, parameters = "model.txt", {"steps": 2}
    stages.run("train", result, parameters, [], lambda path: path.write_text("trained"), str)
    assert stages.has("train", result, parameters, [])
    stages.run("restore", result, parameters, [], lambda path: path.write_text("restored"), str)
    assert not Stages(tmp_path).has("train", result, parameters, [])


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder of a demo, and a function that runs it; only some of the test cases are evaluated."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        yield folder, lambda **options: _demo(folder, patch, **options)


def _demo(folder, patch, **options):
    patch.setattr("tfserving_ext.evaluation.evaluate", _some_cases)
    run_demo(folder, **options)


def _some_cases(*arguments, **options):
    return evaluation.run.evaluate(*arguments, **options | {"held_out": replace(options["held_out"], max_cases=30)})


def test_the_demo_with_the_checkpoint(demo, capsys):
    """The checkpoint's model answers a request; the output says that it was not trained here and how to train it.

    First contact, line 2.
    """
    folder, run = demo
    run()
    text = capsys.readouterr().out
    assert "read from the checkpoint that comes with nann, not trained here" in text
    assert "make demo TRAIN=1" in text
    assert "the same 10 ids by gRPC, REST, in process" in text
    assert "--positions 9" in text
    figures = json.loads((folder / "evaluation.json").read_text())
    for search in ("best_first", "rounds"):
        assert f"coverage@200 {figures['searches'][search]['coverage']:.4f}" in text
        assert figures["searches"][search]["coverage"] > 0.98
    assert figures["positions_per_user"] == 1
    # As good as the trained model, whose recall over all cases is 0.45; that of the most popular items is 0.17.
    assert figures["recall_all"] > figures["baselines"]["most_popular"]["200"]["recall"] + 0.1
    assert json.loads((folder / "model" / "model.json").read_text())["training"]["checkpoint"] == {
        "sha256": facts()["sha256"],
        "stored": "float16",
    }
    # Products are shown by name, which Complete Journey has in capitals.
    assert len(re.findall(r"[A-Z]{3,}[A-Z /&,.-]+", text)) > 20


def test_a_second_run_reuses_everything(demo, capsys):
    demo[1]()
    assert capsys.readouterr().out.count("(reused)") == 8


@pytest.mark.parametrize(("options", "steps"), [({"train": True}, 5000), ({"steps": 7}, 7)])
def test_training_is_asked_for(demo, monkeypatch, options, steps):
    """Training begins with the two-sided model, for the default or the given number of steps."""
    asked = []

    def noted(data, target, config, *rest):
        asked.append((target.name, config.steps))
        raise StageError

    monkeypatch.setattr("tfserving_ext.training.fit", noted)
    with pytest.raises(StageError):
        demo[1](**options)
    assert asked == [("two_sided", steps)]


def test_what_was_trained_here_is_kept(demo, monkeypatch):
    """A later run without `--train` neither trains again nor replaces the model by the checkpoint's."""
    trained, made = [], (demo[0] / "model" / "model.json").read_text()

    def noted(data, target, *rest):
        trained.append(target.name)
        target.mkdir(exist_ok=True)
        (target / "model.json").write_text(made)

    def not_further(*arguments):
        raise StageError

    monkeypatch.setattr("tfserving_ext.training.fit", noted)
    monkeypatch.setattr("tfserving_ext.training.extract", not_further)
    for options in ({"train": True}, {}):
        with pytest.raises(StageError):
            demo[1](**options)
    assert trained == ["two_sided", "model"]


def test_steps_have_a_range(demo):
    with pytest.raises(NannError, match="steps is 0"):
        demo[1](steps=0)
