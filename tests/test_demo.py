"""The demo's stages: what is reused, what is made anew, and the whole road with a barely trained model."""

import json
import re

import pytest

from tfserving_ext import demo
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
    first, made = stage(demo._Stages(tmp_path))
    assert made
    again, made = stage(demo._Stages(tmp_path))
    assert not made
    assert again.identity == first.identity


def test_parameters_inputs_and_results_decide(tmp_path):
    stages = demo._Stages(tmp_path)
    first, _ = stage(stages)
    second, _ = stage(stages, inputs=[first], name="second")
    assert not stage(stages, inputs=[first], name="second")[1]
    changed, made = stage(stages, parameters={"steps": 2})
    assert made
    assert stage(stages, inputs=[changed], name="second")[1]
    second.path.unlink()
    assert stage(stages, inputs=[changed], name="second")[1]


def test_an_interrupted_stage_is_made_anew(tmp_path):
    stages = demo._Stages(tmp_path)
    stage(stages)

    def interrupted(path):
        raise StageError

    with pytest.raises(StageError):
        stage(stages, interrupted, {"steps": 2})
    # The result of the earlier parameters is still there; its record must not be.
    assert stage(demo._Stages(tmp_path), parameters={"steps": 2})[1]


def test_the_whole_road(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "POSITIONS_PER_USER", 1)
    demo.run_demo(tmp_path, steps=3)
    text = capsys.readouterr().out
    assert "the same 10 ids by gRPC, REST, in process" in text
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    for search in ("best_first", "rounds"):
        assert f"coverage@200 {figures['searches'][search]['coverage']:.4f}" in text
    assert figures["cases"] == 246
    # Product names, not numbers: Complete Journey has them in capitals.
    assert len(re.findall(r"[A-Z]{3,}[A-Z /&,.-]+", text)) > 20
    demo.run_demo(tmp_path, steps=3)
    again = capsys.readouterr().out
    assert again.count("(reused)") == text.count(" s)") == 9
    with pytest.raises(NannError, match="steps is 0"):
        demo.run_demo(tmp_path, steps=0)
