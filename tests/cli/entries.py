"""For every option of every command a value that is not its default, and what of the function behind it then changes.

A new option needs an entry here: tests/cli/test_options.py fails by its name until it has one. Where options make a
command fail or need others, `beside` holds what stands on both command lines that are compared.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

GONE = "not there"  # The function is not called, or has no such argument.


class Option(NamedTuple):
    """One option.

    Attributes:
      value: that it is given, with spaces between several; None for a flag.
      changed: what changes by it, by function and argument; `GONE` for what is not there any more. A name that ends in
        ".*": anything under it may change besides.
      beside: what else is on the command line.
      without: arguments of the command that are left out where it is given, and where `beside` is in their place.
    """

    value: str | None
    changed: Mapping[str, Any]
    beside: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


class Command(NamedTuple):
    """One command.

    Attributes:
      arguments: what it cannot do without, by name.
      behind: the functions that must be reached, as "module:name", and what each returns.
      around: functions that only must not run, and what each returns.
      options: its options and arguments by the name of their parameter.
    """

    arguments: Mapping[str, str]
    behind: Mapping[str, Any]
    around: Mapping[str, Any]
    options: Mapping[str, Option]


# What the tests' folder holds.
FILES = {
    "bench.yaml": "target: grpc://10.0.0.1:1\n",
    "models.config": 'model_config_list { config { name: "a" base_path: "/b" model_platform: "tensorflow" } }',
    "UserBehavior.csv": "",
    "other.csv": "",
}


def arguments(*names: str) -> dict[str, str]:
    """Arguments that have their names for values."""
    return {name: name for name in names}


def search(function: str, shape: str) -> dict[str, Option]:
    """The options of both searches; `shape` has a place for the search's name."""
    return {
        "frontier": Option("7", {f"{function}.{shape.format('best_first')}.frontier": 7}),
        "pool": Option("321", {f"{function}.{shape.format('best_first')}.pool": 321}),
        "ef": Option("3,4,5", {f"{function}.{shape.format('rounds')}.ef": (3, 4, 5)}),
        "rounds": Option("2,3,4", {f"{function}.{shape.format('rounds')}.rounds": (2, 3, 4)}),
    }
