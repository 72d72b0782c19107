"""The interface of the ops, and which of its changes keep every saved graph loadable.

The rule (docs/compatibility.md) follows from how TensorFlow loads graphs saved before a change: a node holds its inputs
by position, and attributes that it does not name get their defaults. Therefore:

- an op keeps its name, its inputs and its outputs: names, types and order;
- an attribute keeps its name, its type and its default; it may come to allow more values;
- a new attribute has a default;
- a new input or output is a list, whose length or types are a new attribute with an empty default.
"""

from typing import Any

from google.protobuf import json_format
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.framework import op_def_registry

from tfserving_ext.ops import load

# Ops that run at export, which no SavedModel holds.
NOT_SAVED = {"Nann>DescribeScorer", "Nann>RewriteScorer"}


def registered() -> dict[str, op_def_pb2.OpDef]:
    """Returns the registered ops that SavedModels may hold, by name."""
    functions = [name for name in dir(load()) if name.startswith("nann_") and not name.endswith("_eager_fallback")]
    names = {"Nann>" + name.removeprefix("nann_").title().replace("_", "") for name in functions}
    return {name: op_def_registry.get(name) for name in sorted(names - NOT_SAVED)}


def described() -> dict[str, Any]:
    """Returns these ops in a form that JSON can hold."""
    return {name: json_format.MessageToDict(op) for name, op in registered().items()}


def recorded(interface: dict[str, Any]) -> dict[str, op_def_pb2.OpDef]:
    """Returns the ops that `described` gave, by name."""
    return {name: json_format.ParseDict(op, op_def_pb2.OpDef()) for name, op in interface.items()}


def breaking_changes(old: op_def_pb2.OpDef, new: op_def_pb2.OpDef) -> list[str]:
    """Lists the changes in `new` that keep a graph saved with `old` from loading, or that change its meaning."""
    before, after = ({attr.name: attr for attr in op.attr} for op in (old, new))
    added = {name: attr for name, attr in after.items() if name not in before}
    found = [f"attribute {name} is gone" for name in before if name not in after]
    found += [f"new attribute {name} has no default" for name, attr in added.items() if not _has_default(attr)]
    for name in before.keys() & after.keys():
        found += _attribute_changes(before[name], after[name])
    for kind, was, now in (("inputs", old.input_arg, new.input_arg), ("outputs", old.output_arg, new.output_arg)):
        kept = [_signature(arg) for arg in now if not _is_empty_list(arg, added)]
        if kept != [_signature(arg) for arg in was]:
            found.append(f"{kind} were {[_signature(arg) for arg in was]}, without new lists they are {kept}")
    if old.is_stateful != new.is_stateful:
        found.append("it changed whether it is stateful")
    return found


def _attribute_changes(old: op_def_pb2.OpDef.AttrDef, new: op_def_pb2.OpDef.AttrDef) -> list[str]:
    found = []
    if old.type != new.type:
        found.append(f"attribute {old.name} was of type {old.type}, it is {new.type}")
    if _has_default(old) and (not _has_default(new) or old.default_value != new.default_value):
        found.append(f"attribute {old.name} has another default")
    if new.has_minimum and (not old.has_minimum or new.minimum > old.minimum):
        found.append(f"attribute {old.name} has the minimum {new.minimum}")
    if _is_limited(new) and (not _is_limited(old) or _values(old) - _values(new)):
        found.append(f"attribute {old.name} allows {sorted(_values(new))} only")
    return found


def _has_default(attr: op_def_pb2.OpDef.AttrDef) -> bool:
    return attr.HasField("default_value")


def _is_limited(attr: op_def_pb2.OpDef.AttrDef) -> bool:
    return attr.HasField("allowed_values")


def _values(attr: op_def_pb2.OpDef.AttrDef) -> set[Any]:
    return {*attr.allowed_values.list.s, *attr.allowed_values.list.type}


def _signature(arg: op_def_pb2.OpDef.ArgDef) -> str:
    return f"{arg.name}: {arg.type} {arg.type_attr} {arg.number_attr} {arg.type_list_attr} {arg.is_ref}"


def _is_empty_list(arg: op_def_pb2.OpDef.ArgDef, added: dict[str, op_def_pb2.OpDef.AttrDef]) -> bool:
    """Returns whether an argument is a new list, which is empty in a graph that does not know it."""
    attr = added.get(arg.type_list_attr or arg.number_attr)
    return attr is not None and _has_default(attr) and not attr.default_value.list.type and attr.default_value.i == 0
