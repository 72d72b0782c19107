"""Saved models hold these ops, so no change of them may keep a model from loading."""

import json
from pathlib import Path

import pytest
from tensorflow.core.framework import op_def_pb2, types_pb2

from tests.compatibility.interface import breaking_changes, recorded, registered
from tests.compatibility.make_version_1 import FOLDER

VERSION_1 = recorded(json.loads((FOLDER / "ops.json").read_text()))
# Ops that came later, each recorded as it came: `json.dumps(described()[name], indent=1)`.
ADDED = recorded(json.loads(Path(__file__).with_name("added_ops.json").read_text()))
SAVED = {**VERSION_1, **ADDED}


@pytest.mark.parametrize("name", SAVED)
def test_an_op_takes_and_answers_what_it_did(name):
    now = registered()
    assert name in now, "an op that saved models hold is gone"
    assert breaking_changes(SAVED[name], now[name]) == []


def test_every_op_of_saved_models_is_recorded():
    assert set(registered()) == set(SAVED), "a new op: record the interface of the version that brings it"


def changed(change) -> op_def_pb2.OpDef:
    op = op_def_pb2.OpDef()
    op.CopyFrom(VERSION_1["Nann>BestFirstSearch"])
    change(op)
    return op


def attribute(op, name):
    return next(attr for attr in op.attr if attr.name == name)


def add_attribute(op, type="int", **default):
    attr = op.attr.add(name="new", type=type)
    for name, value in default.items():
        setattr(attr.default_value, name, value)
    return attr


def add_list(op, args, default=0):
    add_attribute(op, i=default)
    args.add(name="more", type=types_pb2.DT_INT64, number_attr="new")


def add_type_list(op):
    add_attribute(op, "list(type)").default_value.list.SetInParent()
    op.input_arg.insert(3, op_def_pb2.OpDef.ArgDef(name="more", type_list_attr="new"))


@pytest.mark.parametrize(
    "change",
    [
        lambda op: None,
        lambda op: add_attribute(op, i=3),
        lambda op: add_attribute(op, "bool", b=True),
        lambda op: add_list(op, op.input_arg),
        lambda op: add_list(op, op.output_arg),
        add_type_list,
        lambda op: attribute(op, "placement").allowed_values.list.s.append(b"gpu"),
        lambda op: attribute(op, "metric").ClearField("allowed_values"),
        lambda op: setattr(attribute(op, "Tuser"), "minimum", 0),
    ],
)
def test_changes_that_keep_saved_models_loadable_are_allowed(change):
    assert breaking_changes(VERSION_1["Nann>BestFirstSearch"], changed(change)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda op: add_attribute(op), "new attribute new has no default"),
        (lambda op: op.attr.remove(attribute(op, "rewrite")), "attribute rewrite is gone"),
        (lambda op: setattr(attribute(op, "rewrite"), "name", "optimize"), "attribute rewrite is gone"),
        (lambda op: setattr(attribute(op, "rewrite"), "type", "int"), "was of type bool, it is int"),
        (lambda op: setattr(attribute(op, "rewrite").default_value, "b", False), "rewrite has another default"),
        (lambda op: attribute(op, "rewrite").ClearField("default_value"), "rewrite has another default"),
        (lambda op: setattr(attribute(op, "Tuser"), "minimum", 2), "Tuser has the minimum 2"),
        (lambda op: attribute(op, "metric").allowed_values.list.s.pop(), "metric allows"),
        (lambda op: attribute(op, "scorer").allowed_values.list.s.append(b"one"), "scorer allows"),
        (lambda op: setattr(op.input_arg[5], "name", "beam"), "inputs were"),
        (lambda op: setattr(op.input_arg[5], "type", types_pb2.DT_INT64), "inputs were"),
        (lambda op: op.input_arg.insert(0, op.input_arg.pop()), "inputs were"),
        (lambda op: op.input_arg.pop(), "inputs were"),
        (lambda op: op.input_arg.add(name="more", type=types_pb2.DT_INT64), "inputs were"),
        (lambda op: add_list(op, op.input_arg, default=1), "inputs were"),
        (lambda op: op.output_arg.add(name="more", type=types_pb2.DT_INT64), "outputs were"),
        (lambda op: add_list(op, op.output_arg, default=1), "outputs were"),
        (lambda op: op.output_arg.pop(), "outputs were"),
        (lambda op: setattr(op, "is_stateful", False), "stateful"),
    ],
)
def test_changes_that_break_saved_models_are_found(change, words):
    found = breaking_changes(VERSION_1["Nann>BestFirstSearch"], changed(change))
    assert any(words in each for each in found), found
